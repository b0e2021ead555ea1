"""The chapters on attention: break the code under a claim, and the claim must not hold."""

from pathlib import Path

import pytest
from helpers.chapter_cells import execute

from llmbook.book.claims import ClaimError


FORMULA = ["setup", "attend", "calculator", "claims-formula"]
ROWS = [*FORMULA, "claims-rows"]
SELF = [*ROWS, "self", "cats-figure", "claims-self"]
CONTEXT = [*SELF, "claim-context"]
PATHS = ["setup", "paths", "claims-paths"]
FLASH = ["setup", "tiled", "tiled-backward", "claim-flash"]
SQUARE = ["setup", "tiled", "square-figure", "claim-square"]
CROWD = ["setup", "bound", "crowd-figure", "claim-crowd"]

# claim, what is broken: its notebook, the cells it stands on (the last makes it), old code, new
BROKEN = {
    "attn-four-steps, scale": (
        "attention",
        FORMULA,
        "scores = Q @ K.mT / math.sqrt(K.shape[-1])   #",
        "scores = Q @ K.mT / K.shape[-1]   #",
    ),
    "attn-formula, mask": ("attention", FORMULA, "masked_fill(~mask, -m", "masked_fill(mask, -m"),
    "demo-attention-calculator": (
        "attention",
        FORMULA,
        "[0.3414, 0.2000, 0.1791, 0.2795]",
        "[0.4369, 0.1499, 0.1203, 0.2929]",
    ),
    "attn-softmax-rows-are-distributions": (
        "attention",
        ROWS,
        "np.exp(x - x.max(-1, keepdims=True))",
        "np.exp(x)",
    ),
    "attn-output-weighted-sum": (
        "attention",
        ROWS,
        "outside(attend(*t)[0], t[2])",
        "outside(1.5 * attend(*t)[0], t[2])",
    ),
    "attn-6x6-worked-example": (
        "attention",
        SELF,
        "x = torch.stack([word_vectors[word] for word in sentence])",
        "x = torch.stack([word_vectors[word] for word in sentence]) + torch.arange(6)[:, None] / 9",
    ),
    "attn-context-from-entire-sequence": (
        "attention",
        CONTEXT,
        "decoder = influence(torch.ones(5, 5).tril().bool())",
        "decoder = influence(torch.ones(5, 5).tril(1).bool())",
    ),
    "attn-path-length": (
        "attention_kernels",
        PATHS,
        "h = torch.tanh(W @ h + U @ x)\n        states",
        "h = torch.tanh(W @ (states[len(states) // 2] if states else h) + U @ x)\n        states",
    ),
    "demo-path-length": (
        "attention_kernels",
        PATHS,
        "torch.ones(n, n).tril().bool() if causal",
        "torch.ones(n, n).tril(1).bool() if causal",
    ),
    "attn-all-positions-in-parallel": (
        "attention_kernels",
        PATHS,
        "    together = attend(Q, K, V)",
        "    together = torch.cat([attend(q, K, V) for q in Q.split(64)])",
    ),
    "attn-flash-is-approximate, forward": (
        "attention_kernels",
        FLASH,
        "l = fade * l + p.sum(1, keepdim=True)",
        "l = l + p.sum(1, keepdim=True)",
    ),
    "attn-flash-is-approximate, backward": (
        "attention_kernels",
        FLASH,
        "- D[a]) * scale",
        ") * scale",
    ),
    "attn-quadratic-compute": (
        "attention_kernels",
        SQUARE,
        "range(0, i + len(q) if causal else len(K), block)",
        "range(0, len(K), block)",
    ),
    "attn-long-range-as-easy-as-adjacent": (
        "attention_kernels",
        CROWD,
        "math.exp(2 * B) / (n - 1 + math.exp(2 * B))",
        "math.exp(B) / (n - 1 + math.exp(B))",
    ),
}


@pytest.mark.parametrize("cells", [CONTEXT, PATHS, FLASH, SQUARE, CROWD], ids=lambda c: c[-1])
def test_the_claims_hold_on_the_code_as_it_is(cells):
    execute("attention" if cells is CONTEXT else "attention_kernels", cells)


@pytest.mark.parametrize("name", BROKEN)
def test_a_claim_fails_when_the_code_under_it_is_broken(name):
    with pytest.raises(ClaimError, match=name.split(",")[0]):
        execute(*BROKEN[name])


@pytest.mark.parametrize(
    ("name", "cells", "part", "arm", "value"),
    [
        (
            "attn-coreference-it-animal",
            ["setup", "tired-figure", "claim-tired"],
            "pronoun",
            "causal",
            0.9,
        ),
    ],
)
def test_a_claim_on_recorded_runs_fails_when_they_say_otherwise(
    monkeypatch, name, cells, part, arm, value
):
    from llmbook.experiments import attention

    told = attention.over_seeds

    def otherwise(asked, which):
        found = told(asked, which)
        return [value] * len(found) if (asked, which) == (part, arm) else found

    execute("attention", cells)
    monkeypatch.setattr(attention, "over_seeds", otherwise)
    with pytest.raises(ClaimError, match=name):
        execute("attention", cells)
