"""The base of the rotary encoding: dials and measured curves, in Python and in the browser."""

import numpy as np
import pytest
from helpers.browser import browser, open_widget, widget_state  # noqa: F401 - fixtures
from helpers.figures import FIGURES

from llmbook.experiments import extrapolation
from llmbook.figures import RotaryBase
from llmbook.positions import rotary_frequencies


@pytest.fixture
def figure():
    return FIGURES["rotary"][0]()


def test_what_is_drawn_is_mean_lowest_and_highest_of_the_recorded_seeds():
    past = extrapolation.recorded()
    figure = RotaryBase(past)
    curves = np.array(past["bases"]["100"])
    for name, want in (("mean", curves.mean(0)), ("low", curves.min(0)), ("high", curves.max(0))):
        np.testing.assert_allclose(figure.summary(100)[name], want, atol=1e-4)
    assert figure.summary()["n"] == len(past["_run"]["seeds"]) >= 5
    assert len(str(widget_state(figure))) < 15_000


def test_the_turns_are_those_of_the_rotary_frequencies(figure):
    want = 31 * rotary_frequencies(8, 10_000.0).numpy() / (2 * np.pi)
    np.testing.assert_allclose(figure.turns(), want)


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"base": 9}, "base must be one of 8, 100"),
        ({"length": 0}, "length must be from 1 to 256"),
        ({"beside": "rotary"}, "beside must be"),
    ],
)
def test_what_was_not_recorded_is_refused(figure, bad, message):
    for name, value in bad.items():
        with pytest.raises(ValueError, match=message):
            setattr(figure, name, value)


@pytest.mark.browser
def test_the_browser_draws_the_recorded_numbers_and_the_dials(open_widget, figure):
    page = open_widget(figure)
    np.testing.assert_allclose(page.data(".point", "value"), figure.summary()["mean"])
    np.testing.assert_allclose(page.data(".dial", "turns"), figure.turns())
    fresh = np.minimum(63 * rotary_frequencies(8, 10_000.0).numpy(), 2 * np.pi) - np.minimum(
        31 * rotary_frequencies(8, 10_000.0).numpy(), 2 * np.pi
    )
    np.testing.assert_allclose(page.data(".dial", "fresh"), fresh)
    page.slide("base", 0)
    assert page.state("base") == 8 and page.data(".readout", "value") == [
        figure.summary(8)["mean"][3]
    ]
    assert page.data(".readout", "short") == [0.0]


@pytest.mark.browser
def test_a_text_of_the_reader_sets_the_length(open_widget, figure):
    page = open_widget(figure)
    page.control("text").fill("one two  three\nfour")
    assert page.state("length") == 4
    page.control("text").fill("word " * 300)
    assert page.state("length") == 256
    page.control("text").fill("")
    assert page.state("length") == 256
