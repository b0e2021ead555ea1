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


@pytest.mark.parametrize(("mute", "skip"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("rule", RULES)
def test_state_and_outputs_are_the_scan_s_at_every_character(rule, mute, skip):
    figure = StateExplorer("Ada met 2 of 7 Bears", rule, 1.5, 0.2, 0.7, mute=mute, skip=skip)
    through = torch.tensor(figure.counts())
    steps = torch.where(through, 1.5, 0.2).double()[None, :, None]
    fed, read = (
        torch.where(through, 1.0, 0.0 if off else 1.0).double()[None, :, None]
        for off in (mute, skip)
    )
    n, one = len(figure.text), torch.ones(1, len(figure.text), 1).double()
    rate = torch.full((1, 1), -0.7, dtype=torch.float64)
    assert figure.terms()[1] == pytest.approx((steps * rate).exp().flatten().tolist())
    y = selective_scan(one, steps, rate, fed, read)
    assert figure.outputs() == pytest.approx(y.flatten().tolist())
    for j in range(n):  # what one character alone leaves: the input is 1 there, 0 elsewhere
        u = torch.zeros(1, n, 1).double()
        u[0, j] = 1.0
        left = selective_scan(u, steps, rate, fed, one).flatten().tolist()
        assert [figure.held(t)[j] for t in range(n)] == pytest.approx(left, abs=1e-6)
        assert figure.held()[j] == pytest.approx(left[-1], abs=1e-6)


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
        (lambda: StateExplorer(""), "text must be a text from 1 to 32"),
        (lambda: StateExplorer("x" * 33), "text must be a text from 1 to 32"),
        (lambda: StateExplorer("x", "nouns"), "rule must be one of"),
        (lambda: StateExplorer("x", rate=0.0), "rate must be a number from"),
        (lambda: StateExplorer("x", small=2.0), "small must be a number from"),
        (lambda: ScanTree(n=1), "n must be a whole number from"),
        (lambda: ScanTree(n=8, round=4), "round must be a whole number from"),
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
    page.set("skip", True)
    page.resize(1400)
    figure = StateExplorer("Only Bob and 3 Cats", skip=True)
    want = figure.held()
    drawn = page.page.eval_on_selector_all(
        "rect.held", "els => els.map(e => [Number(e.dataset.held), e.height.baseVal.value])"
    )
    assert [held for held, _ in drawn] == pytest.approx(want)
    heights = [height for _, height in drawn]
    assert [h / max(heights) for h in heights] == pytest.approx(
        [w / max(want) for w in want], abs=0.01
    )
    rows = page.page.eval_on_selector_all(
        "rect[data-row]", "els => els.map(e => [e.dataset.row, Number(e.dataset.value)])"
    )
    _, kept, fed, read = figure.terms()
    for name, values in zip(
        ("exp(ΔA)", "B", "C", "y"), (kept, fed, read, figure.outputs()), strict=True
    ):
        assert [v for row, v in rows if row == name] == pytest.approx(values), name


@in_browser
def test_the_tree_counts_spans_and_joins_as_python_does(open_widget):
    page = open_widget(ScanTree(n=11))
    for r in (1, 3, 4):
        page.set("round", r)
        page.resize(1400)
        spans = page.page.eval_on_selector_all("circle.node", "e => e.map(c => +c.dataset.span)")
        assert spans[-11:] == [min(2**r, t + 1) for t in range(11)]
        assert f"with {ScanTree(n=11, round=r).joins()} joins" in page.text(".readout")
