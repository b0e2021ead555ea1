"""Where RLHF is tried out: names to describe, people's ratings of words, and what people want.

The labeller is made of real ratings: ten people rated each word of a list (llmbook/data/
ratings.json), and a labeller who compares two answers draws one of the ten for every word. What
all ten mean is the true reward, which a real project never has:

    true(y) = Σ mean rating of the distinct rated words, within ±5
              − repeated words − words that the documentation doesn't know
              − 3 if it doesn't end − 3 if it has fewer than three words
"""

import functools
import json
import re
import statistics
from pathlib import Path

import torch

import llmbook
from llmbook.data.corpus import documentation, question_answers
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer

LONGEST_PROMPT, LONGEST_ANSWER = 24, 32  # tokens
END = 0  # <|endoftext|>
_WORD = re.compile("[a-z]+")


@functools.cache
def tokenizer():
    """The small model's."""
    return BPETokenizer.load(SHIPPED / "small")


@functools.cache
def demonstrations(split="train"):
    """(prompt's ids, answer's ids) of functions and their summaries, short ones."""
    found, encode = [], tokenizer().encode
    for pair in question_answers(split, "quick"):
        prompt, answer = encode(f"{pair.name}:"), encode(" " + pair.answer)
        if len(prompt) <= LONGEST_PROMPT and len(answer) < LONGEST_ANSWER:
            found.append((prompt, answer))
    return found


@functools.cache
def ratings():
    """{word: the ratings of ten people, −4 to 4}."""
    path = Path(llmbook.__file__).parent / "data" / "ratings.json"
    return json.loads(path.read_text(encoding="utf-8"))["ratings"]


@functools.cache
def known_words():
    """The words of the documentation: what is not among them is no word here."""
    found = set()
    for document in documentation("all", "quick"):
        found.update(_WORD.findall(document.text.lower()))
    return found


def words_of(text):
    """Its words, in lower case."""
    return _WORD.findall(text.lower())


def true_reward(text, ended, rate=statistics.fmean):
    """What the labellers want of an answer on average; rate: from ten ratings to one."""
    words = words_of(text)
    table, known = ratings(), known_words()
    liked = sum(rate(table[word]) for word in dict.fromkeys(words) if word in table)
    long = [word for word in words if len(word) > 3]
    repeated = len(long) - len(set(long))
    strange = sum(word not in known for word in words)
    return max(-5.0, min(5.0, liked)) - repeated - strange - 3 * (not ended) - 3 * (len(words) < 3)


def texts_of(rollouts):
    """The answers as texts."""
    return [tokenizer().decode(answer) for answer in rollouts.answers]


def true_rewards(rollouts):
    """The true reward of each answer: a list."""
    return [
        true_reward(text, ended)
        for text, ended in zip(texts_of(rollouts), rollouts.ended.tolist(), strict=True)
    ]


def negative(text):
    """Does it hold a word that the ten people rate below −1 on average?"""
    table = ratings()
    return any(statistics.fmean(table[w]) < -1 for w in words_of(text) if w in table)


def labelled(rollouts, rng, per_word=0.0):
    """Ranks of each prompt's n answers by one labeller a prompt, the best 0; equal is a tie.

    rng: a generator; a labeller draws one rating of ten for each word. per_word: how much the
    labellers like an answer more for each word that it has, whatever the word.
    """
    texts, ended = texts_of(rollouts), rollouts.ended.tolist()
    ranks = []
    for start in range(0, len(texts), rollouts.n):
        own = {}

        def rate(given, own=own):
            key = id(given)
            if key not in own:
                own[key] = given[int(torch.randint(10, (), generator=rng))]
            return own[key]

        group = range(start, start + rollouts.n)
        utility = [
            true_reward(texts[i], ended[i], rate) + per_word * len(words_of(texts[i]))
            for i in group
        ]
        order = sorted(set(utility), reverse=True)
        ranks.append([order.index(u) for u in utility])
    return ranks
