"""Interactive: one block of a Transformer, step by step, with shapes and real numbers."""

import numpy as np
import traitlets

from .interactive import Interactive, check_range

WORDS = ("the", "small", "dogs", "saw", "a", "bird")
STAGES = (
    "embedding",
    "norm",
    "QKV",
    "scores",
    "weights",
    "heads",
    "output",
    "residual",
    "norm 2",
    "hidden",
    "FFN",
    "residual 2",
    "logits",
)
WIDTHS, HEADS = (4, 8, 12, 16), (1, 2, 4)


class BlockStepper(Interactive):
    """A pre-norm block with causal attention, from embedding to logits, one stage at a time.

    `batch` (1 to 8), `tokens` (2 to 6), `d_model` (4, 8, 12 or 16) and `heads` (1, 2 or 4) change
    the shapes; `stage` (0 to 12, see `STAGES`) is what is shown and `head` (from 0) which head of
    it. The numbers are those of the first sequence of the batch; the weights are fixed and
    random, the same here (`trace`) and in the browser. Raises ValueError for values out of
    range.
    """

    script = "blocks.js"
    alt = traitlets.Unicode(
        "One block of a Transformer, stepped through from embedding to logits: at each stage the "
        "shape of the tensor, how it is computed, and its numbers, for a chosen batch size, "
        "number of tokens, width and number of heads."
    ).tag(sync=True)
    words = traitlets.List(list(WORDS)).tag(sync=True)
    batch = traitlets.Int(2).tag(sync=True)
    tokens = traitlets.Int(4).tag(sync=True)
    d_model = traitlets.Int(8).tag(sync=True)
    heads = traitlets.Int(2).tag(sync=True)
    stage = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)

    def __init__(self, batch=2, tokens=4, d_model=8, heads=2, stage=0, head=0, **kwargs):
        check_range("batch", batch, 1, 8)
        check_range("tokens", tokens, 2, len(WORDS))
        for name, value, known in (("d_model", d_model, WIDTHS), ("heads", heads, HEADS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}: got {value}")
        check_range("stage", stage, 0, len(STAGES) - 1)
        check_range("head", head, 0, heads - 1)
        super().__init__(
            batch=batch,
            tokens=tokens,
            d_model=d_model,
            heads=heads,
            stage=stage,
            head=head,
            **kwargs,
        )


def fixed_weights(which, rows, columns):
    """A matrix of numbers between −1 and 1 that any language computes alike, over √rows."""
    i, j = np.arange(rows)[:, None], np.arange(columns)
    x = np.sin(12.9898 * (i + 1) + 78.233 * (j + 1) + 37.719 * which) * 4375.85453
    return (2 * (x - np.floor(x)) - 1) * np.sqrt(3 / rows)


def trace(tokens, d_model, heads):
    """The tensors of every stage for one sequence: {stage: [arrays]}.

    "QKV" holds three arrays (heads, tokens, d_model / heads), "scores" and "weights" (heads,
    tokens, tokens) with −inf and 0 above the diagonal, "heads" (heads, tokens, d_model / heads),
    "hidden" (tokens, 4 · d_model), "logits" (tokens, 6), all others (tokens, d_model).
    """
    d, head_dim = d_model, d_model // heads
    table = fixed_weights(0, len(WORDS), d) * np.sqrt(len(WORDS) / d)
    angle = np.arange(tokens)[:, None] / 10_000 ** (np.arange(0, d, 2) / d)
    place = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(tokens, d)
    x = np.sqrt(d) * table[:tokens] + place
    out = {"embedding": [x], "norm": [_norm(x)]}
    qkv = [out["norm"][0] @ fixed_weights(1 + n, d, d) for n in range(3)]
    q, k, v = (part.reshape(tokens, heads, head_dim).swapaxes(0, 1) for part in qkv)
    scores = q @ k.swapaxes(1, 2) / np.sqrt(head_dim)
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    found = weights @ v
    joined = found.swapaxes(0, 1).reshape(tokens, d)
    output = joined @ fixed_weights(4, d, d)
    hidden_in = x + output
    hidden = np.maximum(_norm(hidden_in) @ fixed_weights(5, d, 4 * d), 0)
    ffn = hidden @ fixed_weights(6, 4 * d, d)
    out |= {
        "QKV": [q, k, v],
        "scores": [scores],
        "weights": [weights],
        "heads": [found],
        "output": [output],
        "residual": [hidden_in],
        "norm 2": [_norm(hidden_in)],
        "hidden": [hidden],
        "FFN": [ffn],
        "residual 2": [hidden_in + ffn],
        "logits": [_norm(hidden_in + ffn) @ table.T],
    }
    return {name: out[name] for name in STAGES}


def _norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
