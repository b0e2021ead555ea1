"""The merges, one by one: what the browser counts, merges and draws is what the trainer does."""

import json

import pytest
from helpers.browser import browser, open_widget, widget_state  # noqa: F401 - fixtures

from llmbook.figures import MergeSteps
from llmbook.tokenization import BPETokenizer
from llmbook.tokenization.tokenizer_json import printable

in_browser = pytest.mark.browser
TEXTS = {
    "English": "the cat sat on the mat, and the other cat sat on the other mat\n" * 2,
    "日本": "猫は猫、猫<b>の猫。 aaaa aaa",
}


@pytest.fixture
def figure():
    return MergeSteps(TEXTS, steps=40)


# --- in Python


@pytest.mark.parametrize("text", [0, 1])
def test_the_steps_are_those_of_the_tokenizers_training(figure, text):
    words = list(TEXTS.values())[text]
    trained = BPETokenizer.train(words, 256 + len(figure.merges[text]), (), backend="python")
    assert [(a, b) for a, b, _ in figure.merges[text]] == [
        (printable(a), printable(b)) for a, b in trained.merges
    ]
    for step in (0, 1, len(figure.merges[text]) // 2, len(figure.merges[text])):
        first = BPETokenizer.train(words, 256 + step, (), backend="python")
        assert figure.reading(text, step)["count"] == len(first.encode(words))
    assert figure.reading(text, 3)["vocabulary"] == 259


def test_the_first_count_is_the_number_of_places(figure):
    a, b, count = figure.merges[0][0]
    assert count == TEXTS["English"].count("at") and (a, b) == ("a", "t")
    assert len(json.dumps(widget_state(figure), allow_nan=False)) < 12_000


def test_texts_that_do_not_fit_are_refused():
    for texts, words in (
        ({}, "at least one text"),
        ({"a": ""}, "2 to 600 bytes: got 0"),
        ({"a": "猫" * 201}, "got 603"),
        ({"a": "abc"}, "some pair of bytes twice"),
    ):
        with pytest.raises(ValueError, match=words):
            MergeSteps(texts)
    for bad in ({"text": 2}, {"step": 99}, {"steps": 0}):
        with pytest.raises(ValueError, match="must be a whole number from"):
            MergeSteps(TEXTS, **bad)


# --- in the browser


def drawn(page):
    return page.page.eval_on_selector_all(".part", "els => els.map(e => e.dataset.token)")


@in_browser
def test_tokens_and_the_winning_pair_are_python_s_at_every_step(open_widget, figure):
    page = open_widget(figure)
    for text in (0, 1):
        page.pick("text", text)
        assert page.state("step") == 0
        for step in range(len(figure.merges[text]) + 1):
            page.set("step", step)
            want = figure.reading(text, step)
            assert drawn(page) == want["tokens"]
            counted = page.page.eval_on_selector(".readout", "e => +e.dataset.tokens")
            assert counted == want["count"]
            assert f"{want['count']} tokens" in page.text(".readout")
            pairs = page.page.eval_on_selector_all(
                ".pair", "els => els.map(e => [e.dataset.a, e.dataset.b, +e.dataset.count])"
            )
            first = pairs[0] if pairs and pairs[0][2] > 1 else None
            assert first == want["next"]
            assert [n for *_, n in pairs] == sorted((n for *_, n in pairs), reverse=True)


@in_browser
def test_buttons_slider_and_play_move_through_the_merges(open_widget, figure):
    page = open_widget(figure)
    assert page.control("back").is_disabled()
    page.control("next").click()
    page.press("next", "Enter")
    assert page.state("step") == 2
    page.control("back").click()
    assert page.state("step") == 1
    page.slide("step", 12)
    assert page.state("step") == 12 and "Merge 12" in page.text(".readout")
    last = len(figure.merges[0])
    page.set("step", last)
    assert page.control("next").is_disabled()
    page.control("play").click()  # from the end it starts again
    page.page.wait_for_function("model.get('step') >= 2")
    assert page.text('[data-name="play"]') == "❚❚ Stop"
    page.control("play").click()
    assert page.text('[data-name="play"]') == "▶ Play"


@in_browser
def test_half_characters_are_shown_as_bytes_and_text_is_never_markup(open_widget, figure):
    page = open_widget(figure)
    page.pick("text", 1)
    parts = page.page.locator(".part").all_inner_texts()
    assert parts[:3] == ["E7", "8C", "AB"] and "<" in parts and "␣" in parts
    page.set("step", len(figure.merges[1]))
    assert figure.merges[1][-1][2] >= 2
    assert "猫" in "".join(page.page.locator(".part").all_inner_texts())


@in_browser
def test_it_is_named_read_aloud_and_stops_when_removed(open_widget, figure):
    page = open_widget(figure)
    assert page.root.get_attribute("role") == "group"
    assert page.root.get_attribute("aria-label") == figure.alt
    page.press("next", "Enter")
    page.page.wait_for_function("document.querySelector('[aria-live]').textContent !== ''")
    assert page.page.locator('[aria-live="polite"]').inner_text() == page.text(".readout")
    page.control("play").click()
    page.page.evaluate("cleanup()")
    assert page.page.evaluate("model.listening()") == 0
    step = page.state("step")
    page.page.wait_for_timeout(700)
    assert page.state("step") == step
