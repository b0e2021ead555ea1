"""Notebooks' markdown as a plain reader of CommonMark with formulas sees it."""

import re

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from llmbook.book.root import read_notebook


def parser():
    return MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, allow_space=True)


def cells(path):
    """(id, text) of each markdown cell of a notebook, or of a page of markdown, which is one."""
    if path.suffix == ".md":
        return [(path.stem, path.read_text(encoding="utf-8"))]
    return [
        (cell["id"], "".join(cell["source"]))
        for cell in read_notebook(path)["cells"]
        if cell["cell_type"] == "markdown"
    ]


def tokens(text):
    """Every token of a text, those inside paragraphs too."""
    for token in parser().parse(text):
        yield token
        yield from token.children or []


def links(path):
    """(address, title) of each link of a notebook."""
    for _, text in cells(path):
        for token in tokens(text):
            if token.type == "link_open":
                yield token.attrGet("href"), token.attrGet("title") or ""


def _bold_start(inline):
    """The token of the bold words that a paragraph begins with, or None."""
    there = [child for child in inline.children or [] if child.content or child.type != "text"]
    return there[1] if there and there[0].type == "strong_open" else None


def boxes(path):
    """How many block quotes of a notebook begin with bold words."""
    count = 0
    for _, text in cells(path):
        seen = parser().parse(text)
        for quote, _, inline in zip(seen, seen[1:], seen[2:], strict=False):
            count += quote.type == "blockquote_open" and _bold_start(inline) is not None
    return count


def passages(path):
    """The words of each paragraph, heading, list item and table cell, without formulas."""
    for _, text in cells(path):
        seen = parser().parse(text)
        for number, token in enumerate(seen):
            if token.type == "inline":
                bold = _bold_start(token)
                if bold is not None and seen[number - 2].type == "blockquote_open":
                    # a box's title
                    bold.content = bold.content.rstrip(".:")
                words = "".join(
                    child.content
                    if child.type in ("text", "code_inline")
                    else "\n"
                    if child.type in ("softbreak", "hardbreak")
                    else ""
                    for child in token.children
                )
                yield from filter(None, [squeezed(words)])


def codes(path):
    """Each piece of code inside a line, letter by letter."""
    return [
        token.content
        for _, text in cells(path)
        for token in tokens(text)
        if token.type == "code_inline"
    ]


def squeezed(text):
    """A text for comparison: one kind of quotes, no white space at all."""
    text = text.translate(str.maketrans("“”‘’\xa0", "\"\"'' "))
    return re.sub(r"\s+", "", text)
