"""A softmax in blocks: what is drawn in the browser equals what Python computes."""

import numpy as np
import pytest
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.figures import OnlineSoftmax

in_browser = pytest.mark.browser


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OnlineSoftmax("1"), "scores must hold 2 to 16 numbers"),
        (lambda: OnlineSoftmax("1 two 3"), "got '1 two 3'"),
        (lambda: OnlineSoftmax("1 1000"), "from -999 to 999"),
        (lambda: OnlineSoftmax("1 nan"), "scores must hold"),
        (lambda: OnlineSoftmax([1, 2]), "must be a text with numbers: got list"),
        (lambda: OnlineSoftmax(block=3), "block must be one of"),
        (lambda: OnlineSoftmax("1 2 3", block=2, step=3), "step must be from 0 to 2: got 3"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


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
    page.pick("subtract", "true")
    assert "∞" not in page.text(".readout")
    page.control("scores").fill("1 x")
    assert "Two to sixteen numbers" in page.text(".note") and page.state("scores") == "1 11.1 2"
    page.control("scores").fill("1 2")
    assert page.text(".note") == "" and page.state("step") == 2
