"""The labeller: scores are Bradley and Terry's, in Python and in the page; clicks are labels."""

import pytest
import torch
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.alignment.reward import bradley_terry
from llmbook.figures import PreferenceLabeller
from llmbook.figures.preferences import DECAY, RATE

in_browser = pytest.mark.browser
ITEMS = ["a short answer", "a longer answer, with a reason", "no answer", "an answer that rambles"]
LABELS = [[0, 2], [1, 2], [0, 3], [3, 0], [1, 3], [1, 0]]


def figure(**changes):
    return PreferenceLabeller(ITEMS, [1.0, 2.0, -2.0, 0.0], **{"labels": LABELS} | changes)


def test_its_scores_are_descent_on_the_book_s_loss():
    scores = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    winners, losers = torch.tensor(LABELS).T
    for _ in range(60):
        loss = bradley_terry(scores[winners], scores[losers]).mean()
        loss = loss + DECAY / 2 * scores.square().sum()
        (slope,) = torch.autograd.grad(loss, scores)
        with torch.no_grad():
            scores -= RATE * slope
    assert figure().reading() == pytest.approx(scores.tolist(), abs=1e-9)


def test_without_labels_or_steps_all_scores_are_0():
    assert figure(labels=[]).reading() == [0.0] * 4
    assert figure(steps=0).reading() == [0.0] * 4


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"items": ["a", "b"]}, "items must be 3 to 10 different texts"),
        ({"items": ["a", "a", "b"]}, "items must be 3 to 10 different texts"),
        ({"utility": [1.0]}, "utility must be 4 numbers: got 1"),
        ({"labels": [[1, 1]]}, "pairs of two different items"),
        ({"labels": [[0, 4]]}, "pairs of two different items"),
        ({"steps": 201}, "steps must be a whole number from 0 to 200"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    settings = {"items": ITEMS, "utility": [0.0] * 4} | changes
    with pytest.raises(ValueError, match=message):
        PreferenceLabeller(settings.pop("items"), settings.pop("utility"), **settings)


def shown(page):
    return dict(
        page.page.eval_on_selector_all(
            ".score", "els => els.map(e => [+e.dataset.item, +e.dataset.score])"
        )
    )


@in_browser
def test_the_page_trains_as_python_does(open_widget):
    page = open_widget(figure())
    for steps in (0, 1, 60, 200):
        page.set("steps", steps)
        found = shown(page)
        want = figure(steps=steps).reading()
        assert [found[i] for i in range(4)] == pytest.approx(want, abs=1e-3)


@in_browser
def test_a_click_is_a_comparison_and_the_labeller_makes_fourteen(open_widget):
    page = open_widget(figure(labels=[]))
    first, second = page.page.locator(".option").all_text_contents()
    page.page.click('.option[data-side="1"]')
    assert page.state("labels") == [[ITEMS.index(second), ITEMS.index(first)]]
    page.page.click('[data-do="tie"]')
    assert len(page.state("labels")) == 1 and page.state("place") == 2
    page.page.click('[data-do="ask"]')
    assert len(page.state("labels")) == 15
    found = shown(page)
    assert found[1] > found[2]  # the labeller likes the second text most, the third least
    page.page.click('[data-do="clear"]')
    assert page.state("labels") == [] and set(shown(page).values()) == {0}
