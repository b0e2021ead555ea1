"""The form in which notebooks are committed: text outputs only, no pictures, no widget state.

Code cells are counted from 1 in their order: nbval takes outputs without a count for a mistake.
"""

import argparse
import json
from pathlib import Path

import llmbook
from llmbook.book.copies import executed_path
from llmbook.book.root import address, chapters, find_chapter, find_root, read_notebook

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
LINE = 75  # characters of code that a page shows without scrolling


def first_cell(where):
    """The source of every chapter's first cell, given the address ("" when unknown)."""
    head = (
        "# On Colab this installs the book's package; elsewhere it does nothing.\nimport sys\n\n"
    )
    head += 'if "google.colab" in sys.modules:\n'
    if where:
        return head + f'    %pip install -q "llmbook @ git+{where}@v{llmbook.__version__}"'
    return head + (
        "    raise RuntimeError(\n"
        '        "This copy of the book does not know its repository. Set it "\n'
        '        "with `python -m llmbook address URL`, then open the chapter "\n'
        '        "from there.")'
    )


def _text_outputs(outputs):
    """Printed text and plain-text results; streams of the same name in a row become one."""
    kept = []
    for out in outputs:
        if out["output_type"] == "stream":
            text = "".join(out["text"])
            if kept and kept[-1].get("name") == out["name"]:
                kept[-1]["text"] += text
            else:
                kept.append({"output_type": "stream", "name": out["name"], "text": text})
        elif "text/plain" in out.get("data", {}):
            plain = {
                "output_type": out["output_type"],
                "metadata": {},
                "data": {"text/plain": "".join(out["data"]["text/plain"])},
            }
            kept.append(plain)
    for out in kept:
        if "text" in out:
            out["text"] = out["text"].splitlines(keepends=True)
        else:
            out["data"]["text/plain"] = out["data"]["text/plain"].splitlines(keepends=True)
    return kept


def committed_form(notebook, where, outputs_of=None):
    """The committed form of a notebook's JSON.

    `where` is the repository's address for the first cell ("" when unknown); with `outputs_of`, an executed
    notebook with the same code cells, the text outputs are taken from there.
    """
    cells = []
    fresh = {c["id"]: c for c in outputs_of["cells"]} if outputs_of else {}
    for number, cell in enumerate(
        c for c in notebook["cells"] if "colab" not in c["metadata"].get("tags", [])
    ):
        tags = cell["metadata"].get("tags", [])
        clean = {
            "cell_type": cell["cell_type"],
            "id": cell.get("id", f"cell-{number}"),
            "metadata": {"tags": tags} if tags else {},
            "source": "".join(cell["source"]).strip("\n").splitlines(keepends=True),
        }
        if cell["cell_type"] == "code":
            clean["outputs"] = _text_outputs(fresh.get(clean["id"], cell).get("outputs", []))
        cells.append(clean)
    title = 1 if cells and cells[0]["cell_type"] == "markdown" else 0
    cells.insert(
        title,
        {
            "cell_type": "code",
            "id": "colab",
            "metadata": {"tags": ["colab", "remove-cell"]},
            "outputs": [],
            "source": first_cell(where).splitlines(keepends=True),
        },
    )
    for count, cell in enumerate((c for c in cells if c["cell_type"] == "code"), 1):
        cell["execution_count"] = count
        for out in cell["outputs"]:
            if out["output_type"] == "execute_result":
                out["execution_count"] = count
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def as_text(notebook):
    """A notebook's JSON as it lies in the file."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def long_lines(notebook):
    """(cell id, line) of code that a page would cut off."""
    return [
        (cell["id"], line)
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and "colab" not in cell["metadata"].get("tags", [])
        for line in "".join(cell["source"]).splitlines()
        if len(line) > LINE
    ]


def tidy(path, *, refresh=False):
    """Rewrite a notebook in committed form; with `refresh`, with the executed copy's text outputs.

    Returns whether the file changed. Raises FileNotFoundError when there is no executed copy to take from.
    """
    path = Path(path)
    notebook, outputs_of = read_notebook(path), None
    if refresh:
        copy = executed_path(path)
        if not copy.is_file():
            raise FileNotFoundError(
                f"{path.name} has no executed copy: run `python -m llmbook run {path.stem}` first"
            )
        outputs_of = read_notebook(copy)
    text = as_text(committed_form(notebook, address(find_root(path.parent)), outputs_of))
    changed = text != path.read_text(encoding="utf-8")
    if changed:
        path.write_text(text, encoding="utf-8")
    return changed


def main(argv=None):
    """`python -m llmbook tidy`: bring notebooks into committed form."""
    parser = argparse.ArgumentParser(prog="python -m llmbook tidy", description=__doc__)
    parser.add_argument("chapter", nargs="*", help="chapter names (default: all)")
    parser.add_argument(
        "--refresh",
        action="store_true",
        help="take the text outputs from the executed copies (see `python -m llmbook run`)",
    )
    args = parser.parse_args(argv)
    try:
        for path in [find_chapter(name) for name in args.chapter] or chapters():
            print(
                f"{path.stem}: {'rewritten' if tidy(path, refresh=args.refresh) else 'already in committed form'}"
            )
            for cell, line in long_lines(read_notebook(path)):
                print(
                    f"  cell {cell}: {len(line)} characters, a page shows {LINE}: {line.strip()}"
                )
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    return 0
