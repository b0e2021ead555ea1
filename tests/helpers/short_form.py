"""Notebooks that declare the short form (`metadata.book.builds`), and what is counted in them."""

import ast

from helpers.plain_markdown import cells, parser

from llmbook.book.notebook import FOLDS
from llmbook.book.root import read_notebook

WORDS, LINES, BOXES, SCREENS, SECONDS = 2800, 280, 10, 25, 90
WITHOUT_PICTURE = 3.5  # screens in a row, exercises left out
BARE = 2.8  # the same, without a table and a formula too


def builds(path):
    """The names that a notebook says it builds, or None where it does not declare the form."""
    return read_notebook(path)["metadata"].get("book", {}).get("builds")


def code_cells(path):
    """(tags, source) of each code cell, the one for Colab left out."""
    return [
        (cell["metadata"].get("tags", []), "".join(cell["source"]))
        for cell in read_notebook(path)["cells"]
        if cell["cell_type"] == "code" and "colab" not in cell["metadata"].get("tags", [])
    ]


def visible(path):
    """The sources that show without a click."""
    return [source for tags, source in code_cells(path) if not set(tags) & set(FOLDS)]


def visible_lines(path):
    return sum(bool(line.strip()) for source in visible(path) for line in source.splitlines())


def words(path):
    """Words of markdown as a reader sees them: addresses of links do not count."""
    count = 0
    for _, text in cells(path):
        for token in parser().parse(text):
            for child in token.children or []:
                if child.type in ("text", "code_inline", "math_inline"):
                    count += len(child.content.split())
    return count


def calls(source, name):
    """The calls of a function in a source, as syntax."""
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name
    ]


def boxed(call):
    """Whether a `claim(…)` shows its box."""
    return not any(k.arg == "box" and getattr(k.value, "value", 1) is False for k in call.keywords)
