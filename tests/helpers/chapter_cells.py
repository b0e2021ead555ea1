"""Cells of a chapter run by themselves, one piece of code changed: does the claim still hold?"""

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from unittest import mock

import matplotlib

from llmbook.book.root import find_root

matplotlib.use("Agg")
CHAPTERS = find_root(Path(__file__).parent) / "chapters"


def cells_of(notebook):
    """{a cell's name, which is its id behind the first dash: its source}."""
    read = json.loads((CHAPTERS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    return {cell["id"].partition("-")[2]: "".join(cell["source"]) for cell in read}


def execute(notebook, names, old=None, new=None):
    """Run cells at `smoke` in a fresh namespace, `old` changed to `new`; what they printed."""
    found = cells_of(notebook)
    cells = [found[name] for name in names]
    if old is not None:
        assert sum(cell.count(old) for cell in cells) == 1, f"{old!r} must occur once"
        cells = [cell.replace(old, new) for cell in cells]
    space = {"profile": "smoke", "seed": 0, "__name__": "chapter"}
    with (
        contextlib.redirect_stdout(io.StringIO()) as printed,
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ),  # what a chapter asks of Triton is not asked of other tests
    ):
        for name, cell in zip(names, cells, strict=True):
            path = Path(folder, f"{name}.py")  # a file, as a chapter may count lines of its own
            path.write_text(cell, encoding="utf-8")
            exec(compile(cell, str(path), "exec"), space)
    return printed.getvalue()
