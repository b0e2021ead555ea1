"""Interactive: several tries at questions: pass@k, the majority, the best by a verifier."""

import math

import numpy as np
import traitlets

from llmbook.checks import number, whole

from .interactive import Interactive

MOST_K, MOST_QUESTIONS = 64, 12
WORST, BEST = -2.0, 6.0  # of the verifier
GRID = 401  # points from −6 to 12 at which a score's density is summed


class PassAtK(Interactive):
    """What k tries at each of some questions come to, by what chooses among them.

    rates: the probability of a right try, a number from 0 to 1 a question, which the reader can
    type. The curves are means over the questions: pass@k (1 − (1 − p)^k, any right one counts),
    the majority, and the try that a verifier likes best. Its scores are normal with deviation 1
    and mean `verifier` for right tries, 0 for wrong ones: 0 tells nothing, below 0 it prefers
    wrong ones. alike: are all wrong answers the same, or all different? Raises ValueError for
    rates outside 0 to 1, none or more than 12, and settings outside their sliders.
    """

    script = "pass_at_k.js"
    alt = traitlets.Unicode(
        "Share of questions solved against the number of tries k from 1 to 64: three curves, for "
        "any right try, the majority and a verifier's choice. The reader types how often a try at "
        "each question is right, and sets k, the verifier and whether wrong answers agree."
    ).tag(sync=True)
    rates = traitlets.List().tag(sync=True)
    k = traitlets.Int(8).tag(sync=True)
    verifier = traitlets.Float(1.0).tag(sync=True)
    alike = traitlets.Bool(True).tag(sync=True)

    def __init__(self, rates=(0.8, 0.6, 0.4, 0.1), k=8, verifier=1.0, alike=True, **options):
        rates = [float(number("rates", rate, least=0, most=1)) for rate in rates]
        if not 1 <= len(rates) <= MOST_QUESTIONS:
            raise ValueError(f"rates must be 1 to {MOST_QUESTIONS} numbers: got {len(rates)}")
        super().__init__(
            rates=rates,
            k=whole("k", k, least=1, most=MOST_K),
            verifier=float(number("verifier", verifier, least=WORST, most=BEST)),
            alike=bool(alike),
            **options,
        )

    def reading(self):
        """What is shown at k, means over the questions: {"pass", "majority", "best"}."""
        p = np.array(self.rates)
        return {
            "pass": float(np.mean(1 - (1 - p) ** self.k)),
            "majority": float(np.mean([majority(one, self.k, self.alike) for one in p])),
            "best": float(np.mean([best(one, self.k, self.verifier) for one in p])),
        }


def majority(p, k, alike):
    """P(the right answer wins the vote of k tries, equals drawn by lot)."""
    counts = [math.comb(k, c) * p**c * (1 - p) ** (k - c) for c in range(k + 1)]
    if alike:
        return sum(w * (1.0 if 2 * c > k else 0.5 * (2 * c == k)) for c, w in enumerate(counts))
    return counts[1] / k + sum(counts[2:]) if k > 1 else counts[1]


def best(p, k, d):
    """P(the highest score is a right try's): k p ∫ φ(x−d) [p Φ(x−d) + (1−p) Φ(x)]^(k−1) dx."""
    x = np.linspace(-6, 12, GRID)
    normal = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)))
    below = p * normal(x - d) + (1 - p) * normal(x)
    density = np.exp(-((x - d) ** 2) / 2) / math.sqrt(2 * math.pi)
    return float(k * p * np.sum(density * below ** (k - 1)) * (x[1] - x[0]))
