"""Pages that have another name now: the old one leads there."""

from types import SimpleNamespace

import pytest
from helpers.browser import browser  # noqa: F401 - a fixture
from helpers.built_book import book  # noqa: F401 - a fixture
from sphinx.errors import ExtensionError

from llmbook.book.sphinx import write_moved


def built(folder, moved, docs, how="html"):
    """As much of a Sphinx application as the function uses."""
    builder = SimpleNamespace(format=how, get_relative_uri=lambda old, new: f"../{new}.html")
    config, env = SimpleNamespace(llmbook_moved=moved), SimpleNamespace(found_docs=set(docs))
    return SimpleNamespace(builder=builder, config=config, env=env, outdir=str(folder))


def test_the_old_page_names_the_new_one_for_programs_and_for_people(tmp_path):
    write_moved(built(tmp_path, {"chapters/old": "chapters/new"}, ["chapters/new"]), None)
    page = (tmp_path / "chapters/old.html").read_text()
    assert 'content="0; url=../chapters/new.html"' in page
    assert '<a href="../chapters/new.html">' in page and "location.hash" in page


def test_nothing_is_written_where_the_new_page_is_not_or_the_build_failed(tmp_path):
    moved = {"chapters/old": "chapters/new"}
    write_moved(built(tmp_path, moved, ["chapters/other"]), None)
    write_moved(built(tmp_path, moved, ["chapters/new"]), ValueError("failed"))
    write_moved(built(tmp_path, moved, ["chapters/new"], "latex"), None)
    assert not list(tmp_path.iterdir())


def test_a_page_that_is_there_is_not_written_over(tmp_path):
    moved = {"chapters/old": "chapters/new"}
    with pytest.raises(ExtensionError, match="pages that are gone: got chapters/old"):
        write_moved(built(tmp_path, moved, ["chapters/new", "chapters/old"]), None)


@pytest.mark.browser
def test_the_chapter_that_became_three_is_found_by_its_old_name(book, browser):
    page = browser.new_page()
    page.goto((book / "chapters/rnn_lstm.html").resolve().as_uri() + "#claim-rnn-bptt")
    page.wait_for_url("**/chapters/recurrent.html#claim-rnn-bptt")
    assert "Recurrent networks" in page.locator(".bd-article h1").inner_text()
    page.close()
