"""The thread through the book: what a chapter builds on, one example a part, what is next."""

import ast
import re
from pathlib import Path

import pytest
from helpers.plain_markdown import cells

from llmbook.book.root import chapters, find_root, read_notebook

CHAPTERS = chapters(find_root(Path(__file__).parent))
NAMES = [path.stem for path in CHAPTERS]
ALONE = {"recurrent", "tokenization"}  # these begin something: they need no other chapter
LINK = re.compile(r"\]\((\w+)\.ipynb(?:#[\w-]+)?\)")
every = pytest.mark.parametrize("path", CHAPTERS, ids=NAMES)


@every
def test_the_opening_links_the_chapters_that_it_builds_on_all_of_them_earlier(path):
    opening = [text for _, text in cells(path) if "**You need**" in text]
    assert len(opening) == 1
    needed = re.search(r"\*\*You need\*\*(.*?)(\n\n|\Z)", opening[0], re.DOTALL).group(1)
    linked = LINK.findall(needed)
    assert bool(linked) == (path.stem not in ALONE), needed
    assert set(linked) <= set(NAMES[: NAMES.index(path.stem)]), linked


@every
def test_the_last_section_links_the_next_chapter(path):
    last = cells(path)[-1][1]
    assert re.search(r"^## .*read", last, re.MULTILINE), last[:80]
    after = NAMES[NAMES.index(path.stem) + 1 :][:1]
    paragraph = last.rstrip().rpartition("\n\n")[2]
    if after:
        assert re.match(r"\*\*Next:\*\*|Next:", paragraph) and LINK.findall(paragraph) == after
    else:  # the book ends: it leads back to what was settled
        assert "](claims.md)" in paragraph


# --- one example a part

FIRST = "recurrent gradients gates attention attention_kernels".split()
SECOND = "multi_head positional_encoding transformer families todays_decoder".split()
THIRD = "tokenization pretraining scaling inference".split()
EXAMPLES = {
    "A cat that the barking dogs chased sits": FIRST,
    "Your cat is a lovely cat": SECOND,
    "Return the number of edges in the graph.": THIRD,
}
used = pytest.mark.parametrize(
    ("text", "name"), [(text, name) for text, names in EXAMPLES.items() for name in names]
)
again = pytest.mark.parametrize(
    ("first", "name"), [(part[0], name) for part in (FIRST, SECOND, THIRD) for name in part[1:]]
)


def computed_with(text, notebook):
    """The ids of the cells that hold a text as a string and that show something."""
    return [
        cell["id"]
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        and cell.get("outputs")
        and any(
            isinstance(node, ast.Constant) and isinstance(node.value, str) and text in node.value
            for node in ast.walk(ast.parse("".join(cell["source"])))
        )
    ]


def linked_again(first, texts):
    """Whether a text calls the example by its name and links the chapter where it began."""
    return any(re.search(rf"\[[^]]*\bsentence\b[^]]*\]\({first}\.ipynb\)", text) for text in texts)


@used
def test_a_part_s_example_is_computed_with_in_its_chapters(text, name):
    notebook = read_notebook(CHAPTERS[NAMES.index(name)])
    assert computed_with(text, notebook)
    for cell in notebook["cells"]:  # the same notebook with another text, or before it ran
        cell["source"] = "".join(cell["source"]).replace(text, text.swapcase())
    assert not computed_with(text, notebook)


@again
def test_a_chapter_says_that_it_is_the_same_example_and_where_it_began(first, name):
    texts = [text for _, text in cells(CHAPTERS[NAMES.index(name)])]
    assert linked_again(first, texts)
    assert not linked_again(first, [text.replace("sentence", "text") for text in texts])
