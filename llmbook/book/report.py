"""What executed chapters tell: the claims they settled, and how and when they ran.

The Claims and Status pages are drawn from this, and the tests ask it the same questions. Nothing
here knows the program that builds the pages.
"""

import copy
import dataclasses
import json
from collections import Counter
from pathlib import Path

from llmbook.book.claims import CLAIM_MIME
from llmbook.book.records import VERDICTS, ledger, recorded
from llmbook.book.root import outputs_with, read_notebook

VIEW_MIME = "application/vnd.jupyter.widget-view+json"
STATE_MIME = "application/vnd.jupyter.widget-state+json"
_OWN_MIME = "application/vnd.llmbook."


def settled(executed):
    """The claims that an executed notebook settled, in its order.

    `executed` is a path or a notebook's JSON. Each claim is the record that `claim` published
    (`id`, `measured`, `holds`, `judged`, `bounds`) with `cell`, the position of its cell.
    """
    notebook = _notebook(executed)
    return [
        {**out["data"][CLAIM_MIME], "cell": position}
        for position, cell in enumerate(notebook["cells"])
        for out in cell.get("outputs", [])
        if CLAIM_MIME in out.get("data", {})
    ]


@dataclasses.dataclass(frozen=True)
class Chapter:
    """One executed chapter: its name and title, how it ran, and its rows of the ledger."""

    name: str
    title: str
    run: dict
    rows: list

    @property
    def settled(self):
        """How many rows of the ledger this execution settled."""
        return sum(1 for _, record in self.rows if record is not None)


def chapter(name, executed):
    """Read one executed copy: `rows` pairs each ledger row with its claim record, or with None.

    Rows come in the order in which the chapter settles them; those that it does not, last.
    """
    notebook = _notebook(executed)
    records = {record["id"]: record for record in settled(notebook)}
    own = {id: row for id, row in ledger().items() if row["chapter"] == name}
    order = [id for id in records if id in own] + [id for id in own if id not in records]
    return Chapter(
        name,
        _title(notebook) or name,
        notebook["metadata"].get("llmbook", {}),
        [(own[id], records.get(id)) for id in order],
    )


def verdicts(chapters):
    """{verdict: how many settled rows have it}, in the order of `VERDICTS`."""
    count = Counter(row["verdict"] for c in chapters for row, record in c.rows if record)
    return {verdict: count[verdict] for verdict in VERDICTS if count[verdict]}


def waiting(chapters):
    """How many rows of the ledger belong to chapters that are not among these, by chapter."""
    there = {c.name for c in chapters}
    return dict(Counter(r["chapter"] for r in ledger().values() if r["chapter"] not in there))


def recorded_runs(chapters):
    """The recorded calibration runs of these chapters: (chapter, what is told of the run)."""
    return [(c, run) for c in chapters if (run := recorded(c.name).get("_run"))]


def page_source(executed):
    """The executed notebook as the page's parser wants it, as JSON text: `page_notebook`."""
    return json.dumps(page_notebook(executed), ensure_ascii=False)


def page_notebook(executed):
    """What a page holds of an executed notebook.

    Data that only programs read (this book's MIME types, papermill's metadata), the cell in which
    papermill put the parameters, and weights that pages share (`shared_weights`) are left out.
    """
    notebook = copy.deepcopy(_notebook(executed))
    for view in _widgets(notebook):
        if view["state"].get("weights_name"):
            view["state"].pop("weights", None)
            view["buffers"] = [b for b in view.get("buffers", []) if b["path"] != ["weights"]]
    hidden = ("papermill", "llmbook")
    notebook["metadata"] = {k: v for k, v in notebook["metadata"].items() if k not in hidden}
    notebook["cells"] = [
        _page_cell(cell)
        for cell in notebook["cells"]
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]
    return notebook


def shared_weights(executed):
    """{name: (shapes, base64)} of the weights with which a notebook's figures compute."""
    found = {}
    for view in _widgets(_notebook(executed)):
        name = view["state"].get("weights_name")
        for buffer in view.get("buffers", []) if name else []:
            if buffer["path"] == ["weights"]:
                found[name] = (view["state"]["weights_shapes"], buffer["data"])
    return found


def figure(executed, name):
    """(view, state) of the first interactive figure of that name, as a page holds them; or None.

    Weights that pages share are left out, as `page_notebook` does.
    """
    notebook = page_notebook(executed)
    states = notebook["metadata"].get("widgets", {}).get(STATE_MIME, {}).get("state", {})
    for view in outputs_with(notebook, VIEW_MIME):
        model = states.get(view["model_id"], {})
        if model.get("state", {}).get("name") == name:
            held = {view["model_id"]: model}
            for value in model["state"].values():
                if isinstance(value, str) and value.startswith("IPY_MODEL_"):
                    other = value.removeprefix("IPY_MODEL_")
                    held[other] = states[other]
            return view, {"state": held, "version_major": 2, "version_minor": 0}
    return None


def _widgets(notebook):
    """The stored widgets of a notebook, each with its state and its buffers."""
    stored = notebook["metadata"].get("widgets", {})
    return [
        view
        for kept in stored.values()
        for view in kept.get("state", {}).values()
        if isinstance(view.get("state"), dict)
    ]


def _page_cell(cell):
    cell = {**cell, "metadata": {k: v for k, v in cell["metadata"].items() if k != "papermill"}}
    if "outputs" in cell:
        cell["outputs"] = [_page_output(out) for out in cell["outputs"]]
    return cell


def _page_output(out):
    if "data" not in out:
        return out
    return {**out, "data": {k: v for k, v in out["data"].items() if not k.startswith(_OWN_MIME)}}


def _notebook(executed):
    if isinstance(executed, (str, Path)):
        return read_notebook(executed)
    return executed


def _title(notebook):
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for line in "".join(cell["source"]).splitlines():
                if line.startswith("# "):
                    return line[2:].strip()
    return ""
