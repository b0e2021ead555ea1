"""Checks of the exercises in the chapter on positional encoding."""

import torch

from llmbook.book.check import NotYet, agree, call, chosen, exercise, number
from llmbook.experiments import extrapolation
from llmbook.positions import Rotary, convert_layout, sinusoidal


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


PLACES = ("all", "all but the last", "only the last", "none")


@exercise(
    "positional_encoding/later_shuffle",
    title="Shuffled before the last",
    difficulty=1,
    minutes=5,
    kind="predict",
)
def later_shuffle(answer):
    said = chosen(answer, PLACES)
    if said == "all":
        raise NotYet("Does the last token see another set of tokens than before?")
    if said == "only the last":
        raise NotYet(
            "The last token stands where it stood and sees the same set. What of the others?"
        )
    if said == "none":
        raise NotYet("At place 1 there is another token now, and it sees itself alone.")
    return "Right. And a second layer would let the last token notice, through the others."


@exercise(
    "positional_encoding/best_base",
    title="Which base at 200?",
    difficulty=1,
    minutes=5,
    kind="figure",
)
def best_base(answer):
    past = extrapolation.recorded()
    said = number(answer)
    place = next(i for i, end in enumerate(past["ends"]) if end >= 200)
    loss = {float(base): _mean(c[place] for c in curves) for base, curves in past["bases"].items()}
    if said not in loss:
        raise NotYet(f"The slider has nine places, and {said:g} is none of them.")
    best = min(loss, key=loss.get)
    if said != best:
        raise NotYet(
            f"With base {said:g} they lose {loss[said]:.2f} nats there. Another base does better."
        )
    return f"Right: {loss[best]:.2f} nats, the least of the nine. It is still far from 0."


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


@exercise(
    "positional_encoding/other_base",
    title="Base 500,000",
    difficulty=2,
    minutes=15,
    kind="experiment",
)
def other_base(answer):
    past = extrapolation.recorded()
    said = number(answer)

    def rises(base):
        return [_mean(c[4:8]) - _mean(c[:4]) for c in past["bases"][base]]

    low, high = min(rises("500000")), max(rises("500000"))
    usual, room = _mean(rises("10000")), high - low
    if low - room <= said <= high + room:
        return (
            f"Right. Recorded with five other seeds: {low:.2f} to {high:.2f}, against "
            f"{usual:.2f} for base 10,000. The figure shows how far that reaches."
        )
    if abs(said - usual) < 0.3:
        raise NotYet("That is about what base 10,000 gives. Call rise_with(500_000.0).")
    if said < 0:
        raise NotYet("The loss does not fall beyond 32: look at the order of the difference.")
    if said > 3:
        raise NotYet("A rise in nats a token is wanted: for no base is it above 3.")
    raise NotYet(
        f"Recorded runs lie between {low:.2f} and {high:.2f}. Train with base 500,000, for all "
        f"{extrapolation.STEPS} steps."
    )
