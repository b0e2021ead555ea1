"""The next-token figure: distributions, cuts and readings, in Python and in the browser."""

import json
import math

import numpy as np
import pytest
import torch
from helpers.browser import browser, open_widget, widget_state  # noqa: F401 - fixtures

from llmbook.decoding import probabilities
from llmbook.figures.next_token import STEP, NextToken, cut, unpack

in_browser = pytest.mark.browser
WORDS = ["⊔", " the", " cat", "s", "\n", "<b>", " ", "ing", " of", "a", "e", "."]


def random_logits(seed, *shape):
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def figure():
    ids = [[0, 1, 2, 3, 5], [0, 9, 11]]
    texts = [[WORDS[i] for i in row] for row in ids]
    logits = [random_logits(n, len(row), len(WORDS)) for n, row in enumerate(ids)]
    return NextToken(texts, ids, logits, WORDS, place=2)


# --- in Python


def test_log_probabilities_are_the_models_up_to_the_grid():
    logits = random_logits(3, 5, 300)
    figure = NextToken([["x"] * 5], [[1] * 5], [logits], [str(i) for i in range(300)])
    for place in range(5):
        want = logits[place].double().log_softmax(-1).numpy()
        got = figure.log_probabilities(0, place)
        assert np.abs(got - want).max() < STEP
        assert np.exp(got).sum() == pytest.approx(1, abs=1e-12)
    assert unpack("AAAB__") == pytest.approx([0, -STEP, -STEP * 4095])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (3, 1.0), (0, 0.6), (7, 0.8), (1, 1.0)])
def test_the_cut_is_the_one_that_generate_samples_from(temperature, top_k, top_p):
    logits = random_logits(4, 40)
    want = probabilities(logits, temperature, top_k or None, None if top_p == 1 else top_p)
    np.testing.assert_allclose(cut(logits.numpy(), temperature, top_k, top_p), want, atol=1e-6)


def test_top_p_keeps_the_smallest_set_and_never_nothing():
    log_p = np.log([0.5, 0.3, 0.15, 0.05])
    assert cut(log_p, top_p=0.5).tolist() == [1, 0, 0, 0]
    assert cut(log_p, top_p=0.51) == pytest.approx([5 / 8, 3 / 8, 0, 0])
    assert cut(log_p, top_p=0.05).tolist() == [1, 0, 0, 0]
    assert cut(log_p, top_k=3, top_p=0.84) == pytest.approx([5 / 8, 3 / 8, 0, 0])


def test_readings_are_entropy_and_surprise_in_bits():
    even = NextToken([["a", "b"]], [[0, 3]], [torch.zeros(2, 8)], list("abcdefgh"), place=0)
    reading = even.reading()
    assert reading["entropy"] == pytest.approx(3) and reading["surprise"] == pytest.approx(3)
    assert reading["kept"] == 8
    even.top_k = 2
    assert even.reading()["entropy"] == pytest.approx(1)
    assert even.reading()["surprise"] == pytest.approx(
        3
    )  # of the model, not of what is drawn from
    assert even.reading(place=1)["surprise"] is None


def test_bad_input_is_refused():
    good = torch.zeros(2, 3)
    for logits, ids, message in (
        (good[:1], [0, 1], r"\(2, 3\): got \(1, 3\)"),
        (good * math.nan, [0, 1], "must be finite"),
        (good, [0, 3], "ids must be 2 numbers from 0 to 2"),
        (good, [0], "ids must be 2 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            NextToken([["a", "b"]], [ids], [logits], list("abc"))
    with pytest.raises(ValueError, match="at most|in all: got 65"):
        NextToken([["a"] * 65], [[0] * 65], [torch.zeros(65, 3)], list("abc"))
    for name, value in (("temperature", 0.0), ("top_k", 4), ("top_p", 0.0), ("place", 2)):
        with pytest.raises(ValueError, match=f"{name} must be a (whole )?number from"):
            NextToken([["a", "b"]], [[0, 1]], [good], list("abc"), **{name: value})


def test_the_state_is_small():
    ids = [[i % 1024 for i in range(30)]] * 2
    figure = NextToken(
        [["token"] * 30] * 2,
        ids,
        [random_logits(1, 30, 1024)] * 2,
        [f"tok{i}" for i in range(1024)],
    )
    assert len(json.dumps(widget_state(figure), allow_nan=False)) < 160_000


# --- in the browser


def shown(page):
    return page.page.eval_on_selector(".readout", "e => ({...e.dataset})")


@in_browser
def test_bars_and_readings_are_pythons_at_every_setting(open_widget, figure):
    page = open_widget(figure)
    for setting in (
        {},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_k": 0, "top_p": 0.7},
        {"temperature": 1.6, "top_k": 5},
        {"top_k": 1},
    ):
        for name, value in setting.items():
            page.set(name, value)
            setattr(figure, name, value)
        p, want = figure.distribution(), figure.reading()
        got = shown(page)
        assert float(got["entropy"]) == pytest.approx(want["entropy"], abs=1e-9)
        assert float(got["surprise"]) == pytest.approx(want["surprise"], abs=1e-9)
        assert int(got["kept"]) == want["kept"] and int(got["best"]) == want["best"]
        for id_, value in page.data(".bar", "id", "p"):
            assert value == pytest.approx(p[int(id_)], abs=1e-12)
        only = " 1 equal choice;" in page.text(".readout")
        assert only == (want["kept"] == 1) and ("equal choices;" in page.text(".readout")) != only


@in_browser
def test_steps_texts_and_the_shade_of_surprise(open_widget, figure):
    page = open_widget(figure)
    want = [figure.reading(0, i)["surprise"] for i in range(4)]
    told = [bits for _, bits in page.data(".token", "i", "bits")]
    assert told == pytest.approx([0, *want], abs=1e-9)
    page.control("next").click()
    assert page.state("place") == 3
    page.page.locator('.token[data-i="4"]').click()
    assert page.state("place") == 4 and page.control("next").is_disabled()
    assert "The text ends here" in page.text(".readout")
    assert "“<b>”" in page.text(".readout")  # a token is text, never markup
    page.pick("text", 1)
    assert page.state("place") == 2


@in_browser
def test_drawing_follows_the_distribution_and_is_counted(open_widget, figure):
    page = open_widget(figure)
    p = figure.distribution()
    order = np.argsort(-p, kind="stable")
    for share, n in ((0.0, 0), (p[order[0]] + 1e-6, 1), (1 - 1e-9, len(order) - 1)):
        page.page.evaluate(f"Math.random = () => {float(share)!r}")
        page.control("draw").click()
        assert int(shown(page)["drawn"]) == order[n]
    assert "draw 3" in page.text(".readout")
    page.set("temperature", 0.5)
    page.control("next").click()
    assert shown(page)["drawn"] == ""
