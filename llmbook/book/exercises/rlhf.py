"""Checks of the exercises on policies: padding, odd sizes, both sides of every clip."""

import torch

from llmbook.alignment.dpo import dpo_loss
from llmbook.alignment.ppo import whiten as library_whiten
from llmbook.book.check import NotYet, agree, call, exercise, number


@exercise("rlhf/whiten", title="Whitened advantages", difficulty=1, minutes=10)
def whiten(answer):
    g = torch.Generator().manual_seed(0)
    for rows, tokens in ((3, 7), (1, 5)):
        x = 2 + 3 * torch.randn(rows, tokens, generator=g, dtype=torch.float64)
        lengths = torch.randint(2, tokens + 1, (rows, 1), generator=g)
        mask = torch.arange(tokens) < lengths
        x = torch.where(mask, x, 99.0)  # what padding holds must not matter
        agree(
            call(answer, x, mask),
            library_whiten(x, mask),
            "Mean and deviation are those of all counted tokens of the batch together, the "
            "deviation divided by their number; where the mask is False the result is 0.",
            tolerance=1e-4,
        )
    return "Right. A reward counted in cents would now give the same update."


@exercise("rlhf/dpo_pull", title="The pull of a pair, in DPO", difficulty=2, minutes=15)
def dpo_pull(answer):
    g = torch.Generator().manual_seed(1)
    for pairs, beta in ((5, 0.1), (3, 2.0)):
        ours = -20 * torch.rand(pairs, 2, generator=g, dtype=torch.float64)
        reference = ours + torch.randn(pairs, 2, generator=g, dtype=torch.float64)
        ours.requires_grad_()
        (want,) = torch.autograd.grad(dpo_loss(ours, reference, beta)[0], ours)
        agree(
            call(answer, ours.detach(), reference, beta),
            want,
            "The slope of −log σ(m) is −(1 − σ(m)); m grows by β for each nat of the chosen "
            "answer and falls by β for each of the rejected one; the mean is over pairs.",
        )
    return "Right. Pairs that the policy orders well already hardly pull any more."


@exercise("rlhf/pulled_back", title="A bad token grew", difficulty=1, minutes=5, kind="predict")
def pulled_back(answer):
    agree(
        number(answer),
        -1,
        "min(w A, clip(w) A) with A = −1: at w = 1.5 the first is −1.5 and the second −1.2. Which "
        "is smaller, and does it still depend on w?",
    )
    return "Right: the clip never protects a mistake."


@exercise("rlhf/read_clip", title="A bad token shrank", difficulty=1, minutes=5, kind="figure")
def read_clip(answer):
    agree(
        number(answer),
        -1.2,
        "Set the advantage to −1.5, the ratio to 0.5 and leave both clips at 0.2; the objective "
        "stands below the picture.",
        tolerance=0.011,
    )
    return "Right: it is held at 0.8 · −1.5, and has no slope."


@exercise(
    "rlhf/next_beta", title="A β that finds itself", difficulty=2, minutes=20, kind="experiment"
)
def next_beta(answer):
    for beta, kl, target in (
        (0.1, 6.0, 6.0),
        (0.1, 6.6, 6.0),
        (0.1, 60.0, 6.0),
        (0.2, 5.7, 6.0),
        (0.2, 0.0, 6.0),
        (0.05, 12.0, 10.0),
    ):
        want = beta * (1 + 0.1 * max(-0.2, min(0.2, kl / target - 1)))
        got = number(call(answer, beta, kl, target))
        if abs(got - want) > 1e-9 and (got > beta) != (want > beta) and want != beta:
            raise NotYet("Too far from the reference, β has to grow; too near, to fall.")
        agree(
            got,
            want,
            "The error is KL / target − 1, cut to ±0.2; β grows by a tenth of it, as a factor.",
            tolerance=1e-9,
        )
    return "Right. It trades one number to choose for another, which is easier to have a wish for."
