"""Interactive: a softmax over numbers of the reader's own, which arrive a few at a time."""

import math

import traitlets

from llmbook import checks

from .interactive import Interactive

MOST, LARGEST = 16, 999
BLOCKS = (1, 2, 4)


class OnlineSoftmax(Interactive):
    """The sum under a softmax, kept while its scores arrive in blocks and are forgotten.

        m' = max(m, block),   fade = e^{m - m'},   l' = fade · l + Σ e^{s - m'}

    scores: numbers as text, with spaces between them; block: how many arrive at once; step: how
    many blocks have arrived. subtract: False leaves the maximum out, in the range of float16,
    where e^s is infinite from s = 11.09 on. `walk` computes the same in Python. Raises ValueError
    for a text that does not hold 2 to 16 numbers from -999 to 999, and for settings out of range.
    """

    script = "online.js"
    alt = traitlets.Unicode(
        "Scores that the reader can change arrive a few at a time. Bars show what each adds to a "
        "running sum, relative to the largest so far; when a larger one arrives, all that was "
        "summed shrinks. At the end stand the softmax's weights."
    ).tag(sync=True)
    scores = traitlets.Unicode("").tag(sync=True)
    block = traitlets.Int(1).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    subtract = traitlets.Bool(True).tag(sync=True)

    def __init__(self, scores="2 1 3 0.5 5 4 4.5 1", *, block=2, step=2, **state):
        block = checks.one_of("block", block, BLOCKS)
        count = math.ceil(len(read_scores(scores)) / block)
        step = checks.whole("step", step, least=0, most=count)
        super().__init__(scores=scores, block=block, step=step, **state)

    def walk(self):
        """(m, fade, l) after each block, with the maximum subtracted."""
        scores, steps, m, total = read_scores(self.scores), [], -math.inf, 0.0
        for i in range(0, len(scores), self.block):
            new = scores[i : i + self.block]
            before, m = m, max(m, *new)
            fade = math.exp(before - m)
            total = fade * total + sum(math.exp(s - m) for s in new)
            steps.append((m, fade, total))
        return steps


def read_scores(text):
    """The numbers of a text, or a ValueError that says what was expected."""
    checks.text("scores", text, least=0)
    try:
        found = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if not 2 <= len(found) <= MOST or not all(abs(s) <= LARGEST for s in found):
        raise ValueError(
            f"scores must hold 2 to {MOST} numbers from -{LARGEST} to {LARGEST}: got {text!r}"
        )
    return found
