"""The form in which notebooks are committed: text outputs only, no pictures, no widget state.

Code cells are counted from 1 in their order: nbval takes outputs without a count for a mistake.

A cell's tag says what of it is closed until a click, and the same is written for each reader: the
page's tag, JupyterLab's `jupyter`, Colab's `cellView`.

    aside        the parameters, a question's text: the page leaves them out
    setup        imports and the like
    drawing      code that only draws
    experiment   code that measures; its result stays
    claim        the call that settles a claim; its box stays
    answer       the output too: what a reader was asked to predict
"""

import argparse
import json
from pathlib import Path

import llmbook
from llmbook.book.execute import executed_path
from llmbook.book.records import ledger_chapters, rows_of
from llmbook.book.root import (
    address,
    chapters,
    find_chapter,
    find_root,
    joined,
    read_notebook,
    with_ids,
)
from llmbook.data.folders import write_json

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
LINE = 75  # characters of code that a page shows without scrolling
FOLDS = {  # a tag, and what its cell's code is called on the page; "" where it is not shown there
    "aside": "",
    "setup": "the set-up",
    "drawing": "the drawing's code",
    "experiment": "the experiment",
    "claim": "how this is checked",
}
_FOLDED = {"hide-input", "hide-output", "remove-input"}
_CLICKS = ("show", "hide")


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
            text = _lines(out["text"])
            kept.append({"output_type": "stream", "name": out["name"], "text": text})
        elif "text/plain" in out.get("data", {}):
            plain = {"text/plain": _lines(out["data"]["text/plain"])}
            kept.append({"output_type": out["output_type"], "metadata": {}, "data": plain})
    return joined(kept)


def _lines(text):
    return "".join(text).splitlines(keepends=True)


def folded(tags):
    """A cell's metadata for its tags: what is closed, for the page, JupyterLab and Colab alike."""
    own = [tag for tag in tags if tag not in _FOLDED]
    name = next((FOLDS[tag] for tag in own if tag in FOLDS), None)
    page, jupyter, prompts = [], {}, {}
    if name is not None:
        page.append("hide-input" if name else "remove-input")
        jupyter["source_hidden"] = True
    if name:
        what = f"{name}: {{type}}" if "answer" in own else name
        prompts = {f"code_prompt_{do}": f"{do.title()} {what}" for do in _CLICKS}
    if "answer" in own:
        page.append("hide-output")
        jupyter["outputs_hidden"] = True
    return {
        **({"cellView": "form"} if name is not None else {}),
        **({"jupyter": jupyter} if jupyter else {}),
        **({"mystnb": prompts} if prompts else {}),
        **({"tags": own + page} if own + page else {}),
    }


def committed_form(notebook, where, outputs_of=None):
    """The committed form of a notebook's JSON.

    `where` is the repository's address for the first cell ("" when unknown); with `outputs_of`, an
    executed notebook with the same cells, the text outputs are taken from there. Cells without an
    id, or with one that another has, get one of their own. Raises ValueError for a code cell that
    `outputs_of` does not hold.
    """
    cells = []
    notebook = with_ids(notebook)
    fresh = {c["id"]: c for c in with_ids(outputs_of)["cells"]} if outputs_of else {}
    for cell in notebook["cells"]:
        if "colab" in cell["metadata"].get("tags", []):
            continue
        tags = cell["metadata"].get("tags", [])
        clean = {
            "cell_type": cell["cell_type"],
            "id": cell["id"],
            "metadata": folded(tags),
            "source": "".join(cell["source"]).strip("\n").splitlines(keepends=True),
        }
        if cell["cell_type"] == "code":
            if outputs_of and cell["id"] not in fresh:
                raise ValueError(f"cell {cell['id']} is not in the executed copy: run it again")
            clean["outputs"] = _text_outputs(fresh.get(cell["id"], cell).get("outputs", []))
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
    own = {"book": notebook["metadata"]["book"]} if "book" in notebook["metadata"] else {}
    return {"cells": cells, "metadata": own | METADATA, "nbformat": 4, "nbformat_minor": 5}


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

    Returns whether the file changed. Raises FileNotFoundError when there is no executed copy to
    take from.
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


def papers(root):
    """{chapter: {key: [short name, address]}} of the publications that the ledger names."""
    from pybtex.database import parse_file

    from llmbook.book.references import short_name

    entries = parse_file(str(root / "chapters" / "references.bib")).entries

    def address_of(fields):
        if "url" in fields:
            return fields["url"]
        if "doi" in fields:
            return f"https://doi.org/{fields['doi']}"
        return f"https://arxiv.org/abs/{fields['eprint']}" if "eprint" in fields else ""

    return {
        chapter: {
            key: [short_name(entries[key]), address_of(entries[key].fields)]
            for key in sorted(
                {key for row in rows_of(chapter).values() for key in row["reference"]}
            )
        }
        for chapter in ledger_chapters()
    }


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
        listed = find_root() / "llmbook" / "book" / "papers"
        if listed.is_dir():
            for chapter, found in papers(find_root()).items():
                write_json(listed / f"{chapter}.json", found)
        for path in [find_chapter(name) for name in args.chapter] or chapters():
            changed = tidy(path, refresh=args.refresh)
            print(f"{path.stem}: {'rewritten' if changed else 'already in committed form'}")
            for cell, line in long_lines(read_notebook(path)):
                print(
                    f"  cell {cell}: {len(line)} characters, a page shows {LINE}: {line.strip()}"
                )
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    return 0
