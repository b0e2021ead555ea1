"""Checks of the exercises in the chapter on positional encoding."""

import math

import torch

from llmbook.attention import causal_mask
from llmbook.book.check import NotYet, agree, call, exercise
from llmbook.positions import Rotary, alibi_bias, convert_layout, rotary_frequencies, sinusoidal


def _randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _close(a, b):
    """Whether an answer has the shape and the values of something, without complaint."""
    a = torch.as_tensor(a)
    return a.shape == b.shape and torch.allclose(a.to(b.dtype), b, atol=1e-6, equal_nan=True)


@exercise("positional_encoding/turn", title="Turn the table", difficulty=1, minutes=10)
def turn(answer):
    rows = torch.tensor([3, 41, 5, 17, 29])
    for k in (4, -3):
        pe = sinusoidal(rows, 14, dtype=torch.float64)
        want = sinusoidal(rows + k, 14, dtype=torch.float64)
        got = call(answer, pe, k)
        advice = "Turn pair i by k times 10000^(-2i/d), each pair by its own angle."
        if _close(got, sinusoidal(rows - k, 14, dtype=torch.float64)):
            advice = f"These rows stand on the other side: look at the signs (here k = {k})."
        elif _close(got, pe.roll(-k, 0)):
            advice = "The rows given need not be neighbours: turn each row where it stands."
        elif _close(got, torch.cat([want[:, 0::2], want[:, 1::2]], 1)):
            advice = "Right numbers, wrong order: sine and cosine alternate over the columns."
        elif k > 0 and _close(got, sinusoidal(torch.arange(5) + k, 14, dtype=torch.float64)):
            advice = "The rows need not start at position 0, and you do not need to know where."
        agree(got, want, advice)
    return "Right: a shift is a rotation, and you never needed the position."


@exercise("positional_encoding/rotary_half", title="Rotary, half-split", difficulty=2, minutes=15)
def rotary_half(answer):
    x, where = _randn(5, 10), torch.tensor([0, 3, 4, 11, 2])
    want = Rotary(10, layout="half").rotate(x, where)
    got = call(answer, x, where)
    advice = (
        "With a, b = x.chunk(2, -1): (a cos - b sin, a sin + b cos), frequencies 10000^(-2i/d)."
    )
    if _close(got, Rotary(10, layout="interleaved").rotate(x, where)):
        advice = "These are neighbouring pairs. Here number i is paired with number i + d/2."
    elif _close(got, Rotary(10, layout="half").rotate(x, -where)):
        advice = "This turns the other way: look at the sign of the sines."
    elif _close(got, Rotary(10, layout="half").rotate(x, torch.arange(5))):
        advice = "Use the positions given: they are not always 0, 1, 2, …"
    agree(got, want, advice)
    lengths = torch.as_tensor(got).norm(dim=-1)
    agree(lengths, x.norm(dim=-1), "A rotation keeps the length of every row.")


@exercise("positional_encoding/alibi", title="ALiBi with its mask", difficulty=2, minutes=15)
def alibi(answer):
    for heads, queries, keys in ((4, 5, 5), (2, 3, 7)):
        want = alibi_bias(heads, queries, keys)[0].double()
        allowed = causal_mask(queries, keys)
        got = torch.as_tensor(call(answer, heads, queries, keys)).detach().double()
        if got.shape != want.shape:
            raise NotYet(
                f"The shape is {tuple(got.shape)}, and (heads, queries, keys) = "
                f"{tuple(want.shape)} is expected."
            )
        if got.isnan().any():
            raise NotYet("There are NaNs: infinity times zero is NaN. Fill the mask in last.")
        hidden = got == -math.inf
        if not hidden.any():
            raise NotYet("Nothing is masked: keys after the query must get -inf.")
        strictly = (
            causal_mask(queries, keys) & ~torch.eye(keys, dtype=torch.bool)[keys - queries :]
        )
        if torch.equal(hidden, ~strictly.expand_as(hidden)):
            raise NotYet("A token may look at itself: only later keys get -inf.")
        if not torch.equal(hidden, ~allowed.expand_as(hidden)):
            raise NotYet(
                "The mask is not where it should be: the last query stands at the last "
                "key, so query i has position i + keys - queries."
            )
        got, want = got.masked_fill(hidden, 0), want.masked_fill(~allowed, 0)
        if _close(got, -want):
            raise NotYet("Far keys are to be penalised, not rewarded: the bias is negative.")
        agree(
            got,
            want,
            "The slope of head h = 1 … n is 2^(-8h/n), and the bias is minus slope "
            "times distance.",
            1e-5,
        )


@exercise(
    "positional_encoding/to_half_split", title="Convert a checkpoint", difficulty=3, minutes=20
)
def to_half_split(answer):
    n_heads, head_dim = 3, 10
    weight = _randn(n_heads * head_dim, 7)
    want = convert_layout(weight, "interleaved", "half", n_heads=n_heads, dim=0)
    got = call(answer, weight, n_heads)
    advice = "Within each head: first its even rows in order, then its odd rows."
    if _close(got, weight):
        advice = "The rows are where they were."
    elif _close(got, convert_layout(weight, "half", "interleaved", n_heads=n_heads, dim=0)):
        advice = "This converts in the other direction, from half-split to interleaved."
    elif _close(got, convert_layout(weight, "interleaved", "half", dim=0)):
        advice = "Rows have moved from one head into another: reorder within each head."
    agree(got, want, advice)
    x, where = _randn(4, 7, seed=1), torch.tensor([5, 1, 8, 2])
    before = Rotary(head_dim, layout="interleaved")
    after = Rotary(head_dim, layout="half")
    for h in range(n_heads):
        rows = slice(h * head_dim, (h + 1) * head_dim)
        old, new = x @ weight[rows].T, x @ torch.as_tensor(got)[rows].T
        old, new = before.rotate(old, where), after.rotate(new, where)
        agree(new @ new.T, old @ old.T, "The scores must be the same before and after.")
    return "Right: the scores of every head are what they were."


@exercise(
    "positional_encoding/never_round",
    title="Which hands never went round?",
    difficulty=2,
    minutes=10,
)
def never_round(answer):
    for head_dim, base, length in (
        (8, 10_000.0, 32),
        (64, 500_000.0, 8192),
        (22, 700.0, 100),
        (10, 1000.0, 26),
        (6, 10_000.0, 45),
    ):
        turned = (length - 1) * rotary_frequencies(head_dim, base)
        want = int((turned < 2 * math.pi).sum())
        got = call(answer, head_dim, base, length)
        if isinstance(got, torch.Tensor) and got.ndim:
            raise NotYet("One whole number is expected, and this is a tensor of several.")
        if abs(float(got) - want) > 1e-9:
            raise NotYet(
                f"For head_dim={head_dim}, base={base:g}, length={length} this gives "
                f"{float(got):g}. Count the pairs (not dimensions) with (length - 1) · ω below 2π."
            )
    return "Right. These are the pairs for which a longer text brings new angles."
