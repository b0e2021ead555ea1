"""Where RLHF ends: pressure on a proxy, labels in rounds, labellers who like long answers."""

from llmbook.experiments.rlhf.measured import measure
from llmbook.experiments.rlhf.policies import curves, grpo
from llmbook.experiments.rlhf.rewards import (
    accuracy,
    compared,
    comparisons,
    distinct,
    reward_model,
    sft_model,
    train_reward_model,
)
from llmbook.training import Log

PRESSED = {"lr": 2e-3, "steps": 40}  # a higher rate for longer than any method of the table
NAMES, ROUND = 96, 10  # names that are labelled, and steps of GRPO a round
PER_WORD = 0.3  # what a word more is worth to labellers who like long answers


def pressed(beta, seed):
    """GRPO under much pressure, at a weight of the KL term: means over four steps, and its end."""
    proxy = reward_model()
    policy, history = grpo(proxy, seed, beta=beta, log=Log(), **PRESSED)
    return {**measure(policy, proxy, seed)[0], "curves": curves(history, 4)}


def learned(rows, seed):
    """A reward model from these comparisons, which sees each name three times."""
    rows = distinct(rows)
    return train_reward_model(rows, seed=seed, steps=round(3 * len(rows) / 8), log=Log())


def one_round(seed, per_word=0.0):
    """All labels on the SFT model's answers, then two rounds' steps against what they taught."""
    proxy = learned(comparisons(sft_model(), NAMES, seed=seed, per_word=per_word), seed)
    policy, _ = grpo(proxy, seed, 2 * ROUND, log=Log())
    return told(policy, proxy, seed)


def two_rounds(seed):
    """Half of the labels, a policy; the other half on that policy's answers, a better one."""
    rows = comparisons(sft_model(), NAMES // 2, seed=seed)
    policy, _ = grpo(learned(rows, seed), seed, ROUND, log=Log())
    rows = rows + comparisons(policy, NAMES // 2, seed=seed, skip=NAMES // 2)
    proxy = learned(rows, seed)
    policy, _ = grpo(proxy, seed + 1000, ROUND, start=policy, log=Log())
    return told(policy, proxy, seed)


def told(policy, proxy, seed):
    """What it is worth, and how well its reward model orders the answers it gives now."""
    fresh = distinct(comparisons(policy, 62, seed=seed + 50, split="validation"))
    known = accuracy(proxy, compared("validation"))[0]
    here = accuracy(proxy, fresh)[0] if fresh else None
    return {**measure(policy, proxy, seed)[0], "orders SFT's": known, "orders its own": here}
