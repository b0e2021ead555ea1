"""RLHF's record: `python -m llmbook record rlhf`.

Every run is a function of its key, so that a killed recording goes on with the next key, and
`--parts` makes some of it.
"""

import functools

from llmbook.experiments.record import RECORDED, by_seed, recorded
from llmbook.experiments.rlhf import limits, policies
from llmbook.experiments.rlhf.measured import best_of, measure, prefilled
from llmbook.experiments.rlhf.rewards import (
    beginning_run,
    compared,
    reward_model,
    reward_run,
    sft_model,
    start_run,
)
from llmbook.models import load
from llmbook.training import Log

OUT, GOES_ON = RECORDED / "rlhf_runs.json", True
SEEDS = (1, 2, 3, 4, 5)
STARTS = ("fresh", "base", "sft")  # of a reward model
METHODS = ("base", "sft", "dpo", "online", "grpo", "ppo", "ppo, KL in the loss")
BEGINNINGS = ("small", "small-chat")  # of the fine-tuning
PARTS = ("start", "beginning", "reward", "policy", "best", "pressed", "rounds", "beta")
BETAS = (0.0, 0.1)  # of the runs under pressure
DPO_BETAS = (0.02, 0.5)  # beside the one of the table


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


def over_seeds(part, begin, *path):
    """One value a seed of the record: of the keys `begin/…` of a part, in their order.

    path: names that lead from what is recorded of a run to the value; without any, all of it.
    """
    return by_seed(OUT, part, begin, *path)


def most(flags):
    """Does it hold for at least four seeds in five, of three or more?"""
    flags = list(flags)
    return len(flags) >= 3 and sum(flags) >= 0.8 * len(flags)


def make_policy(method, seed):
    """(policy, history or None) of a method that the table names."""
    proxy = reward_model()
    return {
        "base": lambda: (load("small"), None),
        "sft": lambda: (sft_model(), None),
        "dpo": lambda: policies.dpo(compared(), seed, log=Log()),
        "online": lambda: policies.online_dpo(proxy, seed, log=Log()),
        "grpo": lambda: policies.grpo(proxy, seed, log=Log()),
        "ppo": lambda: policies.ppo(proxy, seed, log=Log()),
        "ppo, KL in the loss": lambda: policies.ppo(proxy, seed, log=Log(), kl_in="loss", kl="k3"),
    }[method]()


@functools.cache
def opponent():
    """The true rewards of the SFT model's answers, which every policy is compared with."""
    return measure(sft_model(), reward_model(), 100)[1]


def policy_run(method, seed):
    """A policy by one method: what it is worth, its first words given too, and its curves."""
    policy, history = make_policy(method, seed)
    found, _ = measure(policy, reward_model(), seed, opponent())
    found["prefilled"] = prefilled(policy, seed)
    return found if history is None else {**found, "curves": policies.curves(history)}


def beta_run(beta, seed):
    """DPO at another β, with the same comparisons, steps and rate."""
    policy, history = policies.dpo(compared(), seed, beta=beta, log=Log())
    found, _ = measure(policy, reward_model(), seed, opponent())
    return {**found, "curves": policies.curves(history)}


def best_run(seed):
    """Best-of-k by the recorded reward model."""
    return best_of(reward_model(), seed, opponent())


def points():
    """Every run of the record: (part, key, function and arguments)."""
    yield "start", "weights", (start_run,)
    for seed in SEEDS:
        for start in BEGINNINGS:
            yield "beginning", f"{start}/{seed}", (beginning_run, start, seed)
        for start in STARTS:
            yield "reward", f"{start}/{seed}", (reward_run, start, seed)
    for seed in SEEDS:  # whatever of these is stopped has whole seeds
        for method in METHODS:
            yield "policy", f"{method}/{seed}", (policy_run, method, seed)
        yield "best", str(seed), (best_run, seed)
        for beta in BETAS:
            yield "pressed", f"{beta}/{seed}", (limits.pressed, beta, seed)
        yield "rounds", f"one/{seed}", (limits.one_round, seed)
        yield "rounds", f"two/{seed}", (limits.two_rounds, seed)
        yield "rounds", f"long/{seed}", (limits.one_round, seed, limits.PER_WORD)
        for beta in DPO_BETAS:
            yield "beta", f"{beta}/{seed}", (beta_run, beta, seed)


def add_arguments(parser):
    """The options of this recording."""
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="these alone")


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    record.make_missing(
        (point for point in points() if point[0] in options.parts),
        tell=lambda found: {k: v for k, v in found.items() if k not in ("curves", "examples")},
    )
