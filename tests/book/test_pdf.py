"""The book on paper: one document of several pages, nothing cut off, every link inside it."""

import re

import pytest
from helpers.browser import browser, chromium  # noqa: F401 - browser is a fixture
from helpers.built_book import ROOT, book  # noqa: F401 - book is a fixture

from llmbook.book import pdf
from llmbook.book.root import chapters

PAGES = ["intro", chapters(ROOT)[0].stem, "course"]
PAPER = 791  # pixels of A4's width between the margins, at the scale of the print
CUT = """() => {
  const width = document.body.getBoundingClientRect().right + 1;
  const hides = (e) => ['hidden', 'auto', 'scroll', 'clip'].includes(getComputedStyle(e).overflowX)
    && e.scrollWidth > e.clientWidth + 1;
  const wide = [...document.querySelectorAll('article *')].filter((e) => e.getClientRects().length
    && !e.closest('mjx-container, [aria-live]') && e.getBoundingClientRect().right > width);
  const code = [...document.querySelectorAll('article pre')].filter(hides);
  return [...wide, ...code].map((e) => `${e.tagName}.${e.className?.baseVal ?? e.className}`);
}"""
LOST = """() => [...document.querySelectorAll('a[href^="#"]')].map((a) => a.getAttribute('href'))
  .filter((href) => href !== '#' && !document.getElementById(decodeURIComponent(href.slice(1))))"""
FIGURES = """() => [...document.querySelectorAll('.llm-ia')]
  .filter((e) => e.getBoundingClientRect().height > 100 && e.querySelector('svg, table')).length"""


@pytest.fixture(scope="module")
def printed(book, tmp_path_factory):
    """(the PDF's file, how many pages) of the front page, a chapter and a page with long lines."""
    chromium()  # or the tests are skipped
    out = tmp_path_factory.mktemp("pdf") / "book.pdf"
    return out, pdf.make(ROOT, out, PAGES)


@pytest.mark.browser
def test_a_pdf_of_several_pages_is_written_with_an_outline(printed):
    file, pages = printed
    content = file.read_bytes()
    assert content.startswith(b"%PDF") and content.rstrip().endswith(b"%%EOF")
    assert 8 < pages < 60 and b"/Outlines" in content
    assert not file.with_suffix(".part").exists()


@pytest.mark.browser
def test_nothing_is_cut_off_every_link_arrives_and_figures_stand(printed, book, browser):
    page = browser.new_page(viewport={"width": PAPER, "height": 1000})
    page.emulate_media(media="print")
    page.goto((ROOT / "_build/pdf/book.html").as_uri())
    page.evaluate("() => document.fonts.ready.then(() => true)")
    assert page.evaluate(CUT) == []
    assert page.evaluate(LOST) == []
    asked = sum(
        (book / f"chapters/{name}.html").read_text("utf-8").count("jupyter.widget-view+json")
        for name in PAGES
    )
    assert page.evaluate(FIGURES) == asked > 1
    titles = page.locator("nav.book-contents a").all_inner_texts()
    assert len(titles) == 3 and all(re.search("[A-Za-z]{4}", title) for title in titles)
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    page.close()


@pytest.mark.browser
def test_folded_code_is_printed_only_when_asked_for(printed, browser, book):
    name = chapters(ROOT)[0].stem
    cells = (ROOT / "_build/pdf/book.html").read_text(encoding="utf-8").count("cell_input")
    with_code = pdf.joined(browser, book, [name], "x", code=True).count("cell_input")
    assert 0 < cells < with_code


def test_every_page_of_the_book_is_printed_in_its_order():
    names = pdf.pages(ROOT)
    assert names[0] == "intro" and {path.stem for path in chapters(ROOT)} <= set(names)


def test_what_is_missing_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    monkeypatch.chdir(ROOT)
    assert pdf.main(["--no-build", "--out", str(tmp_path / "x.pdf")]) == 1
    assert "Chromium is missing" in capsys.readouterr().err
    monkeypatch.setattr(pdf.subprocess, "run", None)  # nothing is built for a wrong name
    with pytest.raises(SystemExit):
        pdf.main(["fly"])
    assert "page must be one of" in capsys.readouterr().err


def test_a_page_that_is_not_built_is_named(tmp_path):
    with pytest.raises(pdf.NotPrinted, match="intro.html is not there: build the book"):
        pdf.joined(None, tmp_path, ["intro"], "x")
