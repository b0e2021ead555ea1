"""Checks of the exercises on preferences and reward models: ties, doubles, small odd sizes."""

import torch

from llmbook.alignment.reward import bradley_terry
from llmbook.book.check import NotYet, agree, call, exercise, number


@exercise("rlhf_rewards/pairs", title="Pairs of one ranking", difficulty=1, minutes=10)
def pairs(answer):
    for ranks in ([0, 1, 2], [2, 0, 1, 3, 0], [1, 1], [0.5]):
        got = call(answer, ranks)
        try:
            found = sorted(tuple(pair) for pair in got)
        except TypeError as error:
            raise NotYet("Return a list of pairs of places, such as [(0, 1)].") from error
        want = sorted((i, j) for i, a in enumerate(ranks) for j, b in enumerate(ranks) if a < b)
        if found == want:
            continue
        if len(found) != len(want):
            raise NotYet(
                f"The ranking {ranks} has {len(want)} pairs and yours has {len(found)}: each pair "
                "once, and a tie is none."
            )
        raise NotYet("The better answer stands first in a pair, and the better rank is lower.")
    return "Right: K (K − 1)/2 where nothing is tied."


@exercise("rlhf_rewards/pull", title="The pull of a pair", difficulty=2, minutes=15)
def pull(answer):
    g = torch.Generator().manual_seed(0)
    for n, count in ((5, 7), (3, 4)):
        scores = torch.randn(n, generator=g, dtype=torch.float64).requires_grad_()
        winners = torch.randint(n, (count,), generator=g)
        losers = (winners + 1 + torch.randint(n - 1, (count,), generator=g)) % n
        loss = bradley_terry(scores[winners], scores[losers]).mean()
        (want,) = torch.autograd.grad(loss, scores)
        agree(
            call(answer, scores.detach(), winners, losers),
            want,
            "Each pair adds −(1 − σ(difference)) / pairs to its winner and the same with a plus "
            "to its loser; an answer in several pairs gets the sum of them.",
        )
    return "Right. The pulls of a pair cancel, so the mean score never moves."


@exercise(
    "rlhf_rewards/how_many", title="How many pairs?", difficulty=1, minutes=5, kind="predict"
)
def how_many(answer):
    agree(
        number(answer),
        20,
        "Seven answers have 7 · 6 / 2 pairs; one of them is a tie, and says nothing.",
    )
    return "Right: 21 less the tie."


@exercise(
    "rlhf_rewards/slope_there", title="Read the loss", difficulty=1, minutes=5, kind="figure"
)
def slope_there(answer):
    agree(
        number(answer),
        -0.632,
        "The loss is 1 nat a little to the left of −0.5. The dashed line there is between −0.7 "
        "and −0.6.",
        tolerance=0.055,
    )
    return "Right: −(1 − e⁻¹) = −0.63. A pair in the wrong order pulls more than one at 0."


@exercise(
    "rlhf_rewards/slips", title="A labeller who slips", difficulty=2, minutes=20, kind="experiment"
)
def slips(answer):
    ranks = [[0, 1, 2, 3], [1, 0, 0, 2], [2, 1, 0, 3]] * 200
    turned = [[max(row) - r for r in row] for row in ranks]
    given = [call(answer, ranks, share, _dice(1)) for share in (0.0, 1.0, 0.3)]
    for got in given:
        if not isinstance(got, (list, tuple)) or len(got) != len(ranks):
            raise NotYet("Return as many rankings as were given, as a list of lists.")
    never, always, some = ([list(row) for row in got] for got in given)
    if never != ranks:
        raise NotYet("With share 0 nothing changes.")
    if always != turned:
        raise NotYet(
            "With share 1 every ranking is turned round: the best has the largest rank then, and "
            "a tie is still a tie."
        )
    whole = [row in (old, new) for row, old, new in zip(some, ranks, turned, strict=True)]
    if not all(whole):
        raise NotYet("A row is turned round as a whole, or left as it is.")
    part = sum(row == new for row, new in zip(some, turned, strict=True)) / len(ranks)
    if not 0.22 < part < 0.38:
        raise NotYet(f"With share 0.3 about 30% of the rows are turned round: here {part:.0%}.")
    if call(answer, ranks, 0.3, _dice(1)) != given[2]:
        raise NotYet("Draw from `gen`, so that the same generator gives the same rankings.")
    return "Right. At 0.5 nothing is left to learn; below, more comparisons make up for noise."


def _dice(seed):
    return torch.Generator().manual_seed(seed)
