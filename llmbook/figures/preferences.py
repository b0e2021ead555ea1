"""Interactive: label pairs of answers, and train Bradley and Terry's scores on the labels."""

import math

import traitlets

from llmbook.checks import whole

from .interactive import Interactive, numbers

RATE, DECAY, MOST = 4.0, 0.02, 200


class PreferenceLabeller(Interactive):
    """Pairs of texts to choose from, and a score for each text, trained in the page.

    Every choice is a comparison (winner, loser). The scores start at 0 and take `steps` steps of
    gradient descent on the mean of −log σ(s_winner − s_loser) + 0.01 Σ s². A simulated labeller
    chooses by σ(u_a − u_b) of `utility`, one number a text, with dice that are the same each time.
    items: 3 to 10 texts. Raises ValueError or TypeError for others.
    """

    script = "preferences.js"
    alt = traitlets.Unicode(
        "Two answers to choose from; below, a bar for each answer with the score that training on "
        "the choices gives it, best first. A slider sets the steps of training; a button asks a "
        "simulated labeller."
    ).tag(sync=True)
    items = traitlets.List().tag(sync=True)
    utility = traitlets.List().tag(sync=True)
    labels = traitlets.List().tag(sync=True)
    place = traitlets.Int(0).tag(sync=True)
    steps = traitlets.Int(60).tag(sync=True)

    def __init__(self, items, utility, *, labels=(), steps=60, **kwargs):
        items = list(items)
        if not 3 <= len(items) <= 10 or len(set(items)) < len(items) or not all(items):
            raise ValueError(f"items must be 3 to 10 different texts: got {len(items)}")
        if len(utility) != len(items):
            raise ValueError(f"utility must be {len(items)} numbers: got {len(utility)}")
        labels = [list(pair) for pair in labels]
        places = range(len(items))
        for pair in labels:
            if len(pair) != 2 or pair[0] == pair[1] or not all(i in places for i in pair):
                raise ValueError(f"labels must be pairs of two different items: got {pair}")
        super().__init__(
            items=items,
            utility=numbers(utility, 4),
            labels=labels,
            steps=whole("steps", steps, least=0, most=MOST),
            **kwargs,
        )

    def reading(self):
        """The scores shown, one a text."""
        scores = [0.0] * len(self.items)
        for _ in range(self.steps if self.labels else 0):
            slope = [DECAY * score for score in scores]
            for winner, loser in self.labels:
                left = 1 - 1 / (1 + math.exp(scores[loser] - scores[winner]))
                slope[winner] -= left / len(self.labels)
                slope[loser] += left / len(self.labels)
            scores = [score - RATE * d for score, d in zip(scores, slope, strict=True)]
        return scores
