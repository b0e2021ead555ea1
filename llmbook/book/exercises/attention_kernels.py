"""Checks of the exercises on what attention costs: odd sizes, counted work, sums in halves."""

import math

import torch
from torch.utils.flop_counter import FlopCounterMode

from llmbook.book.check import NotYet, agree, call, exercise, number
from llmbook.figures.online import OnlineSoftmax


def _normal(seed, *shapes):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes]


@exercise("attention_kernels/merge", title="Two halves of a softmax", difficulty=3, minutes=25)
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
        want = _partial(scores, values)
        mine = torch.as_tensor(got[2])
        if mine.shape == (3,) and torch.allclose(mine.double(), want[2] / want[1]):
            raise NotYet(
                "The output o is divided by the sum already. Reports stay undivided: otherwise a "
                "third one could not be merged in."
            )
        names = ("the maximum m", "the sum l", "the output o")
        for name, one, two in zip(names, got, want, strict=True):
            agree(
                one,
                two,
                f"Look at {name}. Each half was computed relative to its own maximum; bring "
                "both to the common one before adding.",
            )
    nothing = (-math.inf, 0.0, torch.zeros(3, dtype=torch.float64))
    got = call(answer, nothing, parts[0])
    for mine, want in zip(got, parts[0], strict=True):
        agree(
            mine, want, "Merging with an empty half (m = −∞, l = 0, o = 0) should change nothing."
        )
    return "Right. This is how a long context is split over many processors."


def _partial(scores, values):
    m = scores.max()
    p = (scores - m).exp()
    return m.item(), p.sum().item(), p @ values


@exercise(
    "attention_kernels/attention_share",
    title="When does the square dominate?",
    difficulty=2,
    minutes=15,
)
def attention_share(answer):
    for causal in (False, True):
        for n, d in [(1024, 512), (4096, 768), (100, 4096), (49152, 4096)]:
            work = (2 if causal else 4) * n * n * d
            agree(
                call(answer, n, d, causal),
                work / (work + 24 * d * d * n),
                ("With a causal mask a kernel leaves out half of the tiles. " if causal else "")
                + "Count per layer: 4 n² d for the two products with scores, and for each of n "
                "tokens two operations for each of 12 d² weights.",
            )
    return "Right: n / (n + 6 d), and with a causal mask n / (n + 12 d)."


@exercise("attention_kernels/needed_score", title="Attention in a crowd", difficulty=3, minutes=20)
def needed_score(answer):
    for n, weight in [(10, 0.5), (1000, 0.9), (50, 0.3), (128_000, 0.99)]:
        agree(
            call(answer, n, weight),
            0.5 * math.log(weight * (n - 1) / (1 - weight)),
            "One key at +B, the n − 1 others at −B: its weight is e^B / (e^B + (n − 1) e^(−B)). "
            "Solve for B.",
        )
    return "Right: B grows like half the logarithm of n."


@exercise(
    "attention_kernels/tiles_left", title="Tiles left", difficulty=1, minutes=5, kind="predict"
)
def tiles_left(answer):
    got = number(answer)
    if got == 64 * 63 / 2:
        raise NotYet("The tiles on the diagonal are needed too: half of each is allowed.")
    if got == 64 * 64 / 2:
        raise NotYet("Not quite half: count row by row. How many tiles has the first, the second?")
    agree(got, 2080.0, "64 rows of tiles. Row r, from 1 on, needs r tiles.")
    return "Right: 64 · 65 / 2 of 4,096, a little more than half."


@exercise("attention_kernels/fade", title="By how much?", difficulty=1, minutes=5, kind="figure")
def fade(answer):
    got, want = number(answer), OnlineSoftmax("2 5 1 7 3 6", block=2, step=0).walk()[1][1]
    if abs(got * want - 1) < 0.02:
        raise NotYet("The other way round: what was summed must shrink when the maximum grows.")
    agree(
        got / want,
        1.0,
        "In the first figure type 2 5 1 7 3 6, let two arrive at once, and read fade after the "
        "second block.",
        tolerance=0.02,
    )
    return "Right: e to the (5 − 7)."


@exercise(
    "attention_kernels/windowed",
    title="Only the last few",
    difficulty=3,
    minutes=30,
    kind="experiment",
)
def windowed(answer):
    for seed, (n, window, block) in enumerate([(33, 5, 8), (40, 40, 16), (20, 1, 4), (50, 21, 7)]):
        q, k, v = _normal(50 + seed, (n, 6), (n, 6), (n, 4))
        back = torch.arange(n)[:, None] - torch.arange(n)
        seen = (back >= 0) & (back < window)
        got = torch.as_tensor(call(answer, q, k, v, window, block))
        scores = (q @ k.T / math.sqrt(6)).masked_fill(~seen, -math.inf)
        wider = (q @ k.T / math.sqrt(6)).masked_fill(~((back >= 0) & (back <= window)), -math.inf)
        if got.shape == (n, 4) and got.isnan().any():
            raise NotYet("NaN: some query sees no key at all. It sees at least itself.")
        if window < n and got.shape == (n, 4) and torch.allclose(got, wider.softmax(-1) @ v):
            raise NotYet("One key too many: with itself, a query sees `window` keys.")
        agree(
            got,
            scores.softmax(-1) @ v,
            f"n = {n}, window {window}: query i sees the keys from i − window + 1 to i.",
        )
    work = [_flops(answer, n) for n in (256, 512)]
    if work[0] == 0 or work[1] > 2.2 * work[0]:
        raise NotYet(
            f"The result is right, but twice the length takes {work[1] / max(work[0], 1):.1f} "
            "times the work. Leave out the blocks of keys that no query of the block sees."
        )
    return "Right, and the work grows in proportion to the length."


def _flops(function, n):
    q, k, v = _normal(1, (n, 8), (n, 8), (n, 8))
    with FlopCounterMode(display=False) as counter:
        call(function, q, k, v, 16, 16)
    return counter.get_total_flops()
