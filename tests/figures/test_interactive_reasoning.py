"""The figures of the chapter on reasoning: against draws, the engine, and in the browser."""

import numpy as np
import pytest
import torch
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures
from helpers.figures import FIGURES

from llmbook.alignment.grpo import group_advantages
from llmbook.figures import GroupSamples, PassAtK
from llmbook.figures.pass_at_k import best, majority

in_browser = pytest.mark.browser
DRAWS = 40_000


def draws(p, k):
    return np.random.default_rng(k).random((DRAWS, k)) < p


@pytest.mark.parametrize("p, k", [(0.6, 15), (0.4, 15), (0.5, 4), (0.2, 2), (0.7, 1)])
def test_majorities_are_those_of_votes(p, k):
    right = draws(p, k).sum(1)
    alike = (2 * right > k) + 0.5 * (2 * right == k)
    assert majority(p, k, True) == pytest.approx(alike.mean(), abs=0.012)
    different = np.where(right > 1, 1.0, right / k)
    assert majority(p, k, False) == pytest.approx(different.mean(), abs=0.012)


@pytest.mark.parametrize("p, k, d", [(0.3, 8, 1.0), (0.3, 8, -1.0), (0.1, 64, 6.0), (0.9, 3, 0.0)])
def test_the_verifiers_choice_is_that_of_drawn_scores(p, k, d):
    right = draws(p, k)
    scores = np.random.default_rng(1).standard_normal(right.shape) + d * right
    chosen = np.take_along_axis(right, scores.argmax(1)[:, None], 1)
    assert best(p, k, d) == pytest.approx(chosen.mean(), abs=0.012)


def test_a_verifier_that_knows_nothing_gains_nothing_and_a_perfect_one_gains_all():
    for k in (1, 5, 64):
        assert best(0.3, k, 0.0) == pytest.approx(0.3, abs=1e-6)
    assert best(0.3, 5, 6.0) == pytest.approx(1 - 0.7**5, abs=1e-3)
    assert best(0.3, 64, -2.0) < 0.05


def test_the_numbers_that_the_book_quotes():
    assert majority(0.6, 15, True) == pytest.approx(0.787, abs=5e-4)
    assert majority(0.4, 15, True) == pytest.approx(0.213, abs=5e-4)
    assert PassAtK([0.1], k=15).reading()["pass"] == pytest.approx(0.794, abs=5e-4)


def test_bad_settings_of_the_explorer_are_refused():
    for bad in ({"rates": []}, {"rates": [0.1] * 13}, {"rates": [1.2]}, {"k": 0}, {"verifier": 7}):
        with pytest.raises(ValueError, match="must be"):
            PassAtK(**bad)


def test_advantages_are_the_engines():
    figure = FIGURES["group_samples"][0]()
    for at in range(5):
        for scale in (True, False):
            figure.at, figure.scale = at, scale
            found = figure.reading()
            want = group_advantages(torch.tensor(found["rewards"]), 8, scale)
            assert found["advantages"] == pytest.approx(want.tolist(), abs=1e-5)
    assert found["lengths"][0] == 7 and found["lengths"][3] == 8  # that one did not end


def test_groups_that_are_none_are_refused():
    runs = {name: {"question": one, "steps": steps} for name, one, steps in _groups().runs}
    with pytest.raises(ValueError, match="at least one"):
        GroupSamples({})
    with pytest.raises(ValueError, match="at must be a whole number from 0 to 4"):
        GroupSamples(runs, at=5)
    name, one = next(iter(runs.items()))
    cut = [{**step, "texts": step["texts"][:1]} for step in one["steps"]]
    with pytest.raises(ValueError, match="groups of one size"):
        GroupSamples({name: {**one, "steps": cut}})


def _groups():
    return FIGURES["group_samples"][0]()


@in_browser
def test_the_browser_computes_what_python_computes(open_widget):
    page = open_widget(PassAtK())
    for state in (
        {},
        {"k": 64, "verifier": 6.0},
        {"k": 15, "verifier": -1.5, "alike": False},
        {"rates": [0.0, 1.0, 0.35], "k": 2},
    ):
        figure = PassAtK(**state)
        for trait in ("rates", "k", "verifier", "alike"):
            page.set(trait, getattr(figure, trait))
        told = page.page.eval_on_selector(
            ".readout", "e => [+e.dataset.pass, +e.dataset.majority, +e.dataset.best]"
        )
        want = figure.reading()
        assert told == pytest.approx([want["pass"], want["majority"], want["best"]], abs=2e-6)
    key = " ".join(page.page.locator(".note").first.text_content().split())
    assert key == "— any is right (pass@k) – – the verifier's choice ··· the majority"


@in_browser
def test_the_reader_types_rates_of_their_own(open_widget):
    page = open_widget(PassAtK())
    page.page.fill('input[data-name="rates"]', "0.5; 0.25")
    assert page.state("rates") == [0.5, 0.25]
    page.page.fill('input[data-name="rates"]', "0.5, 2")  # no probability: the last ones stay
    assert page.state("rates") == [0.5, 0.25]
    assert page.page.get_attribute('input[data-name="rates"]', "aria-invalid") == "true"


@in_browser
def test_the_browser_shows_the_group_of_each_step(open_widget):
    figure = _groups()
    page = open_widget(figure)
    for run, at, scale in ((0, 0, True), (0, 3, False), (1, 2, True)):
        for trait, value in (("run", run), ("at", at), ("scale", scale)):
            setattr(figure, trait, value)
            page.set(trait, value)
        want = figure.reading()
        bars = page.page.eval_on_selector_all(
            ".advantage", "els => els.map(e => +e.dataset.value)"
        )
        assert bars == pytest.approx(want["advantages"], abs=1e-4)
        lengths = page.page.locator(".length").all_text_contents()
        assert [int(text) for text in lengths] == want["lengths"]
        told = page.page.eval_on_selector(".readout", "e => [+e.dataset.mean, +e.dataset.right]")
        assert told == pytest.approx([want["mean"], want["right"]], abs=1e-4)
