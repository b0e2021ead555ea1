"""A translator in the page and a softmax in blocks: what they show equals what Python computes."""

import numpy as np
import pytest
import torch
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.experiments import attention as lab
from llmbook.figures import DateReader, OnlineSoftmax

LETTERS, DIGITS = lab.LETTERS.characters, lab.DIGITS.characters
WEIGHTS = lab.shipped().state_dict()
in_browser = pytest.mark.browser


def reader(text="the 3rd of March, 1998", **state):
    return DateReader(WEIGHTS, LETTERS, DIGITS, text, **state)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: reader("3"), "text must be a text from 2 to 36 characters: got '3'"),
        (lambda: reader("3 Mär 98"), "translator's characters: got \\['ä'\\]"),
        (lambda: reader(step=10), "step must be a whole number from 0 to 9: got 10"),
        (lambda: reader("3 May 2001", hide="June"), "hide must be a piece of the text"),
        (lambda: reader("3 May 2001", hide="3 May 2001"), "not all of it"),
        (lambda: DateReader({"out.weight": 0}, "ab", "01", "ab"), "weights must be a translator"),
        (lambda: OnlineSoftmax("1"), "scores must hold 2 to 16 numbers"),
        (lambda: OnlineSoftmax("1 two 3"), "got '1 two 3'"),
        (lambda: OnlineSoftmax("1 1000"), "from -999 to 999"),
        (lambda: OnlineSoftmax("1 nan"), "scores must hold"),
        (lambda: OnlineSoftmax(block=3), "block must be one of"),
        (lambda: OnlineSoftmax("1 2 3", block=2, step=3), "a whole number from 0 to 2: got 3"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("make", [lambda: OnlineSoftmax([1, 2]), lambda: reader(3)])
def test_what_is_no_text_is_a_type_error(make):
    with pytest.raises(TypeError, match="must be a text.*: got"):
        make()


def translated(text, hide="", best=True):
    """(ids, their probabilities, weights) of ten characters, by PyTorch in float64."""
    kind = lab.Translator if best else lab.Distracted
    model = kind(len(LETTERS), len(DIGITS), lab.DATE_WIDTH).double()
    model.load_state_dict(WEIGHTS)
    x, hidden = torch.tensor([lab.LETTERS.encode(text)]), torch.zeros(1, len(text)).bool()
    if hide:
        hidden[0, text.index(hide) : text.index(hide) + len(hide)] = True
    with torch.no_grad():
        logits, weights = model(x, torch.tensor([len(text)]), steps=10, hidden=hidden)
    law = logits[0].softmax(-1)
    return law.argmax(-1), law.max(-1).values, torch.cat(weights)


@in_browser
@pytest.mark.parametrize(
    "how",
    [
        {"text": "the 3rd of March, 1998"},
        {"text": "thursday, october 29, 1931", "hide": "october"},
        {"text": "7/4/2026", "best": False},
        {"text": "no date at all"},
    ],
)
def test_what_it_writes_and_where_it_looks_is_pytorch_s(open_widget, how):
    page = open_widget(reader())
    page.page.locator(".weight").first.wait_for()
    for trait, value in how.items():
        page.set(trait, value)
    ids, p, weights = translated(**how)
    shown = page.data(".wrote", "id", "p")
    assert [int(i) for i, _ in shown] == ids.tolist()
    np.testing.assert_allclose([v for _, v in shown], p, atol=5e-3)
    np.testing.assert_allclose(page.data(".weight", "p"), weights.flatten(), atol=5e-3)
    page.slide("step", 8)
    np.testing.assert_allclose(page.data(".letter", "weight"), weights[8], atol=5e-3)
    text = page.page.locator(".readout").get_attribute("data-text")
    assert text == lab.DIGITS.decode(ids)


@in_browser
def test_letters_that_it_never_met_are_left_out_and_told(open_widget):
    page = open_widget(reader())
    page.page.locator(".weight").first.wait_for()
    page.control("text").fill("3 Mär 1998")
    assert page.state("text") == "3 Mr 1998" and "It never met ä" in page.text(".readout")
    page.control("hide").fill("1998")
    assert page.state("hide") == "1998"
    assert sum(page.data(".letter", "weight")[-4:]) == 0
    page.control("text").fill("3 May 2001")  # the piece is gone, and with it the mask
    assert page.state("hide") == "" and "left out" not in page.text(".readout")


# --- a softmax in blocks


@pytest.mark.parametrize("block", [1, 2, 4])
def test_the_sum_after_the_last_block_is_that_of_the_whole_row(block):
    for text in ("2 1 3 0.5 5 4 4.5 1", "-999, 999", "7 7 7"):
        figure = OnlineSoftmax(text, block=block, step=0)
        scores = np.array([float(s) for s in text.replace(",", " ").split()])
        m, _, total = figure.walk()[-1]
        assert m == scores.max() and total == pytest.approx(np.exp(scores - m).sum())


@in_browser
@pytest.mark.parametrize("block", [1, 2, 4])
def test_blocks_in_the_browser_equal_python_s(open_widget, block):
    page = open_widget(OnlineSoftmax(block=block, step=0))
    for text in ("3, 1 4 -1 5.5", "900 899 1 2 3 4 5 6 7"):
        page.control("scores").fill(text)
        figure = OnlineSoftmax(text, block=block, step=0)
        walk = figure.walk()
        assert page.data(".readout", "blocks") == [len(walk)]
        for i, (m, fade, total) in enumerate(walk):
            page.slide("step", i + 1)
            got = page.data(".readout", "m", "fade", "l")[0]
            np.testing.assert_allclose(got, [m, fade, total], rtol=1e-9, atol=1e-12)
    adds = np.exp(np.array([900, 899, 1, 2, 3, 4, 5, 6, 7]) - 900.0)
    np.testing.assert_allclose(page.data(".bar", "adds"), adds, rtol=1e-9, atol=1e-300)


@in_browser
def test_without_the_maximum_float16_overflows_and_what_is_no_number_is_said(open_widget):
    page = open_widget(OnlineSoftmax("1 11 2", block=1, step=3, subtract=False))
    assert page.data(".readout", "l")[0] == pytest.approx(np.exp([1, 11, 2]).sum())
    page.control("scores").fill("1 11.1 2")
    assert "l = ∞" in page.text(".readout") and "NaN" in page.text(".readout")
    page.page.locator('label:has([data-name="subtract"])').nth(0).click()
    assert "∞" not in page.text(".readout")
    page.control("scores").fill("1 x")
    assert "Two to sixteen numbers" in page.text(".note") and page.state("scores") == "1 11.1 2"
    page.control("scores").fill("1 2")
    assert page.text(".note") == "" and page.state("step") == 2
