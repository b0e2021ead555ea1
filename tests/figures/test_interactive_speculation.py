"""The figure of speculative sampling: laws, a round with given dice, and what many rounds give."""

import numpy as np
import pytest
import torch
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.decoding.speculative import acceptance, residual
from llmbook.figures import Speculation
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer

P, Q = [0.5, 0.3, 0.15, 0.05], [0.2, 0.5, 0.25, 0.05]
CASE = {"before": "a", "tokens": ["w", "x", "<b>", "…"], "p": P, "q": Q}


def test_its_laws_are_the_library_s():
    figure = Speculation([CASE])
    p, q, agree, rest = figure.laws()
    tp, tq = torch.tensor(P).double(), torch.tensor(Q).double()
    np.testing.assert_allclose(rest, residual(tp, tq), atol=1e-7)
    assert agree == pytest.approx((acceptance(tp, tq) * tq).sum().item())
    warm = Speculation([CASE], warmth=2.0).laws()[1]
    np.testing.assert_allclose(warm, np.sqrt(Q) / np.sqrt(Q).sum(), atol=1e-7)
    same = Speculation([{**CASE, "q": P}]).laws()
    assert same[2] == pytest.approx(1) and np.allclose(same[3], P)


def test_laws_of_two_models_behind_a_text():
    model, tokenizer = load("small").eval(), BPETokenizer.load(SHIPPED / "small")
    draft = load("small").eval()
    with torch.no_grad():
        draft.positions.weight.mul_(0)
    (case,) = Speculation.of(model, draft, tokenizer, ["Return the"], most=5).cases
    ids = torch.tensor([[0, *tokenizer.encode("Return the", ())]])
    with torch.no_grad():
        p = model(ids)[0, -1].softmax(-1)
    assert case["p"][0] == pytest.approx(p.max().item(), abs=1e-5)
    assert len(case["tokens"]) == 6 and case["tokens"][-1] == "…"
    assert sum(case["p"]) == pytest.approx(1) and sum(case["q"]) == pytest.approx(1)
    assert case["p"][:-1] == sorted(case["p"][:-1], reverse=True)


def test_what_is_no_law_is_refused():
    for change, message in (
        ({"p": [0.5, 0.5, 0.5, 0.5]}, "p must be probabilities"),
        ({"q": [1.2, -0.2, 0.0, 0.0]}, "q must be probabilities"),
        ({"tokens": ["a"]}, "as many entries: got 1, 4, 4"),
    ):
        with pytest.raises(ValueError, match=message):
            Speculation([{**CASE, **change}])
    for setting in ({"stage": 4}, {"case": 1}, {"warmth": 0.1}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            Speculation([CASE], **setting)
    with pytest.raises(ValueError, match="at least one"):
        Speculation([])


# --- in the browser


def told(page):
    return page.page.eval_on_selector(".readout", "e => ({...e.dataset})")


def dice(page, *values):
    page.page.evaluate(
        "v => { Math.random = () => v.length > 1 ? v.shift() : v[0] }", list(values)
    )


@pytest.mark.browser
def test_a_round_is_guess_check_and_correction(open_widget):
    page = open_widget(Speculation([CASE]))
    assert float(told(page)["agree"]) == pytest.approx(0.2 + 0.3 + 0.15 + 0.05)
    dice(page, 0.3, 0.61, 0.5)  # x is guessed, p/q = 0.6 is missed; the rest is all on w
    step = page.control("step")
    step.click()
    assert told(page)["guess"] == "1" and "guesses “x”" in page.text(".readout")
    step.click()
    got = told(page)
    assert float(got["limit"]) == pytest.approx(0.6) and got["accepted"] == "0"
    assert "rejected" in page.text(".readout") and step.inner_text() == "Correct"
    step.click()
    assert told(page)["token"] == "0"
    assert page.data(".rest", "v") == pytest.approx([1, 0, 0, 0])
    dice(page, 0.3, 0.59, 0.5)
    step.click()
    step.click()
    assert told(page)["accepted"] == "1" and step.inner_text() == "Next guess"
    step.click()
    assert page.state("stage") == 1


@pytest.mark.browser
def test_many_rounds_follow_the_model_whatever_the_draft(open_widget):
    figure = Speculation([CASE])
    page = open_widget(figure)
    seed = """() => { let x = 7; Math.random = () =>
      (x = (Math.imul(x, 1664525) + 1013904223) >>> 0) / 4294967296; }"""
    page.page.evaluate(seed)
    for warmth in (0.5, 1.0, 5.0):
        page.slide("warmth", warmth)
        figure.warmth = warmth
        total = np.zeros(4)
        for _ in range(5):
            page.control("many").click()
            total += page.data(".came", "count")
        assert total.sum() == 5000
        expected = 5000 * np.array(P)
        assert ((total - expected) ** 2 / expected).sum() < 27  # chi-squared, 3 degrees, p > 5e-6
        assert float(told(page)["agree"]) == pytest.approx(figure.laws()[2], abs=1e-6)


@pytest.mark.browser
def test_tokens_are_text_and_another_case_begins_anew(open_widget):
    second = {**CASE, "before": "<i>b</i>", "p": Q, "q": P}
    page = open_widget(Speculation([CASE, second], stage=1))
    page.pick("case", 1)
    assert page.state("stage") == 0
    assert page.text(".note") == "… <i>b</i>"
    assert page.page.locator(".llm-ia i, svg b").count() == 0
