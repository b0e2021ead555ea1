"""What an answer to a chain is worth, and how several answers are used.

A reward is a function of prompt, answer and whether it ended; `judged` asks it of rollouts.
"""

import math

from llmbook import checks
from llmbook.experiments import hops


def right(prompt, answer, ended=True):
    """Did the answer end, with the right symbol last?"""
    return bool(ended) and hops.answer_of(answer) == hops.solution(prompt)[0]


def sound(prompt, answer, ended=True):
    """Right, and every step to it written and right: no guess."""
    return bool(ended) and answer == hops.solution(prompt)[1]


def mentioned(prompt, answer, ended=True):
    """Does the right symbol stand anywhere in the text? A sloppy verifier."""
    return hops.solution(prompt)[0] in answer


def judged(rollouts, judge):
    """A number for each answer, 1.0 or 0.0."""
    rows = zip(rollouts.prompts, rollouts.answers, rollouts.ended.tolist(), strict=True)
    return [float(judge(*row)) for row in rows]


REWARDS = {"exact": right, "sloppy": mentioned}


# --- how several answers are used


def pass_at_k(n, c, k):
    """P(at least one of k is right), unbiased, from c right ones among n: 1 − C(n−c, k) / C(n, k).

    Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n. Source: Chen et al. 2021.
    """
    checks.whole("n", n, least=1)
    checks.whole("c", c, least=0, most=n)
    checks.whole("k", k, least=1, most=n)
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def majority(answers):
    """The most frequent answer, the earliest of equals; None counts as no vote."""
    votes = [a for a in answers if a is not None]
    return max(votes, key=lambda a: (votes.count(a), -votes.index(a))) if votes else None


def best_of(scores):
    """The place of the highest score, the first of equals."""
    return max(range(len(scores)), key=lambda i: (scores[i], -i))
