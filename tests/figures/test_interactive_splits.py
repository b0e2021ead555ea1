"""Four tokenizers on one text: what the page cuts is what Python cuts."""

import json

import pytest
from helpers.browser import browser, open_widget, widget_state  # noqa: F401 - fixtures

from llmbook.experiments import relatives
from llmbook.figures import TokenizerSplits

in_browser = pytest.mark.browser
TEXTS = [
    "The length of the list is unbelievable.",
    "Return the  value\n\n    if x: it's we'll DON'T 123abc\t\t\n  end ",
    "naïve café – “quoted” 猫坐 👩🏽‍🚀 Ⅷ x² $5 a^b `c` ~",
    "a\u00a0b\u2003c\x85d\ufeffe\x1cf",
    "<b>&amp;</b> [UNK] ▁ ##ing <unk>",
    "12345",
    " ",
    "",
]


@pytest.fixture(scope="module")
def cuts():
    return relatives.cuts()


def test_what_is_shown_joins_to_the_text_where_nothing_is_lost(cuts):
    figure = TokenizerSplits(cuts, "Return the value.")
    read = figure.reading()
    assert "".join(read["bytes"]) == "".join(read["BPE"]) == "Return the value."
    assert "".join(read["Unigram"]) == "▁Return▁the▁value."[:18] or "<unk>" in read["Unigram"]
    assert read["WordPiece"][-1] in (".", "[UNK]")
    assert figure.reading(merges=0)["BPE"] == read["bytes"]
    assert len(json.dumps(widget_state(figure), allow_nan=False)) < 150_000


def test_bad_settings_are_refused(cuts):
    with pytest.raises(ValueError, match="at most 400"):
        TokenizerSplits(cuts, "x" * 401)
    with pytest.raises(ValueError, match="merges must be a whole number from"):
        TokenizerSplits(cuts, "x", merges=len(cuts.bpe.merges) + 1)
    with pytest.raises(TypeError, match="merges"):
        TokenizerSplits(cuts, "x", merges="many")


@in_browser
def test_the_page_cuts_as_python_does(open_widget, cuts):
    figure = TokenizerSplits(cuts, TEXTS[0])
    page = open_widget(figure)
    for text in TEXTS:
        for merges in (0, 100, len(cuts.bpe.merges)):
            page.set("merges", merges)
            page.set("text", text)
            got = page.page.eval_on_selector_all(
                ".way", "els => els.map(e => [e.dataset.way, JSON.parse(e.dataset.tokens)])"
            )
            assert dict(got) == figure.reading(text, merges), (text, merges)


@in_browser
def test_it_says_who_gives_the_text_back(open_widget, cuts):
    page = open_widget(TokenizerSplits(cuts, TEXTS[0]))
    told = "els => Object.fromEntries(els.map(e => [e.dataset.way, e.dataset.back]))"
    for text, lost in (
        ("of the list", set()),
        ("of  the list", {"WordPiece", "Unigram"}),
        ("of 猫", {"WordPiece", "Unigram"}),
    ):
        page.set("text", text)
        back = page.page.eval_on_selector_all(".way", told)
        assert {way for way, kept in back.items() if kept == "false"} == lost, text


@in_browser
def test_typing_cuts_and_a_button_may_set_a_number(open_widget, cuts):
    page = open_widget(TokenizerSplits(cuts, ""))
    page.control("text").fill("the list")
    assert page.state("text") == "the list"
    assert "8 bytes" in page.text(".readout")
    page.set("text", 12345)  # as a link's query is read
    assert "5 bytes" in page.text(".readout")
