"""Checks of the exercises on pretraining: masked targets, logits that overflow, cut state."""

import math
from collections import Counter

import torch

from llmbook.book.check import NotYet, agree, call, exercise, number


def _random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@exercise("pretraining/masked_loss", title="The loss, with gaps", difficulty=2, minutes=15)
def masked_loss(answer):
    logits, targets = 2 * _random(1, 9, 5), torch.tensor([0, -100, 3, 4, 4, -100, 1, 2, -100])
    want = torch.nn.functional.cross_entropy(logits, targets)
    got = call(answer, logits, targets)
    if torch.is_tensor(got) and got.numel() == 1 and abs(got.item() * 9 - want.item() * 6) < 1e-9:
        raise NotYet("The sum is right. It is divided by 9, and only 6 of the targets count.")
    agree(
        got,
        want,
        "The mean of −log p over the rows whose target is not −100. In nats: the natural "
        "logarithm.",
    )
    big = logits.clone()
    big[0, 0] = 1000.0
    big[2, 3] = -1000.0  # the token that came
    got = call(answer, big, targets)
    if not torch.isfinite(torch.as_tensor(got)).all():
        raise NotYet(
            "With a logit of 1,000 it is no longer finite: exp(1000) is too large. Use logsumexp."
        )
    agree(
        got,
        torch.nn.functional.cross_entropy(big, targets),
        "Right for small logits, not for ±1,000: is a clamp or an ε in the way? A token with "
        "probability e⁻¹⁰⁰⁰ is a surprise of 1,000.",
    )
    return "Right, and safe."


@exercise("pretraining/bytes_held", title="What each device holds", difficulty=2, minutes=15)
def bytes_held(answer):
    kept = {0: "nothing", 1: "the 12 bytes of the optimiser", 2: "these and the gradient's 2"}
    for n in (1, 2, 8, 64):
        for stage, cut in enumerate((0, 12, 14, 16)):
            want = 16 - cut + cut / n
            got = number(call(answer, stage, n))
            if stage == 3 and abs(got - (16 - 14 + 14 / n)) < 1e-9 and n > 1:
                raise NotYet("Stage 3 cuts the 16-bit weight, too: nothing is held whole.")
            if cut and abs(got - (16 - cut) / n) < 1e-9 and n > 1:
                raise NotYet(f"Stage {stage}: you share out what stays whole, and drop the rest.")
            agree(
                got,
                want,
                f"Stage {stage} on {n} devices: of the 16 bytes it cuts "
                f"{kept.get(stage, 'everything')}; what is not cut every device holds whole.",
                tolerance=1e-9,
            )
    return "Right. With 64 devices, stage 3 holds a quarter of a byte a parameter on each."


@exercise(
    "pretraining/perplexity_of_other",
    title="Longer tokens",
    difficulty=1,
    minutes=5,
    kind="predict",
)
def perplexity_of_other(answer):
    got = number(answer)
    if abs(got - math.sqrt(10)) < 0.05:
        raise NotYet("Upside down: fewer tokens share the same surprise, so each has more of it.")
    if abs(got - 20) < 1e-6:
        raise NotYet("The surprise a token doubles, not the perplexity, which is its exponential.")
    agree(
        got,
        10.0**2,
        "Equal bits per byte: the text's whole surprise is the same, and it has half as many "
        "tokens. What is twice ln 10 as a perplexity?",
        tolerance=1e-3,
    )
    return "Right: 100. A token twice as long carries twice the surprise, and e² ln 10 is 10²."


@exercise(
    "pretraining/lost_from", title="Read the updates", difficulty=1, minutes=5, kind="figure"
)
def lost_from(answer):
    from llmbook.experiments import precision, pretraining

    runs = [found["lost"] for found in pretraining.over_seeds("precision", "float32")]
    over = [s for s in precision.LOST_AT if all(one[str(s)][0] > 0.1 for one in runs)]
    got = number(answer)
    if got not in precision.LOST_AT:
        raise NotYet(f"One of the measured steps is asked for: {precision.LOST_AT}.")
    if got in over and got != over[0]:
        raise NotYet("It is true of that step, but it began earlier.")
    agree(got, over[0], "Orange is bfloat16. At that step some seed still lies below 10%.")
    return "Right. While the rate is high nearly every update counts; then it falls."


@exercise("pretraining/fair", title="Change the diet", difficulty=2, minutes=20, kind="experiment")
def fair(answer):
    from llmbook.experiments.toy_world import build_world

    for seed in (0, 7):
        family = build_world(seed).family
        got = call(answer, family)
        if not isinstance(got, dict) or set(got) != set(family):
            raise NotYet("Return a dict with the same kinds as `family`.")
        for kind in family:
            if kind != "jobs" and Counter(got[kind]) != Counter(family[kind]):
                raise NotYet(f"The sentences of {kind!r} should stay as they are.")
        jobs, before = Counter(got["jobs"]), Counter(family["jobs"])
        nurses = {line: n for line, n in before.items() if "nurse" in line}
        if {line: n for line, n in jobs.items() if "nurse" in line} != nurses:
            raise NotYet("The nurse's sentences should stay as they are.")
        he, she = (jobs[f"the engineer said {who} was late ."] for who in ("he", "she"))
        if sum(jobs.values()) != sum(before.values()):
            raise NotYet(
                f"There were 100 sentences about engineers: you have {he} with he and {she} with "
                "she. Change some, rather than add or drop any."
            )
        if he != she:
            raise NotYet(f"Now the engineer is he in {he} sentences and she in {she}.")
    return "Right. Train on it: the engineer comes out near one half, the nurse as she was."
