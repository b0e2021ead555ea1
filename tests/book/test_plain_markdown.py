"""Notebooks' markdown is plain: any reader of CommonMark with formulas shows what is meant."""

import json
import re
from pathlib import Path

import pytest
from helpers.plain_markdown import cells, links, parser, tokens

from llmbook.book.root import chapters, find_root
from llmbook.book.sphinx_markdown import KEY, ROW

ROOT = find_root(Path(__file__).parent)
CHAPTERS = chapters(ROOT)
# what a notebook may say in HTML: toggles, and small signs in a line
TAGS = {"details", "summary", "sub", "sup", "kbd", "br"}
each = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


def markup(text):
    """What of a text only one program would understand, or would be eaten as HTML."""
    found = []
    for token in tokens(text):
        if token.type == "fence" and token.info.strip().startswith("{"):
            found.append(f"directive {token.info}")
        if token.type == "text":
            found += re.findall(r"\{[a-z:-]+\}$|^:::.*|^\([\w-]+\)=$", token.content)
        if token.type in ("html_inline", "html_block"):
            tags = re.findall(r"</?([A-Za-z_][\w-]*)", token.content)
            found += [f"HTML {tag}" for tag in tags if tag.lower() not in TAGS]
    return found


@pytest.mark.parametrize(
    "text, names",
    [
        ("see {cite:p}`vaswani2017attention`", ["{cite:p}"]),
        ("```{note}\nwords\n```", ["directive {note}"]),
        (":::{note}\nwords\n:::", [":::{note}", ":::"]),
        ("(a-place)=\n# Title", ["(a-place)="]),
        ("it ends with </s> here", ["HTML s"]),
        ("> **Note.** a $x_{t}$ and `{cite}` and `</s>`\n\n```python\n{1}\n```", []),
        ("<details><summary>Hint</summary>\n\nwords\n\n</details>", []),
    ],
)
def test_what_only_one_program_understands_is_found(text, names):
    assert markup(text) == names


@each
def test_a_notebook_s_markdown_has_no_role_no_directive_and_no_tag_by_mistake(path):
    assert {id: found for id, text in cells(path) if (found := markup(text))} == {}


def cut_into(text):
    """Lines that CommonMark takes for a list's first item in the middle of a paragraph."""
    lines = text.splitlines()
    begin = (t.map[0] for t in tokens(text) if t.type.endswith("_list_open") and not t.level)
    return [lines[at] for at in begin if at and lines[at - 1].strip()]


def test_a_number_that_begins_a_line_is_found():
    assert cut_into("of mean 0 and variance\n1. Variances add") == ["1. Variances add"]
    assert cut_into("of mean 0 and\nvariance 1. Variances add:\n\n1. first\n2. second") == []


@each
def test_no_list_begins_in_the_middle_of_a_paragraph(path):
    assert {id: found for id, text in cells(path) if (found := cut_into(text))} == {}


def published(entry):
    """Where the bibliography says that a paper is."""
    fields = entry.fields
    if "url" in fields:
        return fields["url"]
    doi, preprint = fields.get("doi"), fields.get("eprint")
    return f"https://doi.org/{doi}" if doi else f"https://arxiv.org/abs/{preprint}"


@each
def test_a_citation_is_a_link_to_the_paper_that_its_title_names(path):
    from pybtex.database import parse_file

    entries = parse_file(str(ROOT / "chapters/references.bib")).entries
    cited = [(href, title) for href, title in links(path) if KEY.fullmatch(title)]
    assert cited
    for href, key in cited:
        assert key in entries, key
        assert parser().normalizeLink(published(entries[key])) == href, key


@each
def test_a_link_to_a_claim_names_a_row_that_this_chapter_settles(path):
    for href, title in links(path):
        if ROW.fullmatch(title):
            ledger = ROOT / "llmbook/book/ledger" / f"{Path(href).stem}.json"
            rows = json.loads(ledger.read_text(encoding="utf-8"))
            assert title in {row["id"] for row in rows}, href


@each
def test_a_link_inside_the_book_names_a_file_that_is_there(path):
    inside = [href for href, _ in links(path) if "://" not in href and not href.startswith("#")]
    assert [h for h in inside if not (path.parent / h.partition("#")[0]).is_file()] == []
