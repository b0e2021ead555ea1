"""The curves of a run, drawn while it goes on: in a notebook, and nowhere else."""

import math
import sys
import time
from numbers import Real


class LivePlot:
    """Loss curves that redraw themselves in a notebook; outside of one it does nothing."""

    def __init__(self, seconds=2.0):
        self.seconds, self._handle, self._drawn = seconds, None, -math.inf
        self.active = _in_notebook()

    def update(self, history):
        """Redraw, at most every few seconds."""
        if not self.active or time.monotonic() - self._drawn < self.seconds:
            return
        from IPython.display import display

        self._drawn = time.monotonic()
        figure = self.draw(history)
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)

    @staticmethod
    def draw(history):
        """The figure: training and validation loss in nats a token against steps.

        Below it, one panel for each number that the run noted besides, such as a reward.
        """
        from matplotlib.figure import Figure

        noted = {n: c for n, c in history.noted.items() if all(isinstance(v, Real) for _, v in c)}
        figure = Figure(figsize=(6, 3 + 1.5 * len(noted)), layout="constrained")
        ratios = [2] + [1] * len(noted)
        panels = figure.subplots(1 + len(noted), squeeze=False, height_ratios=ratios)[:, 0]
        panels[0].plot(history.steps, history.losses, lw=0.8, label="training")
        if history.validation:
            panels[0].plot(*zip(*history.validation, strict=True), "o-", label="validation")
        panels[0].set(ylabel="loss in nats a token")
        panels[0].legend()
        for axes, (name, curve) in zip(panels[1:], noted.items(), strict=True):
            axes.plot(*zip(*curve, strict=True), lw=0.8)
            axes.set(ylabel=name)
        panels[-1].set(xlabel="step")
        return figure


def _in_notebook():
    shell = sys.modules.get("IPython")
    shell = shell.get_ipython() if shell else None
    return shell is not None and hasattr(shell, "kernel")
