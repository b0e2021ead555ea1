"""The router's figure: the browser routes every word as Python does, and as `llmbook.moe` does."""

import numpy as np
import pytest
import torch
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.figures import RouterPlay
from llmbook.figures.router import CONTEXT, SHARPNESS, word_vector
from llmbook.moe import balance_loss, limit_capacity, load, route

in_browser = pytest.mark.browser
TEXT = "the cat sat on the mat and 猫 sat on Kätzchen while the sun went down"


def logits_of(figure):
    vectors = np.array([word_vector(word) for word in figure.text.split()])
    before = np.vstack([np.zeros(vectors.shape[1]), vectors[:-1]])
    logits = SHARPNESS * (vectors + CONTEXT * before) @ np.array(figure.weight).T
    logits[:, 0] += figure.favour
    return torch.tensor(logits)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("favour", [0.0, 3.0])
def test_it_routes_as_the_engine_does(k, favour):
    figure = RouterPlay(TEXT, k=k, favour=favour, capacity=1.25)
    found, logits = figure.reading(), logits_of(figure)
    routing = route(logits, k)
    assert found["wanted"].tolist() == routing.chosen.tolist()
    limited = limit_capacity(routing, 1.25)
    assert found["chosen"].tolist() == limited.chosen.tolist()
    torch.testing.assert_close(torch.tensor(found["weights"]), limited.weights)
    assert found["loss"] == pytest.approx(float(balance_loss(routing)))
    assert found["largest"] == pytest.approx(float(load(routing).max()))
    assert found["dropped"] == limited.dropped


def test_balancing_evens_the_load_and_temperature_moves_weights_alone():
    crooked = RouterPlay(TEXT, favour=4.0).reading()
    balanced = RouterPlay(TEXT, favour=4.0, balance=60).reading()
    assert balanced["largest"] < crooked["largest"]
    cold, hot = (RouterPlay(TEXT, temperature=t).reading() for t in (0.1, 4.0))
    assert np.array_equal(cold["chosen"], hot["chosen"])
    assert cold["weights"].max(1).mean() > hot["weights"].max(1).mean() + 0.1


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="at least one word"):
        RouterPlay("  ")
    for bad in ({"k": 5}, {"temperature": 0}, {"favour": -1}, {"capacity": 9}, {"balance": 61}):
        with pytest.raises(ValueError, match="must be a (whole )?number from"):
            RouterPlay("a b", **bad)


@in_browser
def test_the_browser_routes_every_word_as_python_does(open_widget):
    page = open_widget(RouterPlay(TEXT))
    for state in (
        {},
        {"k": 3, "temperature": 0.5},
        {"favour": 4.0, "capacity": 0.75},
        {"balance": 37, "k": 2},
        {"text": "one word"},
    ):
        figure = RouterPlay(**{"text": TEXT, "k": 2, **state})
        for trait in ("text", "k", "temperature", "favour", "capacity", "balance"):
            page.set(trait, getattr(figure, trait))
        want = figure.reading()
        flows = page.page.eval_on_selector_all(
            ".flow", "els => els.map(e => [+e.dataset.word, +e.dataset.expert, +e.dataset.kept])"
        )
        assert flows == [
            [word, int(expert), int(want["chosen"][word, slot] >= 0)]
            for word, row in enumerate(want["wanted"])
            for slot, expert in enumerate(row)
        ]
        loads = page.page.eval_on_selector_all(".load", "els => els.map(e => +e.dataset.count)")
        assert loads == want["counts"].tolist()
        told = page.page.eval_on_selector(".readout", "e => [+e.dataset.largest, +e.dataset.loss]")
        assert told == pytest.approx([want["largest"], want["loss"]], abs=1e-4)


@in_browser
def test_the_readers_own_text_is_routed(open_widget):
    page = open_widget(RouterPlay(TEXT))
    page.page.fill("textarea", "my own words")
    assert page.page.locator(".word").all_text_contents() == ["my", "own", "words"]
    assert page.state("text") == "my own words"
    page.page.fill("textarea", "   ")  # nothing to route: the last text stays
    assert page.state("text") == "my own words"
