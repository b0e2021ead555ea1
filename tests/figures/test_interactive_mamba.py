"""The state explorer and the scan's tree: numbers in Python and as the browser draws them."""

import math

import pytest
import torch
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.figures.state_space import RULES, ScanTree, StateExplorer
from llmbook.recurrent.scan import linear_scan
from llmbook.ssm import selective_scan

in_browser = pytest.mark.browser


# --- in Python


@pytest.mark.parametrize("mute", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_the_state_holds_of_each_character_what_the_scan_leaves_of_it(rule, mute):
    figure = StateExplorer("Ada met 2 of 7 Bears", rule, 1.5, 0.2, 0.7, mute=mute)
    through = torch.tensor(figure.counts())
    steps = torch.where(through, 1.5, 0.2).double()[None, :, None]
    fed = torch.where(through, 1.0, 0.0 if mute else 1.0).double()
    n = len(figure.text)
    rate = torch.full((1, 1), -0.7, dtype=torch.float64)
    for j in range(n):  # what one character alone leaves: the input is 1 there, 0 elsewhere
        u = torch.zeros(1, n, 1).double()
        u[0, j] = 1.0
        y = selective_scan(u, steps, rate, fed[None, :, None], torch.ones(1, n, 1).double())
        assert figure.held()[j] == pytest.approx(y[0, -1, 0].item(), abs=1e-6)


def test_rules_choose_what_they_say():
    figure = StateExplorer("Ada met 2", "capitals")
    assert [figure.text[i] for i, yes in enumerate(figure.counts()) if yes] == ["A"]
    figure.rule = "first letters"
    assert [figure.text[i] for i, yes in enumerate(figure.counts()) if yes] == ["A", "m"]


@pytest.mark.parametrize("n", [2, 5, 8, 11, 16])
def test_the_tree_has_the_scan_s_rounds_and_joins(n):
    tree = ScanTree(n=n, round=math.ceil(math.log2(n)))
    assert tree.round == linear_scan(torch.rand(n), torch.rand(n), dim=0).rounds
    assert tree.joins(0) == 0
    assert tree.joins() == sum(n - 2**r for r in range(tree.round))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: StateExplorer(""), "text must have 1 to 32"),
        (lambda: StateExplorer("x" * 33), "text must have 1 to 32"),
        (lambda: StateExplorer("x", "nouns"), "rule must be one of"),
        (lambda: StateExplorer("x", rate=0.0), "rate must be from"),
        (lambda: StateExplorer("x", small=2.0), "small must be from"),
        (lambda: ScanTree(n=1), "n must be from"),
        (lambda: ScanTree(n=8, round=4), "round must be from"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# --- in the browser


@in_browser
def test_the_explorer_draws_what_python_computes_for_the_reader_s_text(open_widget):
    page = open_widget(StateExplorer())
    page.page.locator('input[data-name="text"]').fill("Only Bob and 3 Cats")
    page.set("small", 0.3)
    page.resize(1400)
    want = StateExplorer("Only Bob and 3 Cats").held()
    drawn = page.page.eval_on_selector_all(
        "rect.held", "els => els.map(e => [Number(e.dataset.held), e.height.baseVal.value])"
    )
    assert [held for held, _ in drawn] == pytest.approx(want)
    heights = [height for _, height in drawn]
    assert [h / max(heights) for h in heights] == pytest.approx(
        [w / max(want) for w in want], abs=0.01
    )


@in_browser
def test_the_tree_counts_spans_and_joins_as_python_does(open_widget):
    page = open_widget(ScanTree(n=11))
    for r in (1, 3, 4):
        page.set("round", r)
        page.resize(1400)
        spans = page.page.eval_on_selector_all("circle.node", "e => e.map(c => +c.dataset.span)")
        assert spans[-11:] == [min(2**r, t + 1) for t in range(11)]
        assert f"with {ScanTree(n=11, round=r).joins()} joins" in page.text(".readout")
