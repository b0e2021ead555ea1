"""The page of references: by author and year, each with one address, none that nobody cites."""

from pathlib import Path

import pytest
from helpers.plain_markdown import links
from pybtex.backends.plaintext import Backend
from pybtex.database import parse_file, parse_string

from llmbook.book import references
from llmbook.book.records import ledger
from llmbook.book.root import chapters

ROOT = Path(__file__).resolve().parents[2]
BIB = ROOT / "chapters" / "references.bib"


def formatted(bibliography):
    """(key, label, text) of each entry, in the order of the page."""
    references.register()
    found = references.Style().format_bibliography(bibliography)
    return [(one.key, one.label, one.text.render(Backend())) for one in found]


@pytest.fixture(scope="module")
def entries():
    return formatted(parse_file(str(BIB)))


def test_entries_stand_by_first_author_and_year_under_the_name_that_a_text_uses(entries):
    stored = parse_file(str(BIB)).entries
    names = [references.short_name(stored[key]) for key, _, _ in entries]
    labels = [label for _, label, _ in entries]
    assert len(set(labels)) == len(labels) == len(stored)
    assert all(label[: len(name)] == name for label, name in zip(labels, names, strict=True))
    first = [
        (references.letters(references.surname(stored[key].persons["author"][0])),)
        + (stored[key].fields["year"],)
        for key, _, _ in entries
    ]
    assert first == sorted(first)
    assert "Vaswani et al. 2017" in labels


def test_each_entry_has_at_most_one_address_and_says_arxiv_once(entries):
    for key, _, text in entries:
        assert sum(text.count(word) for word in ("arXiv:", "doi:", "URL:")) <= 1, text
        assert text.lower().count("arxiv") <= 1, (key, text)


def test_two_of_one_name_and_year_get_letters_and_accents_do_not_disturb_the_order():
    made = parse_string(
        """@misc{b, author={Zu, A. and {\\"O}z, B.}, title={B}, year={2020}, doi={1/2}, url={u}}
        @misc{a, author={{\\"O}z, B.}, title={A}, year={2021}, eprint={1.2}, url={u}, doi={3/4}}
        @misc{c, author={{\\"O}z, B.}, title={C}, year={2021}, url={https://x.org}}
        @misc{d, author={P, C. and Q, D. and R, E.}, title={D}, year={1999}}""",
        "bibtex",
    )
    found = formatted(made)
    assert [label for _, label, _ in found] == [
        "Öz 2021a",
        "Öz 2021b",
        "P et al. 1999",
        "Zu and Öz 2020",
    ]
    assert "arXiv:1.2" in found[0][2] and "3/4" not in found[0][2]
    assert "https://x.org" in found[1][2] and "doi:1/2" in found[3][2]


def test_every_entry_is_cited_by_a_chapter_or_a_row_of_the_ledger():
    cited = {title for path in chapters(ROOT) for _, title in links(path)}
    cited |= {key for row in ledger().values() for key in row["reference"]}
    assert set(parse_file(str(BIB)).entries) - cited == set()


def test_the_page_lists_what_is_cited_and_no_more():
    page = (ROOT / "chapters" / "references.md").read_text(encoding="utf-8")
    assert "```{bibliography}\n```" in page  # its default: what some page cites
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    assert f"bibtex_default_style: {references.NAME}" in config
