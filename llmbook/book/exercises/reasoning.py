"""Checks of the exercises on reasoning: groups and answers of odd sizes, worked by the engine."""

import math

import torch

from llmbook.alignment.grpo import GRPOConfig, group_advantages, grpo_loss
from llmbook.book.check import NotYet, agree, call, exercise, number
from llmbook.experiments import hops


@exercise("reasoning/all_right", title="Reliable, not lucky", difficulty=2, minutes=15)
def all_right(answer):
    for n, c, k in ((10, 7, 4), (6, 6, 2), (7, 2, 3), (5, 4, 2), (64, 63, 64), (9, 3, 1)):
        want = math.comb(c, k) / math.comb(n, k)
        got = call(answer, n, c, k)
        agree(
            number(got),
            want,
            f"With {c} right among {n}: of all ways to draw {k} of the {n} without putting any "
            f"back, which share holds right ones alone?",
        )
    return "Right. pass@k rises with k, this falls: a lucky model and a reliable one part here."


@exercise("reasoning/leave_one_out", title="The others' mean", difficulty=2, minutes=15)
def leave_one_out(answer):
    g = torch.Generator().manual_seed(1)
    for rewards, group in (
        (torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]), 4),
        (torch.rand(9, generator=g), 3),
        (torch.tensor([2.0, 2.0, 5.0, 1.0]), 2),
    ):
        got = call(answer, rewards, group)
        if not isinstance(got, torch.Tensor) or got.shape != rewards.shape:
            raise NotYet("Return one number for each answer, in their order: a tensor (rows,).")
        want = group_advantages(rewards, group, scale=False) * group / (group - 1)
        agree(
            got,
            want,
            "For each answer: its reward less the mean of the *other* answers to the same "
            "prompt, of which there are group − 1.",
            tolerance=1e-5,
        )
    return "Right: it is the centred advantage times n / (n − 1), and free of bias: RLOO's."


@exercise("reasoning/token_weights", title="What a token weighs", difficulty=3, minutes=20)
def token_weights(answer):
    longest = 8
    config = {"grpo": GRPOConfig(), "dapo": GRPOConfig(form="dapo")}
    config["dr_grpo"] = GRPOConfig(form="dr_grpo", max_new_tokens=longest)
    for lengths in ([5, 1, 8], [2, 2, 3, 7]):
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        for form, settings in config.items():
            log_p = torch.zeros(mask.shape, requires_grad=True)
            value, _ = grpo_loss(log_p, log_p.detach(), torch.ones(len(lengths)), mask, settings)
            (gradient,) = torch.autograd.grad(-value, log_p)
            got = call(answer, torch.tensor(lengths), form, longest)
            if not isinstance(got, torch.Tensor) or got.shape != (len(lengths),):
                raise NotYet("Return one weight for each answer: a tensor (rows,).")
            agree(
                got,
                gradient[:, 0],
                f"For {form} with lengths {lengths}: what stands before A in the loss for a "
                "single token of that answer? Divide by everything that the loss divides by.",
                tolerance=1e-6,
            )
    return "Right: only grpo's weight depends on the answer's own length."


@exercise("reasoning/rare", title="One right among eight", difficulty=1, minutes=5, kind="predict")
def rare(answer):
    rewards = torch.tensor([1.0] + [0.0] * 7)
    agree(
        number(answer),
        float(group_advantages(rewards, 8)[0]),
        "The mean is 1/8. The sample's deviation: the squares of seven times −1/8 and once 7/8, "
        "their sum over 7, and the root.",
        tolerance=5e-3,
    )
    return "Right: 2.47, and −0.35 for each of the others. A rare success is pushed hard."


@exercise(
    "reasoning/votes", title="Votes for a wrong answer", difficulty=1, minutes=5, kind="figure"
)
def votes(answer):
    want = sum(math.comb(9, c) * 0.4**c * 0.6 ** (9 - c) for c in range(5, 10))
    agree(
        number(answer),
        want,
        "Type 0.4 alone into the first figure, set 9 tries, wrong answers all the same, and read "
        "the majority. As a share from 0 to 1, not in percent.",
        tolerance=4e-3,
    )
    return "Right: 0.27. Nine votes are worse than one, since the wrong answer leads."


@exercise(
    "reasoning/frugal",
    title="A reward that pays for brevity",
    difficulty=2,
    minutes=20,
    kind="experiment",
)
def frugal(answer):
    prompt = [*torch.arange(16).roll(-1).tolist(), hops.STYLES["free"], hops.COUNT + 5, 2]
    cases = {  # answer, ended: what it is worth
        ((3, 4, 5, 6, 7), True): 1 - 0.02 * 5,
        ((7,), True): 1 - 0.02,
        ((3, 4, 5, 6, 7), False): 0.0,
        ((3, 4, 5, 6, 7, 8), True): 0.0,
        ((8,), True): 0.0,
        ((), True): 0.0,
    }
    for (tokens, ended), want in cases.items():
        got = call(answer, prompt, list(tokens), ended)
        agree(
            number(got),
            want,
            f"For {len(tokens)} symbols, {'ended' if ended else 'cut off'}: a right answer that "
            "ended is worth 1 less 0.02 a token; everything else 0, so that it never pays to be "
            "wrong and brief.",
            tolerance=1e-6,
        )
    return (
        "Right. Try it: lab.train_policy(copy.deepcopy(base), 1, frugal, lab.grpo_config(1), 60)."
    )
