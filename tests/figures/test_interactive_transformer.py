"""The block stepper: its numbers are the book's own layers', its shapes are the tensors'."""

import json

import numpy as np
import pytest
import torch
from helpers.browser import browser, open_widget, widget_state  # noqa: F401 - fixtures

from llmbook.figures.blocks import STAGES, WORDS, BlockStepper, fixed_weights, trace
from llmbook.layers import layer_norm
from llmbook.multihead import MultiHeadAttention
from llmbook.positions import sinusoidal

in_browser = pytest.mark.browser
SIZES = [(4, 8, 2), (6, 16, 4), (2, 4, 1), (5, 12, 4)]


@pytest.mark.parametrize("n, d, heads", SIZES)
def test_the_numbers_are_those_of_the_books_layers(n, d, heads):
    found = {k: [torch.tensor(a) for a in arrays] for k, arrays in trace(n, d, heads).items()}

    def weight(which, rows, columns):
        return torch.tensor(fixed_weights(which, rows, columns))

    table = weight(0, len(WORDS), d) * (len(WORDS) / d) ** 0.5
    x = d**0.5 * table[:n] + sinusoidal(n, d, dtype=torch.float64)
    attend = MultiHeadAttention(d, heads, bias=False).double()
    with torch.no_grad():
        attend.in_proj_weight.copy_(torch.cat([weight(i, d, d).T for i in (1, 2, 3)]))
        attend.out_proj.weight.copy_(weight(4, d, d).T)
        z = layer_norm(x)[None]
        stream = x + attend(z, causal=True)[0]
        hidden = torch.relu(layer_norm(stream) @ weight(5, d, 4 * d))
        end = stream + hidden @ weight(6, 4 * d, d)
        torch.testing.assert_close(found["embedding"][0], x)
        for ours, theirs in zip(found["QKV"], attend.project(z), strict=True):
            torch.testing.assert_close(ours, theirs[0])
        torch.testing.assert_close(found["weights"][0], attend.weights(z, causal=True)[0])
        torch.testing.assert_close(found["heads"][0], attend.heads(z, causal=True)[0])
    torch.testing.assert_close(found["scores"][0].softmax(-1), found["weights"][0])
    torch.testing.assert_close(found["residual"][0], stream)
    torch.testing.assert_close(found["hidden"][0], hidden)
    torch.testing.assert_close(found["residual 2"][0], end)
    torch.testing.assert_close(found["logits"][0], layer_norm(end) @ table.T)
    assert tuple(found) == STAGES


def test_the_weights_look_random():
    w = np.concatenate([fixed_weights(i, 16, 16).ravel() for i in range(1, 7)])
    assert abs(w.mean()) < 0.02 and abs(w.var() - 1 / 16) < 0.008
    assert len(np.unique(w.round(9))) == w.size


def test_sizes_that_do_not_fit_are_refused():
    for wrong, message in (
        ({"heads": 3}, r"heads must be one of \(1, 2, 4\): got 3"),
        ({"d_model": 6}, "d_model must be one of"),
        ({"tokens": 7}, "tokens must be from 2 to 6: got 7"),
        ({"batch": 0}, "batch must be from 1 to 8"),
        ({"stage": 13}, "stage must be from 0 to 12"),
        ({"heads": 2, "head": 2}, "head must be from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            BlockStepper(**wrong)
    assert len(json.dumps(widget_state(BlockStepper()), allow_nan=False)) < 2000


# --- in the browser


def shapes(batch, n, d, heads):
    """What each stage's tensor measures, batch first."""
    flat, by_head, square = (n, d), (heads, n, d // heads), (heads, n, n)
    each = {
        "QKV": by_head,
        "scores": square,
        "weights": square,
        "heads": by_head,
        "hidden": (n, 4 * d),
        "logits": (n, len(WORDS)),
    }
    return {name: (batch, *each.get(name, flat)) for name in STAGES}


@in_browser
@pytest.mark.parametrize("n, d, heads", SIZES)
def test_every_stage_shows_pythons_numbers_and_the_right_shape(open_widget, n, d, heads):
    page = open_widget(BlockStepper(batch=3, tokens=n, d_model=d, heads=heads, head=heads - 1))
    want, sizes = trace(n, d, heads), shapes(3, n, d, heads)
    for stage, name in enumerate(STAGES):
        page.page.locator(f'[data-stage="{stage}"]').click()
        shape = page.page.eval_on_selector(".readout", "e => e.dataset.shape").split()
        assert tuple(map(int, shape)) == sizes[name], name
        arrays = [a if a.ndim == 2 else a[heads - 1] for a in want[name]]
        cells = page.data(".cell", "i", "j", "value")
        drawn = len(cells) // (n * len(arrays))
        expected = np.concatenate([a[:, :drawn].ravel() for a in arrays])
        expected = np.where(np.isfinite(expected), expected, -1e308)
        np.testing.assert_allclose([v for _, _, v in cells], expected, rtol=1e-6, atol=1e-9)
        assert drawn == min(arrays[0].shape[1], drawn) and drawn >= min(arrays[0].shape[1], 8)
        numbers = int(page.page.eval_on_selector(".readout", "e => e.dataset.numbers"))
        assert numbers == np.prod(sizes[name]) * len(arrays)
        assert f"({', '.join(shape)})" in page.text(".readout")


@in_browser
def test_steps_sliders_and_heads_change_what_is_shown(open_widget):
    page = open_widget(BlockStepper())
    assert page.control("back").is_disabled()
    for stage in (1, 2, 3):
        page.control("next").click()
        assert page.state("stage") == stage
    page.press("back", "Enter")
    assert page.state("stage") == 2
    page.slide("batch", 5)
    page.slide("tokens", 6)
    page.slide("d_model", 16)
    page.pick("heads", 4)
    assert "(5, 4, 6, 4)" in page.text(".readout")
    page.page.locator('[data-head="3"]').click()
    q = trace(6, 16, 4)["QKV"][0][3]
    cells = [row for row in page.data(".cell", "i", "j", "value")][: q.size]
    np.testing.assert_allclose([v for _, _, v in cells], q.ravel(), rtol=1e-6, atol=1e-9)
    page.pick("heads", 2)
    assert page.state("head") == 1, "a head that is no longer there must not be shown"
    page.page.locator('[data-stage="12"]').click()
    assert page.control("next").is_disabled()
