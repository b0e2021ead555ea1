"""The chapters on recurrence: break the code under an exact claim, and the claim must not hold."""

from pathlib import Path

import pytest
from helpers.chapter_cells import execute

from llmbook.book.claims import ClaimError


CELL = ["setup", "class", "by-hand", "probe", "claims-cell"]
BPTT = ["setup", "class", "by-lag", "lags", "claims-bptt"]
CHAIN = ["setup", "class", "by-hand", "probe", "claims-cell"]
CHAIN += ["longest", "scan", "chains", "claims-chain"]
CLIP = ["setup", "clip", "storm", "claims-clip"]
LSTM = ["setup", "lstm-step", "claims-cell"]
GRU = [*LSTM, "gru-step", "race-figure", "count-figure", "claims-gru"]
COST = [*GRU, "min-gru", "chains", "claims-cost"]

# claim: its notebook, the cells it stands on (the last makes it), what is broken, and by what
BROKEN = {
    "rnn-cell-formula": (
        "recurrent",
        CELL,
        "self.W_hh @ h + self.W_xh",
        "self.W_hh.T @ h + self.W_xh",
    ),
    "rnn-bptt, product with W": (
        "recurrent",
        BPTT,
        "error = cell.W_hh.T @ delta",
        "error = cell.W_hh @ delta",
    ),
    "rnn-bptt, slope": (
        "recurrent",
        BPTT,
        "(1 - states[s + 1] ** 2) * error",
        "(1 - states[s] ** 2) * error",
    ),
    "rnn-cannot-parallelise": (
        "recurrent",
        CHAIN,
        "a[offset:] * b[:-offset] + b[offset:]",
        "a[offset:] * b[:-offset] + 2 * b[offset:]",
    ),
    "rnn-jacobian-product": (
        "gradients",
        ["setup", "product", "claim-product"],
        "((1 - h**2)[:, None] * W_hh) @ product",
        "(W_hh * (1 - h**2)) @ product",
    ),
    "rnn-gradient-clipping, always scaled": (
        "gradients",
        CLIP,
        "min(1.0, c / np.linalg.norm(gradient))",
        "(c / np.linalg.norm(gradient))",
    ),
    "rnn-gradient-clipping, by value": (
        "gradients",
        CLIP,
        "return gradient * min(1.0, c / np.linalg.norm(gradient))",
        "return clip_value(gradient, c / 9)",
    ),
    "lstm-cell-equations": (
        "gates",
        LSTM,
        "c = 1 / (1 + np.exp(-f)) * c + 1 / (1 + np.exp(-i))",
        "c = 1 / (1 + np.exp(-i)) * c + 1 / (1 + np.exp(-f))",
    ),
    "lstm-gru-equations": (
        "gates",
        GRU,
        "z * h + (1 - z) * np.tanh(",
        "(1 - z) * h + z * np.tanh(",
    ),
    "lstm-still-sequential": (
        "gates",
        COST,
        "return solve(1 - z, z * (x @ W_n))",
        "h = [x[0] * 0]\n    for a, b in zip(1 - z, z * (x @ W_n)):\n"
        "        h.append(a * h[-1] + b)\n    return torch.stack(h[1:])",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_claim_holds_on_the_code_as_it_is(name):
    notebook, names, _, _ = BROKEN[name]
    execute(notebook, names)


@pytest.mark.parametrize("name", BROKEN)
def test_a_claim_fails_when_the_code_under_it_is_broken(name):
    with pytest.raises(ClaimError, match=name.split(",")[0]):
        execute(*BROKEN[name])


@pytest.mark.parametrize(
    ("name", "notebook", "cells", "part", "arm", "worse"),
    [
        ("rnn-explosion-easier", "gradients", CLIP, "clipping", "3/40/clipped", "accuracy"),
        ("lstm-gru-comparable", "gates", GRU, "counting", "GRU", None),
    ],
)
def test_a_claim_on_recorded_runs_fails_when_they_say_otherwise(
    monkeypatch, name, notebook, cells, part, arm, worse
):
    from llmbook.experiments import recurrent

    told = recurrent.over_seeds

    def otherwise(asked, which):
        found = told(asked, which)
        if (asked, which) != (part, arm):
            return found
        return [{**v, worse: 1.0} if worse else [40] * len(v) for v in found]

    monkeypatch.setattr(recurrent, "over_seeds", otherwise)
    with pytest.raises(ClaimError, match=name):
        execute(notebook, cells)
