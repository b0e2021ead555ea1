"""What is wider than the screen scrolls in its own box, and says so."""

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pytest
from helpers.browser import book_style, browser  # noqa: F401 - a fixture

import llmbook.book
from llmbook.figures import style

pytestmark = pytest.mark.browser
SCRIPT = next(iter(llmbook.book.__path__)) + "/static/llmbook.js"
PAGE = """<!doctype html><html data-theme="light"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><style>body {{ margin: 16px }} {css}</style>
<script>{script}</script></head><body><div class="bd-article">{figure}
<details><summary>open me</summary>{figure}</details>
<div class="pst-scrollable-table-container"><table><tr><td><div style="width:600px">a wide table
</div></td></tr></table></div></div></body></html>"""
BOXES = """() => [...document.querySelectorAll('.plot, [class^=pst-scroll]')].map(e => ({
  more: e.dataset.more, keys: e.tabIndex, mask: getComputedStyle(e).maskImage !== 'none',
  hint: getComputedStyle(e.nextElementSibling ?? e, '::before').content.includes('sideways') }))"""
SHOWN = """() => [...document.querySelectorAll('.plot svg')].filter(e => e.clientWidth)
  .map(e => [e.classList.value, e.clientWidth <= e.parentElement.clientWidth + 0.5,
    getComputedStyle(e.closest('figure').querySelector('figcaption'), '::before').content])"""
FRAMES = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture
def boxes(browser):
    """boxes(width, do="") -> what is said of the picture, the folded picture and the table.

    With `drawings`: which drawings show, whether each fits, and what its caption begins with.
    """
    with style.context():
        fig, axes = plt.subplots(1, 2, figsize=(7, 2.5))
        axes[0].text(0.5, 0.5, "small", fontsize=8)
        figure = style.to_html(fig, "two empty panels beside each other", "Two panels.")
        plt.close(fig)
    page = browser.new_page()
    script = open(SCRIPT, encoding="utf-8").read()
    page.set_content(PAGE.format(css=book_style(), script=script, figure=figure))

    def look(width, do="", drawings=False):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate(f"() => {{ {do} }}")
        page.evaluate(FRAMES)
        return page.evaluate(SHOWN if drawings else BOXES)

    yield look
    page.close()


def test_what_goes_on_to_the_right_fades_there_and_a_picture_s_caption_says_so(boxes):
    picture, folded, table = boxes(320)
    assert picture == {"more": "right", "keys": 0, "mask": True, "hint": True}
    assert table == {"more": "right", "keys": 0, "mask": True, "hint": False}
    assert not folded["mask"]
    assert boxes(320, "document.querySelector('details').open = true")[1] == picture


def test_it_follows_the_reader_to_the_end(boxes):
    box = "document.querySelector('.plot')"
    assert boxes(320, f"{box}.scrollLeft = 20")[0]["more"] == "left right"
    end = boxes(320, f"{box}.scrollLeft = 4000")[0]
    assert end["more"] == "left" and end["hint"] and end["mask"]


def test_where_all_is_seen_nothing_is_said(boxes):
    plain = {"more": "", "keys": -1, "mask": False, "hint": False}
    assert boxes(1400, "document.querySelector('details').open = true") == [plain] * 3
    assert boxes(320)[0]["more"] == "right"
    assert boxes(1400) == [plain] * 3


def test_a_phone_shows_the_panels_below_each_other_and_a_desktop_beside_each_other(boxes):
    unfold = "document.querySelector('details').open = true"
    assert boxes(1400, unfold, drawings=True) == [["wide", True, "none"]] * 2
    below = ["narrow", True, f'"{style._MOVED}"']
    assert boxes(390, drawings=True)[0] == below
    assert (
        boxes(390, "document.querySelector('details').style.padding = 0", drawings=True)[1]
        == below
    )
    assert [one["more"] for one in boxes(390)[:2]] == ["", ""]
