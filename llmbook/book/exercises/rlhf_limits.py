"""Checks of the exercises on where tuning against a score ends."""

import torch

from llmbook.book.check import NotYet, agree, call, exercise, number


def _nats(p, n):
    """KL of the best of n draws from p, answers in order from the worst, all different."""
    up_to = p.cumsum(0)
    best = up_to**n - (up_to - p).clamp(min=0) ** n
    return (best * (best / p).log()).sum()


@exercise("rlhf_limits/best_of_kl", title="What best-of-n costs", difficulty=2, minutes=20)
def best_of_kl(answer):
    g = torch.Generator().manual_seed(0)
    for size, n in ((6, 3), (40, 1), (300, 4)):
        p = torch.randn(size, generator=g, dtype=torch.float64).softmax(0)
        agree(
            number(call(answer, p, n)),
            _nats(p, n).item(),
            "The best of n stands at place i when all n draws are at most at i, and not all of "
            "them below it: P(≤ i)ⁿ − P(< i)ⁿ. Then Σ q log(q / p), and n = 1 costs nothing.",
            tolerance=1e-6,
        )
    return "Right. With many answers it comes near to ln n − (n − 1)/n, from below."


@exercise("rlhf_limits/without_length", title="Reward without length", difficulty=2, minutes=15)
def without_length(answer):
    g = torch.Generator().manual_seed(1)
    for rows in (40, 7):
        lengths = torch.randint(3, 30, (rows,), generator=g).double()
        rewards = 5 + 0.3 * lengths + torch.randn(rows, generator=g, dtype=torch.float64)
        centred = lengths - lengths.mean()
        slope = (centred * rewards).sum() / centred.square().sum()
        agree(
            call(answer, rewards, lengths),
            rewards - slope * centred,
            "The slope is Σ (length − mean)(reward − mean) / Σ (length − mean)². Take away slope "
            "times (length − mean length): the mean reward stays as it was.",
        )
    return (
        "Right: no correlation with length is left. If length was worth something, that is gone."
    )


@exercise(
    "rlhf_limits/at_most", title="Sixteen tries in nats", difficulty=1, minutes=5, kind="predict"
)
def at_most(answer):
    agree(number(answer), 1.8351, "ln n − (n − 1)/n, with the natural logarithm.", tolerance=0.015)
    return "Right: 1.84 nats. PPO's runs in the last chapter went two to three times as far."


@exercise("rlhf_limits/stop_here", title="Where to stop", difficulty=1, minutes=5, kind="figure")
def stop_here(answer):
    from llmbook.experiments.rlhf.runs import recorded_runs

    curves = recorded_runs()["pressed"]["0.0/2"]["curves"]["true"]
    agree(
        number(answer),
        max(range(len(curves)), key=curves.__getitem__),
        "The line below the first figure names the step, for its first run.",
    )
    return "Right. Nobody who tunes a model can see it."


@exercise(
    "rlhf_limits/cautious", title="Several judges", difficulty=2, minutes=20, kind="experiment"
)
def cautious(answer):
    g = torch.Generator().manual_seed(2)
    for judges, rows in ((4, 6), (2, 3)):
        scores = torch.randn(judges, rows, generator=g, dtype=torch.float64)
        scores[1:] = scores[1:] * 2 + 7  # another unit and another zero
        for weight in (0.0, 1.5):
            alike = (scores - scores.mean(1, keepdim=True)) / scores.std(
                1, correction=0, keepdim=True
            )
            want = alike.mean(0) - weight * alike.std(0, correction=0)
            got = call(answer, scores, weight)
            if isinstance(got, torch.Tensor) and got.shape == (judges,):
                raise NotYet("One number for each answer, not for each judge.")
            agree(
                got,
                want,
                "First each judge's scores to mean 0 and deviation 1 over the answers, then over "
                "the judges the mean less weight times the deviation.",
            )
    return "Right. Answers on which the judges differ are those that a policy would dig for."
