"""The template explorer and the rank slider: numbers in Python and as the browser draws them."""

import pytest
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.alignment.chat import render
from llmbook.figures.templates import LoRARank, TemplateExplorer
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer

in_browser = pytest.mark.browser
STATES = [
    {},
    {"system": "Be brief.", "counted": "last answer"},
    {"counted": "everything", "end": False},
    {"special": False},
    {"special": False, "end": False, "counted": "last answer"},
    {"question": "naïve  café's 12+3?", "answer": "ja…  nein", "again": "", "second": ""},
]


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.load(SHIPPED / "small")


def counted(figure):
    found = figure.reading()
    ids = [i for i, counts in zip(found.ids, found.counts) if counts]
    return figure._tokenizer.decode(ids)


def test_what_counts_is_what_the_choice_says(tokenizer):
    figure = TemplateExplorer(tokenizer)
    assert counted(figure) == "owl<|end|>OWL<|end|>"
    figure.counted = "last answer"
    assert counted(figure) == "OWL<|end|>"
    figure.end = False
    assert counted(figure) == "OWL"
    figure.special = False
    assert counted(figure) == "OWL" and len(figure.reading().ids) > 40
    figure.counted = "everything"
    assert "Last word: red owl" in counted(figure) and "<|end|>" not in counted(figure)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(question="x" * 61), "question must be a text of at most 60"),
        (dict(system="x" * 61), "system must be a text of at most 60"),
        (dict(counted="mine"), "counted must be one of"),
    ],
)
def test_bad_settings_are_refused(tokenizer, options, words):
    with pytest.raises(ValueError, match=words):
        TemplateExplorer(tokenizer, **options)
    with pytest.raises(TypeError, match="system must be a text"):
        TemplateExplorer(tokenizer, system=3)


def test_the_rank_slider_wants_all_weights_and_two_ranks():
    names = ("trained weights", "loss", "seen", "blocks moved by", "nats of old text")
    one = dict.fromkeys(names, 1.0)
    with pytest.raises(ValueError, match="runs must have 0 and two"):
        LoRARank({1: one, 2: one})
    with pytest.raises(ValueError, match="place must be a whole number from 0 to 1"):
        LoRARank({"0": one, "1": one, "4": one}, place=2)
    assert [r["rank"] for r in LoRARank({"4": one, "0": one, "1": one}, place=0).rows] == [1, 4]


@in_browser
def test_the_browser_cuts_and_counts_as_python_does(open_widget, tokenizer):
    page = open_widget(TemplateExplorer(tokenizer))
    for state in STATES:
        figure = TemplateExplorer(tokenizer)
        for name in (
            "system",
            "question",
            "answer",
            "again",
            "second",
            "counted",
            "end",
            "special",
        ):
            value = state.get(name, getattr(figure, name))
            setattr(figure, name, value)
            page.set(name, value)
        page.resize(1400)
        drawn = page.page.eval_on_selector_all(
            "span.tok", "e => e.map(t => [+t.dataset.id, t.dataset.counts === '1'])"
        )
        written = page.page.locator('[data-name="text"]').text_content()
        assert written == render(figure.messages())[0]
        want = figure.reading()
        assert [i for i, _ in drawn] == want.ids, state
        assert [c for _, c in drawn] == want.counts, state


@in_browser
def test_the_reader_s_own_words_are_cut(open_widget, tokenizer):
    page = open_widget(TemplateExplorer(tokenizer))
    page.page.locator('input[data-name="question"]').fill("Copy this: über 7")
    page.resize(1400)
    figure = TemplateExplorer(tokenizer, question="Copy this: über 7")
    drawn = page.page.eval_on_selector_all("span.tok", "e => e.map(t => +t.dataset.id)")
    assert drawn == figure.reading().ids
    assert f"{sum(figure.reading().counts)} of {len(drawn)} tokens count" in page.text(".readout")
