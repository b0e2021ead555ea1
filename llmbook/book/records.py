"""What the book keeps as files: the ledger of claims, and what chapters measured before.

Each chapter's rows lie in a file of its own, `ledger/<chapter>.json`, and so does what was
recorded about it, `recorded/<chapter>.json`: a chapter reads its own files, and an edit of
another's does not make it run again.
"""

import functools
import json
from importlib import resources

VERDICTS = ("wrong", "dated", "debatable", "loose", "correct")  # what changes a belief first


def _read(folder, name):
    """The JSON of a file beside this module, or None when there is none."""
    file = resources.files("llmbook.book").joinpath(folder, f"{name}.json")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


@functools.cache
def rows_of(chapter):
    """The rows of one chapter of the ledger, by id; empty for a chapter that it does not know."""
    return {row["id"]: row for row in _read("ledger", chapter) or []}


def ledger():
    """Every row of the ledger by id, in the order of the chapters' files."""
    rows = {}
    for chapter in ledger_chapters():
        rows.update(rows_of(chapter))
    return rows


def ledger_chapters():
    """The names of the chapters that the ledger knows."""
    files = resources.files("llmbook.book").joinpath("ledger").iterdir()
    return sorted(file.name.removesuffix(".json") for file in files if file.suffix == ".json")


@functools.cache
def recorded(chapter):
    """The calibrated spread: {claim id: {measured name: [one value per seed]}}, plus `"_run"`.

    `"_run"` tells hardware, versions, seeds, command, date and commit. Empty when nothing has been
    recorded for the chapter.
    """
    return _read("recorded", chapter) or {}


@functools.cache
def papers_of(chapter):
    """{key: (short name, address)} of the publications that a chapter's rows name.

    ("Vaswani et al. 2017", "https://…"); the address may be "". `python -m llmbook tidy` writes
    the files from the bibliography, which is not there on Colab.
    """
    return {key: tuple(both) for key, both in (_read("papers", chapter) or {}).items()}
