"""Checks of the chapter on attention: no softmax is near saturation, so wrong scales show."""

import math

import torch

from llmbook.book.check import NotYet, agree, call, exercise


def _normal(seed, *shapes):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes]


def _equal(got, other):
    return (
        isinstance(got, torch.Tensor) and got.shape == other.shape and torch.allclose(got, other)
    )


@exercise("attention/scaled_attention", title="The formula, from memory", difficulty=1, minutes=10)
def scaled_attention(answer):
    for seed, (n, m, d_k, d_v) in enumerate(
        [(3, 5, 7, 2), (4, 4, 4, 4), (1, 6, 16, 3), (5, 2, 3, 5)]
    ):
        q, k, v = _normal(seed, (n, d_k), (m, d_k), (m, d_v))
        got, scores = call(answer, q, k, v), q @ k.T
        want = (scores / math.sqrt(d_k)).softmax(-1) @ v
        for scale, advice in (
            (1, "The scores are not scaled."),
            (1 / d_k, "Divided by d_k: take its root."),
            (math.sqrt(d_k), "Multiplied by the root of d_k: divide."),
        ):
            if d_k > 1 and _equal(got, (scores * scale).softmax(-1) @ v):
                raise NotYet(advice)
        agree(
            got,
            want,
            "Four steps: products of queries and keys, divided by the root of the keys' width, "
            "a softmax over the keys, a weighted sum of the values. Which of them differs?",
        )
    return "Right, for self- and cross-attention alike."


@exercise("attention/masked_weights", title="Who may look at whom", difficulty=2, minutes=15)
def masked_weights(answer):
    (scores,) = _normal(7, (4, 5))
    mask = torch.tensor(
        [[1, 1, 0, 1, 0], [0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    ).bool()
    want = scores.masked_fill(~mask, -math.inf).softmax(-1)
    got = torch.as_tensor(call(answer, scores, mask))
    if got.shape == want.shape and got[~mask].abs().max() > 0:
        raise NotYet(
            "A forbidden key gets some weight. True means: may attend. "
            "A score of 0 forbids nothing."
        )
    if got.shape == want.shape and (got.sum(-1) - 1).abs().max() > 1e-6:
        raise NotYet("The rows do not sum to 1. Does the mask act before the softmax?")
    agree(got, want, "Allowed keys must share the weight as softmax shares it among their scores.")
    (square,) = _normal(8, (5, 5))
    causal = torch.ones(5, 5).tril().bool()
    agree(
        call(answer, square, causal),
        square.masked_fill(~causal, -math.inf).softmax(-1),
        "With a causal mask the weights are wrong: is the mask transposed?",
    )
    mask[2] = False
    got = torch.as_tensor(call(answer, scores, mask))
    if got.isnan().any():
        raise NotYet(
            "A query that may look at nothing gives NaN (0 / 0). Its weights should all be 0."
        )
    want = scores.masked_fill(~mask, -math.inf).softmax(-1).nan_to_num(0.0)
    agree(got, want, "A query that may look at nothing should get weight 0 on every key.")


@exercise("attention/additive_weights", title="Bahdanau's score", difficulty=2, minutes=15)
def additive_weights(answer):
    for seed, (n, d_s, d_h, width) in enumerate([(5, 3, 4, 6), (7, 4, 4, 4)]):
        s, h, w, u, v = _normal(20 + seed, (d_s,), (n, d_h), (width, d_s), (width, d_h), (width,))
        want = (torch.tanh(w @ s + h @ u.T) @ v).softmax(0)
        agree(
            call(answer, s, h, w, u, v),
            want,
            "The score of state j is v · tanh(W s + U h_j); the weights are their softmax over j.",
        )


@exercise("attention/merge", title="Two halves of a softmax", difficulty=3, minutes=25)
def merge(answer):
    for seed, (a, b) in enumerate([(3, 4), (5, 1), (2, 6)]):
        scores, values = _normal(30 + seed, (a + b,), (a + b, 3))
        scores = scores + torch.arange(a + b).double() * (
            0.5 - (seed % 2)
        )  # the larger maximum on either side
        parts = [_partial(scores[:a], values[:a]), _partial(scores[a:], values[a:])]
        got = call(answer, *parts)
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            raise NotYet("Return three things: the maximum, the sum and the unnormalised output.")
        names = ("the maximum m", "the sum l", "the output o")
        for name, mine, want in zip(names, got, _partial(scores, values)):
            agree(
                mine,
                want,
                f"Look at {name}. Each half was computed relative to its own maximum; bring "
                "both to the common one before adding.",
            )
    nothing = (-math.inf, 0.0, torch.zeros(3, dtype=torch.float64))
    got = call(answer, nothing, parts[0])
    for mine, want in zip(got, parts[0]):
        agree(
            mine, want, "Merging with an empty half (m = −∞, l = 0, o = 0) should change nothing."
        )
    return "Right. This is how a long context is split over many processors."


def _partial(scores, values):
    m = scores.max()
    p = (scores - m).exp()
    return m.item(), p.sum().item(), p @ values


@exercise(
    "attention/attention_share", title="When does the square dominate?", difficulty=2, minutes=15
)
def attention_share(answer):
    for n, d in [(1024, 512), (4096, 768), (100, 4096), (49152, 4096)]:
        work = 4 * n * n * d
        agree(
            call(answer, n, d),
            work / (work + 24 * d * d * n),
            "Count per layer: 4 n² d for the two products with scores, and for each of n tokens "
            "two operations for each of 12 d² weights.",
        )
    return "Right: n / (n + 6 d). One half at n = 6 d."


@exercise("attention/needed_score", title="Attention in a crowd", difficulty=3, minutes=20)
def needed_score(answer):
    for n, weight in [(10, 0.5), (1000, 0.9), (50, 0.3), (128_000, 0.99)]:
        agree(
            call(answer, n, weight),
            0.5 * math.log(weight * (n - 1) / (1 - weight)),
            "One key at +B, the n − 1 others at −B: its weight is e^B / (e^B + (n − 1) e^(−B)). "
            "Solve for B.",
        )
    return "Right: B grows like half the logarithm of n."
