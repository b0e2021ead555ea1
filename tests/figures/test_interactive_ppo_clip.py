"""The clip explorer: objective and slope are those of `llmbook.alignment.ppo`, page and all."""

import pytest
import torch
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.alignment.ppo import clipped_policy_loss
from llmbook.figures import ClipExplorer

in_browser = pytest.mark.browser
STATES = [(1.0, 1.1), (1.0, 1.5), (1.0, 0.5), (-1.5, 1.5), (-1.5, 0.5), (-0.5, 0.9), (2.0, 0.3)]


@pytest.mark.parametrize("advantage, ratio", STATES)
def test_value_and_slope_are_those_of_the_loss(advantage, ratio):
    ours = torch.tensor([[ratio]], dtype=torch.float64).log().requires_grad_()
    mask, old = torch.ones(1, 1).bool(), torch.zeros(1, 1)
    loss, _ = clipped_policy_loss(ours, old, torch.tensor([[advantage]]), mask, 0.2)
    (slope,) = torch.autograd.grad(loss, ours)  # by log w: w times the slope by w
    found = ClipExplorer(advantage, ratio).reading()
    assert found["value"] == pytest.approx(-loss.item())
    assert found["slope"] == pytest.approx(-slope.item() / ratio)


def test_bad_settings_are_refused():
    for bad in ({"advantage": 3}, {"ratio": 0}, {"low": 0}, {"high": 1}):
        with pytest.raises(ValueError, match="must be a number from"):
            ClipExplorer(**bad)


@in_browser
def test_the_page_says_what_python_does(open_widget):
    page = open_widget(ClipExplorer())
    for advantage, ratio in STATES:
        page.set("advantage", advantage)
        page.set("ratio", ratio)
        found = page.page.eval_on_selector(".readout", "e => [+e.dataset.value, +e.dataset.slope]")
        want = ClipExplorer(advantage, ratio).reading()
        assert found == pytest.approx([want["value"], want["slope"]], abs=1e-3)
