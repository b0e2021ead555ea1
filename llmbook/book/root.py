"""Where the book lies: its folder, its chapters, its repository's address, its notebooks' JSON."""

import itertools
import json
import re
from pathlib import Path


def find_root(start=None):
    """The book's folder: the nearest one that has `_toc.yml`, from `start` (or here) upwards."""
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "_toc.yml").is_file():
            return folder
    raise FileNotFoundError(f"no book here: neither {start} nor a folder above it holds _toc.yml")


def listed(root):
    """[(caption, [page])] of `_toc.yml`; before the first caption stand the front page and what
    belongs to no part.
    """
    parts = []
    text = (root / "_toc.yml").read_text(encoding="utf-8")
    for key, value in re.findall(r"^[\s-]*(root|caption|file): *(.+?) *$", text, re.MULTILINE):
        if key != "file":
            parts.append(("Chapters" if key == "root" else value, []))
        if key != "caption":
            parts[-1][1].append(value)
    return parts


def chapters(root=None):
    """The chapter notebooks, in the order of `_toc.yml`."""
    root = find_root(root)
    pages = [page for _, pages in listed(root) for page in pages]
    return [path for page in pages if (path := root / f"{page}.ipynb").is_file()]


def find_chapter(name, root=None):
    """The notebook of a chapter, given its name or a path."""
    known = {path.stem: path for path in chapters(root)}
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    raise ValueError(
        f"chapter must be one of {', '.join(known)} or a path to a notebook: got {name!r}"
    )


def address(root):
    """The repository's address that `_config.yml` holds, or "" while there is none."""
    found = re.search(
        r"^repository:\n  url: (\S+)$",
        (root / "_config.yml").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return found.group(1) if found else ""


def read_notebook(path):
    """A notebook's JSON. Raises ValueError, naming the file, for what is not a notebook."""
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8, or not JSON
        raise ValueError(f"{path} is not a notebook: {error}") from error
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list) or not all(_is_cell(cell) for cell in cells):
        raise ValueError(f"{path} is not a notebook: it has no list of cells (nbformat 4)")
    return notebook


def _is_cell(cell):
    return isinstance(cell, dict) and isinstance(cell.get("outputs", []), list)


def with_ids(notebook):
    """The notebook, each cell under an id of its own: one that is missing or repeated is replaced.

    The new ids follow from the order of the cells alone, so the notebook and its executed copy get
    the same ones.
    """
    cells, taken = [], {cell.get("id") for cell in notebook["cells"]}
    given = set()
    for number, cell in enumerate(notebook["cells"]):
        id = cell.get("id")
        if not id or id in given:
            id = next(new for i in itertools.count() if (new := f"cell-{number + i}") not in taken)
            taken.add(id)
        given.add(id)
        cells.append({**cell, "id": id, "metadata": cell.get("metadata", {})})
    return {**notebook, "cells": cells}


def joined(outputs):
    """A cell's outputs, streams of one name in a row as one: they come in pieces, as flushed."""
    kept = []
    for out in outputs:
        if out["output_type"] == "stream" and kept and kept[-1].get("name") == out["name"]:
            text = "".join([*kept[-1]["text"], *out["text"]]).splitlines(keepends=True)
            kept[-1] = kept[-1] | {"text": text}
        else:
            kept.append(out)
    return kept


def outputs_with(notebook, mime):
    """The data of every output of a notebook that carries the MIME type, in order."""
    return [
        out["data"][mime]
        for cell in notebook["cells"]
        for out in cell.get("outputs", [])
        if mime in out.get("data", {})
    ]
