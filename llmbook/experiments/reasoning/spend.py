"""More samples, or more thinking: what 1 to 64 answers to a question come to."""

import torch

from llmbook.experiments import hops
from llmbook.experiments.reasoning.chains import BASE_STEPS, EXAM, SAMPLES, base_model, sampled
from llmbook.experiments.reasoning.judges import (
    best_of,
    judged,
    majority,
    mentioned,
    pass_at_k,
    right,
    sound,
)
from llmbook.seeds import generator

SPENT = (1, 2, 4, 8, 16, 32, 64)
VERIFIERS = ("checks every step", "right symbol mentioned", "its own likelihood", "the longest")


def spend_run(seed, steps=BASE_STEPS, n=EXAM, draws=8):
    """For each style, what 1 to 64 answers a question come to, by what chooses among them."""
    model, found = base_model(seed, steps), {}
    for style in ("once", "steps", "free"):
        rollouts = sampled(model, style, n)
        good = torch.tensor(judged(rollouts, right)).view(n, SAMPLES)
        answers = [
            hops.answer_of(a) if e else None
            for a, e in zip(rollouts.answers, rollouts.ended.tolist(), strict=True)
        ]
        scores = {
            "checks every step": judged(rollouts, sound),
            "right symbol mentioned": judged(rollouts, mentioned),
            "its own likelihood": (rollouts.log_probs.sum(-1) / rollouts.lengths).tolist(),
            "the longest": rollouts.lengths.tolist(),
        }
        counts = good.sum(-1).int().tolist()
        part = {
            "counts": counts,
            "tokens": rollouts.lengths.float().mean().item(),
            "votes": _votes(answers, good),
            "pass": [sum(pass_at_k(SAMPLES, c, k) for c in counts) / n for k in SPENT],
        }
        for name in ("majority", *VERIFIERS):
            part[name] = [
                _chosen(name, k, answers, scores, good, generator(seed, "draws", k), draws)
                for k in SPENT
            ]
        found[style] = part
    return found


def _votes(answers, good, draws=8):
    """Votes of n of the second 32 answers, by whether the right one led among the first 32.

    {"leads", "trails": {"questions": how many, "right": shares for n = 1, 3, 7, 15, 31}}.
    """
    half, found = SAMPLES // 2, {}
    led = []
    for question, row in enumerate(good):
        mine = answers[question * SAMPLES :][:half]
        best = majority(mine)
        led.append(best is not None and bool(row[mine.index(best)]))
    for name, wanted in (("leads", True), ("trails", False)):
        chosen, shares = [q for q, yes in enumerate(led) if yes == wanted], []
        for k in (1, 3, 7, 15, 31):
            gen, wins = generator(0, "votes", k), 0.0
            for question in chosen:
                row, mine = good[question, half:], answers[question * SAMPLES :][half:SAMPLES]
                for _ in range(draws):
                    taken = torch.randperm(half, generator=gen)[:k].tolist()
                    best = majority([mine[i] for i in taken])
                    wins += 0.0 if best is None else row[mine.index(best)].item()
            shares.append(wins / (draws * len(chosen)) if chosen else None)
        found[name] = {"questions": len(chosen), "right": shares}
    return found


def _chosen(name, k, answers, scores, good, gen, draws):
    """Share of right choices among k of the 64 answers, over draws without replacement."""
    total, n = 0.0, len(good)
    for question in range(n):
        for _ in range(draws):
            taken = torch.randperm(SAMPLES, generator=gen)[:k].tolist()
            rows = [question * SAMPLES + i for i in taken]
            if name == "majority":
                voted = majority([answers[row] for row in rows])
                place = 0 if voted is None else [answers[row] for row in rows].index(voted)
            else:
                place = best_of([scores[name][row] for row in rows])
            total += good[question, taken[place]].item()
    return total / (n * draws)
