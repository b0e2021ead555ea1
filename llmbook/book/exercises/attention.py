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
        if _equal(got, (scores / math.sqrt(d_k)).softmax(0) @ v):
            raise NotYet(
                "The softmax runs over the queries. Each query has one unit of attention to "
                "spend: the rows must sum to 1."
            )
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


@exercise("attention/cosine_attention", title="Scores that cannot grow", difficulty=2, minutes=15)
def cosine_attention(answer):
    for seed, (n, m, d_k, tau) in enumerate([(3, 5, 7, 4.0), (4, 4, 2, 10.0), (1, 6, 16, 1.5)]):
        q, k, v = _normal(40 + seed, (n, d_k), (m, d_k), (m, 3))
        q, k = 5 * q, k / 3  # lengths far from 1
        unit_q, unit_k = (x / x.norm(dim=1, keepdim=True) for x in (q, k))
        got, cosines = call(answer, q, k, v, tau), unit_q @ unit_k.T
        if _equal(got, (cosines * tau / math.sqrt(d_k)).softmax(-1) @ v):
            raise NotYet("A cosine is between −1 and 1 at any width: no root of d_k is needed.")
        if _equal(got, (cosines / tau).softmax(-1) @ v):
            raise NotYet("tau multiplies: the larger it is, the sharper the weights.")
        agree(
            got,
            (tau * cosines).softmax(-1) @ v,
            "Divide each query and each key by its own length, row by row; the values stay as "
            "they are. The scores are tau times the products.",
        )
    return "Right: no score can leave [−tau, tau], whatever training does."
