"""The Claims page: what changes a belief comes first, and readers can choose, by keyboard too."""

import re

import pytest
from helpers.browser import browser  # noqa: F401 - a fixture
from helpers.built_book import ROOT, book  # noqa: F401 - book is a fixture

from llmbook.book import report
from llmbook.book.execute import executed_path
from llmbook.book.root import chapters


@pytest.fixture(scope="module")
def counts():
    told = [report.chapter(n.stem, executed_path(n)) for n in chapters(ROOT)]
    return report.verdicts(told)


@pytest.fixture
def page(book, browser):
    page, wrong = browser.new_page(viewport={"width": 1400, "height": 900}), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((book / "chapters/claims.html").resolve().as_uri())
    page.locator("form.claims-filter").wait_for()
    yield page
    page.close()
    assert not wrong


def shown(page):
    """{verdict: how many of its rows can be seen}, without those that none is seen of."""
    found = {}
    for verdict in ("wrong", "dated", "debatable", "loose", "correct"):
        if n := page.locator(f".claims-list .claim-{verdict}.claim:visible").count():
            found[verdict] = n
    return found


def test_sections_stand_by_verdict_and_the_correct_ones_are_folded(book, counts):
    markup = (book / "chapters/claims.html").read_text(encoding="utf-8")
    order = re.findall(r'<section class="claims-list" id="claims-(\w+)"', markup)
    assert order == [v for v in ("wrong", "dated", "debatable", "loose", "correct") if v in counts]
    last = markup.index("that hold as stated</summary>")
    boxes = re.findall(r'class="claim claim-(\w+) docutils', markup[:last])
    assert "correct" not in boxes and len(boxes) == sum(counts.values()) - counts["correct"]


@pytest.mark.browser
def test_buttons_choose_verdicts(page, counts):
    open_ones = {verdict: n for verdict, n in counts.items() if verdict != "correct"}
    assert shown(page) == open_ones
    page.get_by_role("button", name=f"wrong {counts['wrong']}").click()
    assert shown(page) == {"wrong": counts["wrong"]}
    page.get_by_role("button", name=f"correct {counts['correct']}").click()
    assert shown(page) == {"wrong": counts["wrong"], "correct": counts["correct"]}
    for verdict in ("wrong", "correct"):
        page.get_by_role("button", name=f"{verdict} {counts[verdict]}").click()
    assert shown(page) == open_ones


@pytest.mark.browser
def test_words_and_keys_choose_too_and_the_number_is_told(page, counts):
    page.locator(".claims-filter button").first.focus()
    page.keyboard.press("Space")
    assert shown(page) == {"wrong": counts["wrong"]}
    page.keyboard.press("Space")
    page.get_by_label("Words").focus()
    page.keyboard.type("Gradients die")  # a chapter's title
    rows = page.locator(".claims-list .claim:visible")
    assert 0 < rows.count() < sum(counts.values())
    for text in rows.all_inner_texts():
        assert "gradients" in text.lower() and "die" in text.lower()
    assert page.locator(".claims-filter output").inner_text() == (
        f"{rows.count()} of {sum(counts.values())} shown"
    )
    page.keyboard.press("Enter")  # sends nothing anywhere
    assert page.url.endswith("claims.html")
    page.keyboard.type(" zzzz")
    assert shown(page) == {} and not page.locator(".claims-list:visible").count()
