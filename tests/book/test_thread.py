"""The thread through the book: a chapter says what it builds on, and ends with what is next."""

import re
from pathlib import Path

import pytest
from helpers.plain_markdown import cells

from llmbook.book.root import chapters, find_root

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
