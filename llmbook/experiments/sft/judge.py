"""A model that judges: of two answers to a question, which is better? And what it prefers besides.

The judge reads the question and two answers, and writes 1 or 2. It is tuned on pairs of which one
is right. Two arms that differ in one thing, where the right answer stands in the training data:

    even        first in half of the pairs
    skewed      first in three of four, as where people list the better one first

It is examined on pairs in both orders. A judge without a bias of position says "the first" in half
of them; one without a bias of length is as often wrong for the longer answer as for the shorter.
"""

import random
from dataclasses import dataclass

from llmbook import checks
from llmbook.alignment.chat import encode, reply
from llmbook.data.verifiable import examples
from llmbook.experiments.sft.recipe import fit
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.seeds import number
from llmbook.tokenization import BPETokenizer

ARMS = {"even": 0.5, "skewed": 0.75}  # share of training pairs with the right answer first
KINDS = ("repeat", "capitals", "without", "swap", "quotes")  # answers of several words
PAIRS = 100  # of the exam, each in both orders


@dataclass(frozen=True)
class Pair:
    """A question with its answer and a wrong one."""

    question: str
    right: str
    wrong: str

    def asked(self, right_first):
        """What the judge reads."""
        answers = (self.right, self.wrong) if right_first else (self.wrong, self.right)
        return f"Which is right? {self.question} 1: {answers[0]} 2: {answers[1]}"


def pairs(n, seed, side):
    """n pairs: a wrong answer has one word too few or one too many, as often each."""
    draw, found = random.Random(number(seed, "judge", side)), []
    each = -(-n // len(KINDS))
    for example in (e for kind in KINDS for e in examples(kind, each, seed=seed, side=side)):
        words = example.answer.split()
        if len(words) > 1 and draw.random() < 0.5:
            del words[draw.randrange(len(words))]
        else:
            words.insert(draw.randrange(len(words) + 1), draw.choice(example.input.split()))
        found.append(Pair(example.prompt, example.answer, " ".join(words)))
    draw.shuffle(found)
    return found[:n]


def judge_run(arm, seed, steps=80):
    """Tune a judge from small-chat; its verdicts on the exam, in both orders."""
    checks.one_of("arm", arm, ARMS)
    model, tokenizer = load("small-chat"), BPETokenizer.load(SHIPPED / "small-chat")
    draw, talks = random.Random(number(seed, "places")), []
    for pair in pairs(steps * 32, seed, "train"):
        first = draw.random() < ARMS[arm]
        talks.append(
            _talk(pair, first) + [{"role": "assistant", "content": "1" if first else "2"}]
        )
    loss = fit(model, [encode(tokenizer, talk) for talk in talks], steps, seed)
    return {"loss": loss, **verdicts(model, tokenizer, pairs(PAIRS, 0, "held-out"))}


def verdicts(model, tokenizer, shown):
    """For each pair: was the verdict right with the right answer first, and second; is it longer?

    Lists of 0 and 1. A verdict that is neither 1 nor 2 is wrong.
    """
    found = {"longer": [int(len(pair.right) > len(pair.wrong)) for pair in shown]}
    for name, first in (("first", True), ("second", False)):
        replies = reply(model, tokenizer, [_talk(p, first) for p in shown], max_new_tokens=3)
        found[name] = [int(r.text == ("1" if first else "2")) for r in replies]
    return found


def _talk(pair, first):
    return [{"role": "user", "content": pair.asked(first)}]
