"""Checks of the exercises on policies: padding, odd sizes, gradients, both sides of a clip."""

import torch

from llmbook.alignment.dpo import dpo_loss
from llmbook.alignment.ppo import gae, token_rewards
from llmbook.alignment.ppo import whiten as library_whiten
from llmbook.book.check import NotYet, agree, call, exercise, number


@exercise("rlhf/advantages", title="A verdict for each token", difficulty=3, minutes=25)
def advantages(answer):
    g = torch.Generator().manual_seed(0)
    for rows, tokens, beta, lam in ((3, 7, 0.3, 0.95), (1, 5, 0.1, 1.0), (4, 6, 0.2, 0.0)):
        final = 3 * torch.randn(rows, generator=g, dtype=torch.float64)
        lengths = torch.randint(2, tokens + 1, (rows, 1), generator=g)
        lengths[0] = tokens - 1  # what padding holds must not matter
        mask = torch.arange(tokens) < lengths
        given = torch.randn(3, rows, tokens, generator=g, dtype=torch.float64)
        log_p, log_ref, values = torch.where(mask, given, 9.0).unbind()
        rewards = token_rewards(final, log_p, log_ref, mask, beta)
        want = library_whiten(gae(rewards, values, mask, 1.0, lam)[0], mask)
        log_p, values = log_p.clone().requires_grad_(), values.clone().requires_grad_()
        got = call(answer, final.clone(), log_p, log_ref.clone(), values, mask, beta, lam)
        if isinstance(got, torch.Tensor) and got.requires_grad:
            raise NotYet(
                "An advantage is given: no gradient may flow through it into the policy or the "
                "values. Detach it, or compute it under torch.no_grad()."
            )
        agree(
            got,
            want,
            "The reward of a token is −β (log π − log ρ), and at the last that counts the final "
            "one is added. δ = reward + the next token's value − its own value; behind the last "
            "token both value and advantage are 0. At the end take away the mean of all counted "
            "tokens and divide by their deviation; 0 where the mask is False.",
            tolerance=1e-4,
        )
    return "Right. A reward counted in cents would now give the same update."


@exercise("rlhf/dpo_pull", title="The pull of a pair, in DPO", difficulty=2, minutes=15)
def dpo_pull(answer):
    g = torch.Generator().manual_seed(1)
    for pairs, tokens, beta in ((5, 4, 0.1), (3, 6, 2.0)):
        mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (pairs, 2, 1), generator=g)
        ours = -5 * torch.rand(pairs, 2, tokens, generator=g, dtype=torch.float64)
        reference = ours + 0.5 * torch.randn(ours.shape, generator=g, dtype=torch.float64)
        reference = torch.where(mask, reference, -7.0)  # what padding holds must not matter
        ours.requires_grad_()
        sums = ((x * mask).sum(-1) for x in (ours, reference))
        (want,) = torch.autograd.grad(dpo_loss(*sums, beta)[0], ours)
        agree(
            call(answer, ours.detach(), reference, mask, beta),
            want,
            "An answer's log-probability is the sum over its tokens, the mask's alone. The slope "
            "of −log σ(m) is −(1 − σ(m)); m grows by β for each nat of the chosen answer and "
            "falls by β for each of the rejected one; the mean is over pairs.",
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
