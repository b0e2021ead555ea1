"""Interactive: the words of a text find their experts, under k, temperature, capacity, balance."""

import math

import numpy as np
import traitlets

from llmbook.checks import number, whole

from .interactive import Interactive, numbers

EXPERTS, WIDTH, MOST_WORDS = 8, 6, 24
BIAS_RATE = 0.02  # what a step of balancing moves an expert's bias
SHARPNESS = 2.5  # of the router's logits
CONTEXT = 0.4  # how much of the word before is mixed in


class RouterPlay(Interactive):
    """Each word of a text and the experts that a router sends it to; no part of it is trained.

    A word's vector is drawn from its letters (a hash), mixed with a little of the word before. The
    router is a random matrix, `favour` an advantage that expert 1's logits start with. Weights are
    the softmax, at `temperature`, over the `k` chosen. `capacity`: an expert takes at most
    ⌈capacity · words · k / 8⌉ words, first choices first; 0 means any number. `balance`: steps of
    balancing without a loss, in each of which the bias of an expert with too few words goes up and
    that of one with too many goes down; the bias counts in choosing only.

    Raises ValueError for a text without words and settings out of range.
    """

    script = "router.js"
    alt = traitlets.Unicode(
        "Words of a text on the left, eight experts on the right, lines from each word to the "
        "experts that a router chooses for it. Sliders set how many experts a word gets, the "
        "temperature, a favourite, the experts' capacity and steps of balancing."
    ).tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    k = traitlets.Int(2).tag(sync=True)
    temperature = traitlets.Float(1.0).tag(sync=True)
    favour = traitlets.Float(0.0).tag(sync=True)
    capacity = traitlets.Float(0.0).tag(sync=True)
    balance = traitlets.Int(0).tag(sync=True)
    weight = traitlets.List().tag(sync=True)

    def __init__(
        self, text, *, k=2, temperature=1.0, favour=0.0, capacity=0.0, balance=0, **kwargs
    ):
        if not text.split():
            raise ValueError("text must hold at least one word: got none")
        k = whole("k", k, least=1, most=4)
        number("temperature", temperature, least=0.1, most=4)
        number("favour", favour, least=0, most=4)
        number("capacity", capacity, least=0, most=4)
        number("balance", balance, least=0, most=60)
        rows = np.random.default_rng(7).standard_normal((EXPERTS, WIDTH))
        super().__init__(
            text=text,
            k=k,
            temperature=float(temperature),
            favour=float(favour),
            capacity=float(capacity),
            balance=int(balance),
            weight=numbers(rows, 4),
            **kwargs,
        )

    def reading(self):
        """What is shown: words, choices (0 to 7, −1 dropped), weights, loads, the balance loss."""
        words = self.text.split()[:MOST_WORDS]
        vectors = [word_vector(word) for word in words]
        previous = [np.zeros(WIDTH), *vectors[:-1]]
        x = np.array(vectors) + CONTEXT * np.array(previous)
        logits = SHARPNESS * x @ np.array(self.weight).T
        logits[:, 0] += self.favour
        probabilities = softmax(logits)
        bias = np.zeros(EXPERTS)
        for _ in range(self.balance):
            counts = np.bincount(choose(probabilities + bias, self.k).ravel(), minlength=EXPERTS)
            bias += BIAS_RATE * np.sign(counts.mean() - counts)
        wanted = choose(probabilities + bias, self.k)
        weights = softmax(np.take_along_axis(logits, wanted, 1) / self.temperature)
        share = np.bincount(wanted.ravel(), minlength=EXPERTS) / wanted.size
        chosen = wanted.copy()
        if self.capacity > 0:
            room = np.full(EXPERTS, math.ceil(self.capacity * wanted.size / EXPERTS))
            for slot in range(self.k):
                for word in range(len(words)):
                    expert = wanted[word, slot]
                    if room[expert] == 0:
                        chosen[word, slot] = -1
                    else:
                        room[expert] -= 1
        return {
            "words": words,
            "wanted": wanted,
            "chosen": chosen,
            "weights": np.where(chosen < 0, 0.0, weights),
            "counts": np.bincount(chosen[chosen >= 0], minlength=EXPERTS),
            "largest": share.max(),
            "loss": EXPERTS * float(share @ probabilities.mean(0)),
            "dropped": int((chosen < 0).sum()),
        }


def softmax(x):
    """Over the last axis."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def choose(scores, k):
    """The k best of each row, best first; of equals the lower number."""
    return np.argsort(-scores, axis=-1, kind="stable")[:, :k]


def word_vector(word):
    """WIDTH numbers from −1 to 1 that depend on the word's bytes alone (FNV-1a, then mixed)."""
    out = []
    for place in range(WIDTH):
        value = 2166136261
        for byte in f"{place}/{word}".encode():
            value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
        value ^= value >> 16
        value = (value * 2246822507) & 0xFFFFFFFF
        value ^= value >> 13
        out.append(value / 2147483648 - 1)
    return np.array(out)
