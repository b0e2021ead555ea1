"""The frontier of reward and KL: what it says of a run's step, in Python and on the page."""

import pytest
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.figures import RewardFrontier

RUNS = {
    "no penalty": [(0.0, 0.1, -1.2), (1.0, 0.8, -0.4), (9.0, 1.6, -0.9), (16.0, 1.9, -1.5)],
    "penalty": [(0.0, 0.1, -1.2), (0.6, 0.7, -0.5), (2.0, 1.0, -0.4)],
}


def test_it_reads_the_step_and_knows_where_to_stop():
    assert RewardFrontier(RUNS).reading() == {"kl": 16.0, "proxy": 1.9, "true": -1.5, "best": 1}
    assert RewardFrontier(RUNS, run=1, step=1).reading()["true"] == -0.5
    # a shorter run stays at its end
    assert RewardFrontier(RUNS, run=1).reading()["kl"] == 2.0


@pytest.mark.parametrize(
    "runs, changes, message",
    [
        ({}, {}, "at least one point each"),
        ({"a": []}, {}, "at least one point each"),
        ({"a": [(1, 2)]}, {}, r"points must be \(kl, proxy, true\)"),
        (RUNS, {"run": 2}, "run must be a whole number from 0 to 1"),
        (RUNS, {"step": 4}, "step must be a whole number from 0 to 3"),
    ],
)
def test_bad_runs_and_settings_are_refused(runs, changes, message):
    with pytest.raises(ValueError, match=message):
        RewardFrontier(runs, **changes)


@pytest.mark.browser
def test_the_page_reads_as_python_does(open_widget):
    page = open_widget(RewardFrontier(RUNS))
    for run, step in ((0, 3), (0, 0), (0, 1), (1, 3), (1, 2)):
        page.set("run", run)
        page.set("step", step)
        found = page.page.eval_on_selector(
            ".readout", "e => [+e.dataset.kl, +e.dataset.proxy, +e.dataset.truth, +e.dataset.best]"
        )
        want = RewardFrontier(RUNS, run=run, step=step).reading()
        assert found == pytest.approx([want["kl"], want["proxy"], want["true"], want["best"]])
        dots = page.page.locator("circle.true").count()
        assert dots == min(step, len(list(RUNS.values())[run]) - 1) + 1
