"""Checks of the exercises on state spaces: small odd sizes, steps large enough for mistakes."""

import math

import torch

from llmbook.book.check import NotYet, agree, call, exercise, number
from llmbook.experiments.mamba import KEPT, SPREAD
from llmbook.ssm import selective_scan


def _random(seed, *shapes):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


@exercise("mamba/scan", title="The scan, one channel", difficulty=2, minutes=20)
def scan(answer):
    for tokens, states in ((7, 3), (1, 2)):
        u, delta, A, B, C = _random(
            tokens, tokens, tokens, states, (tokens, states), (tokens, states)
        )
        delta, A = delta.abs() + 0.3, -A.abs() - 0.2
        want = selective_scan(
            u[None, :, None], delta[None, :, None], A[None], B[None], C[None], backend="reference"
        )[0, :, 0]
        agree(
            call(answer, u, delta, A, B, C),
            want,
            "Three lines a token: what is kept is exp(delta * A) of the old state, what is added "
            "is delta * u * B, and y reads the new state with C.",
        )
    return "Right: a loop with a state of the size of A."


@exercise("mamba/compose", title="Two steps are one", difficulty=2, minutes=15)
def compose(answer):
    a1, b1, a2, b2, h = _random(3, 4, 4, 4, 4, 4)
    got = call(answer, (a1, b1), (a2, b2))
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise NotYet("Return a pair again, (a, b): the one step that does both.")
    advice = (
        "First h becomes a1 h + b1, then that becomes a2 (…) + b2. Multiply out, and read off "
        "what stands before h and what stands alone."
    )
    agree(got[0] * h + got[1], a2 * (a1 * h + b1) + b2, advice)
    agree(got[0], a1 * a2, advice)
    return "Right. It joins any two neighbours, so a tree can do it in any grouping."


@exercise("mamba/left", title="What is left?", difficulty=1, minutes=5, kind="predict")
def left(answer):
    agree(
        number(answer),
        math.exp(-2.0),
        "Each filler token multiplies the state by exp(Δ A) = exp(−0.1). Twenty of them in a row?",
        tolerance=5e-3,
    )
    return "Right: the exponents add, and exp(−2) is 0.135. With Δ = 0 all would be left."


@exercise("mamba/tree", title="Read the tree", difficulty=1, minutes=5, kind="figure")
def tree(answer):
    agree(
        number(answer),
        29,
        "Set 11 steps and go to the last round; the line below counts the joins. By hand: round r "
        "joins every place that is at least 2^r from the start.",
    )
    return "Right: 10 + 9 + 7 + 3 joins in 4 rounds, where the loop makes 10 in 10."


@exercise(
    "mamba/fixed_places",
    title="Take the luck out of the places",
    difficulty=2,
    minutes=20,
    kind="experiment",
)
def fixed_places(answer):
    g = torch.Generator().manual_seed(1)
    got = call(answer, 40, g)
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise NotYet("Return a pair: the inputs and the answers, as copying does.")
    x, y = got
    agree(
        torch.tensor(x.shape), torch.tensor([40, SPREAD + KEPT]), "Keep the shape of the inputs."
    )
    if not (x[:, SPREAD:] == 1).all():
        raise NotYet("The last places must hold the mark 1, which asks for the answers.")
    where = x[:, :SPREAD] >= 2
    if not (where == where[:1]).all() or not (where.sum(-1) == KEPT).all():
        raise NotYet(
            "The symbols must stand at the same KEPT places in every row, noise elsewhere."
        )
    agree(
        x[:, :SPREAD][where].view(40, KEPT) - 2, y, "The answers are the symbols, in their order."
    )
    if len(y.unique(dim=0)) < 10:
        raise NotYet("The symbols themselves must still be random, from row to row.")
    return (
        "Right. Now distance alone tells what to keep. Train `fixed` on it: is the task easy "
        "then? With the symbols at the very beginning it was not (0.54 right, one seed): to hold "
        "something for exactly so long has to be learned, too."
    )
