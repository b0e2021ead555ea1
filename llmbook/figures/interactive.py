"""The base of the book's interactive figures: state from Python, drawn wholly in the browser.

A subclass names its script and declares its state as traitlets tagged `sync=True`:

    class Dice(Interactive):
        script = "dice.js"
        sides = traitlets.Int(6).tag(sync=True)

The script is an ES module beside the .py file that ends in `export default { render }`. It may use
what `common.js` defines (`frame`, `slider`, `choice`, `chart`, …), which is put in front of it.
Nothing in it calls back into Python, so the figure also works in a page without a kernel.
"""

import inspect
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from .style import check_alt

_HERE = Path(__file__).parent


class Interactive(anywidget.AnyWidget):
    """An interactive figure with a text alternative; leave it as a cell's last expression.

    `alt` says in a sentence what the figure shows and lets the reader change. It names the figure
    to a screen reader, is read out with the present numbers, and stands for the figure where only
    text can be shown: `[interactive: …]`. Raises ValueError when it is missing or too short.
    """

    script = ""
    alt = traitlets.Unicode("").tag(sync=True)
    name = traitlets.Unicode("").tag(sync=True)
    caption = traitlets.Unicode("").tag(sync=True)

    def __init_subclass__(cls, **kwargs):
        if "script" in cls.__dict__:
            own = Path(inspect.getfile(cls)).with_name(cls.script)
            cls._esm = (_HERE / "common.js").read_text("utf-8") + own.read_text("utf-8")
            cls._css = (_HERE / "common.css").read_text("utf-8")
        super().__init_subclass__(**kwargs)

    def __init__(self, **state):
        state["alt"] = check_alt(state.get("alt", type(self).alt.default_value), "interactive")
        state.setdefault("name", self.script.removesuffix(".js"))
        super().__init__(**state)

    @traitlets.validate("alt")
    def _usable_alt(self, proposal):
        return check_alt(proposal["value"], "interactive")

    def __repr__(self):
        return f"[interactive: {self.alt}]"


def numbers(array, digits=6):
    """An array as nested lists of short numbers, for a widget's state."""
    return np.round(np.asarray(array, dtype=float), digits).tolist()
