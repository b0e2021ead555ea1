"""Checks of the chapter on attention: no softmax is near saturation, so wrong scales show."""

import math

import torch

from llmbook.book.check import NotYet, agree, call, exercise, number
from llmbook.experiments import attention as lab


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


@exercise("attention/spread", title="Sixty-four terms", difficulty=1, minutes=5, kind="predict")
def spread(answer):
    got = number(answer)
    if abs(got - 64) < 0.5:
        raise NotYet("That is the variance. The standard deviation is asked for.")
    agree(got, 8.0, "64 independent terms, each of variance 1: variances add.", tolerance=0.02)
    return "Right: hence the division by the root of 64."


@exercise(
    "attention/no_such_day",
    title="A day that does not exist",
    difficulty=1,
    minutes=5,
    kind="figure",
)
def no_such_day(answer):
    if not isinstance(answer, str) or len(answer.strip()) != 10:
        raise NotYet("Answer with what it writes, ten characters in quotation marks.")
    if answer.strip() != _written("31 February 2001"):
        raise NotYet(
            "Type 31 February 2001 into the first figure, with nothing hidden, and read what it "
            "writes, to the last character."
        )
    return "Right. It copies shapes; nobody told it a calendar."


def _written(text):
    """What the translator in the page writes."""
    x, lengths, _ = lab.as_ids([(text, "0000-00-00")])
    with torch.no_grad():
        return lab.DIGITS.decode(lab.shipped()(x, lengths, steps=10)[0][0].argmax(-1))


@exercise(
    "attention/glance", title="One glance ahead", difficulty=2, minutes=20, kind="experiment"
)
def glance(answer):
    for n, at, ahead in ((12, 8, 11), (6, 2, 4)):
        got = torch.as_tensor(call(answer, n, at, ahead))
        want = torch.ones(n, n).tril().bool()
        want[at, ahead] = True
        if got.shape == (n, n) and got.dtype != torch.bool:
            raise NotYet(f"A boolean mask is expected, True = may look: this is {got.dtype}.")
        if _equal(got, want.T):
            raise NotYet("Transposed: a row is who looks, a column who is looked at.")
        if _equal(got, ~want):
            raise NotYet("Inverted: True must mean that a position may look.")
        if got.shape == (n, n) and not got[at, ahead]:
            raise NotYet(f"Position {at} does not see position {ahead} yet.")
        if got.shape == (n, n) and int(got.triu(1).sum()) > 1:
            raise NotYet("More than one position sees something later: one glance, no more.")
        agree(got, want, "Everything else stays causal: a position sees itself and all before it.")
    told = lab.over_seeds("pronoun", "causal, one glance ahead")
    reached = f" Five recorded seeds: {min(told):.2f} to {max(told):.2f}." if told else ""
    return f"Right. Now train it: pronoun.resolved(glance(12, 8, 11), at=8, seed=1).{reached}"
