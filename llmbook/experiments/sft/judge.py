"""A model that judges: which of two answers does it prefer, and for which wrong reason?

The judge prefers the answer that is likelier as its own reply, by the sum over its tokens or by
their mean. Of two wrong answers, one with a word too few and one with a word too many, neither
earns to be preferred for its length. And a verdict on two answers that the judge has read should
not turn with the order in which they stood.
"""

import random
from dataclasses import dataclass

from llmbook.data.verifiable import examples
from llmbook.evaluation import choice_rank
from llmbook.seeds import number

KINDS = ("repeat", "capitals", "without", "swap", "quotes")  # answers of several words


@dataclass(frozen=True)
class Case:
    """A question with its answer, and two wrong ones: a word less, and a word more."""

    question: str
    right: str
    shorter: str
    longer: str


def cases(n, seed=0):
    """n held-out questions whose answers have two words or more."""
    draw, found = random.Random(number(seed, "judge")), []
    for example in (e for kind in KINDS for e in examples(kind, n, seed=seed, side="held-out")):
        words = example.answer.split()
        if len(words) > 1:
            less, more = list(words), list(words)
            del less[draw.randrange(len(words))]
            more.insert(draw.randrange(len(words) + 1), draw.choice(words))
            found.append(Case(example.prompt, example.answer, " ".join(less), " ".join(more)))
    draw.shuffle(found)
    return found[:n]


def prefers_shorter(model, tokenizer, shown, *, mean):
    """For each case: of the two wrong answers, is the shorter one preferred? A list of bools."""
    return [
        choice_rank(model, tokenizer, c.question, [c.shorter, c.longer], mean=mean) == 1
        for c in shown
    ]


def prefers_first(model, tokenizer, shown, *, mean):
    """The right answer against the longer one, both read with the question, in both orders.

    (is the one that stood first preferred, for each case and order; is the verdict the same in
    both orders, for each case): lists of bools.
    """
    first, same = [], []
    for case in shown:
        verdicts = []
        for pair in ((case.right, case.longer), (case.longer, case.right)):
            prompt = f"{case.question} ({pair[0]} or {pair[1]})"
            verdicts.append(choice_rank(model, tokenizer, prompt, pair, mean=mean) == 1)
        first += verdicts
        same.append(verdicts[0] != verdicts[1])
    return first, same
