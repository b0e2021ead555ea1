"""The page on the code's layout: the files that it names are there, and none is left out."""

import re
from pathlib import Path

from llmbook.book.root import find_root

ROOT = find_root(Path(__file__).parent)
PAGE = (ROOT / "chapters" / "layout.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`((?:llmbook|tests|chapters)/[\w/.]*)`", PAGE))


def test_what_the_page_names_is_there():
    assert len(NAMED) > 30
    assert [name for name in sorted(NAMED) if not (ROOT / name).exists()] == []


def test_every_part_of_the_package_is_on_the_page():
    parts = [path for path in (ROOT / "llmbook").iterdir() if not path.name.startswith("_")]
    names = {f"llmbook/{p.name}/" if p.is_dir() else f"llmbook/{p.name}" for p in parts}
    assert names - NAMED == set()


def test_the_page_is_in_the_book():
    assert "- file: chapters/layout" in (ROOT / "_toc.yml").read_text(encoding="utf-8")
