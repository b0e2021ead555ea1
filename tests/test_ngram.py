"""Kneser–Ney equals a version that counts as the book's formula says, and sums to one."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from llmbook.ngram import KneserNey, _discounts


def some_text(tokens=300, vocab_size=5, seed=0):
    """Skewed tokens with repeats, so that every count from 1 to 4 occurs."""
    rng = np.random.default_rng(seed)
    weights = np.arange(vocab_size, 0, -1)
    return rng.choice(vocab_size, size=tokens, p=weights / weights.sum())


class BruteForce:
    """Modified Kneser–Ney by dictionaries, one probability at a time, history by history."""

    def __init__(self, ids, vocab_size, order):
        ids = [int(i) for i in ids]
        self.vocab_size, self.order, self.counts = vocab_size, order, {}
        grams = Counter(tuple(ids[i : i + order]) for i in range(len(ids) - order + 1))
        for n in range(order, 0, -1):
            self.counts[n] = grams
            preceded_by = defaultdict(set)
            for gram in grams:
                preceded_by[gram[1:]].add(gram[0])
            grams = Counter({gram: len(before) for gram, before in preceded_by.items()})
        self.discounts = {n: self._three(grams) for n, grams in self.counts.items()}

    @staticmethod
    def _three(grams):
        n = [sum(count == c for count in grams.values()) for c in range(5)]
        if not all(n[1:]):
            return [0, 0.5, 0.5, 0.5]
        y = n[1] / (n[1] + 2 * n[2])
        three = [0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
        return [min(max(d, 0), c) for c, d in enumerate(three)]

    def p(self, word, history):
        n = len(history) + 1
        if n == 0 or n > self.order:
            raise ValueError(history)
        shorter = self.p(word, history[1:]) if history else 1 / self.vocab_size
        following = {g[-1]: c for g, c in self.counts[n].items() if g[:-1] == tuple(history)}
        if not following:
            return shorter
        discount = self.discounts[n]
        total = sum(following.values())
        count = following.get(word, 0)
        left = sum(discount[min(c, 3)] for c in following.values())
        return (max(count - discount[min(count, 3)], 0) + left * shorter) / total


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("tokens", [300, 12])
def test_probabilities_equal_brute_force(order, tokens):
    train, test = some_text(tokens), some_text(60, seed=1)
    model, brute = KneserNey(train, 5, order), BruteForce(train, 5, order)
    got = model.probabilities(test)
    for t, word in enumerate(test):
        history = [int(i) for i in test[max(0, t - order + 1) : t]]
        assert got[t] == pytest.approx(brute.p(int(word), history), rel=1e-12), (t, history)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_after_any_history_the_probabilities_sum_to_one(order):
    vocab_size = 6  # of which the last is never seen
    model = KneserNey(some_text(400), vocab_size, order)
    rng = np.random.default_rng(3)
    for length in range(order + 2):
        for _ in range(8):
            history = rng.integers(vocab_size, size=length)
            texts = [np.append(history, w) for w in range(vocab_size)]
            p = [model.probabilities(text)[-1] for text in texts]
            assert sum(p) == pytest.approx(1, abs=1e-12) and min(p) > 0


def test_a_word_that_follows_one_word_only_is_unlikely_elsewhere():
    """The idea of the method: frequency is not what a shorter history should count."""
    # 1 is frequent and always after 0; 2 is rarer but comes after 3, 4, 5 and 6.
    text = np.array([0, 1] * 30 + [3, 2, 4, 2, 5, 2, 6, 2] * 2)
    model = KneserNey(text, 8, order=2)
    after_something_new = [model.probabilities(np.array([7, w]))[-1] for w in (1, 2)]
    assert after_something_new[0] < after_something_new[1]
    assert model.probabilities(np.array([0, 1]))[-1] > 0.9


def test_nats_are_the_mean_of_minus_log_p():
    model, test = KneserNey(some_text(), 5, 3), some_text(50, seed=2)
    assert model.nats(test) == pytest.approx(-np.log(model.probabilities(test)).mean())
    assert model.nats(some_text()) < model.nats(test) < np.log(5) + 0.2


def test_the_three_discounts_are_chen_and_goodmans():
    counts = np.array([1] * 10 + [2] * 4 + [3] * 2 + [4] * 1)
    y = 10 / 18
    assert _discounts(counts) == pytest.approx(
        [0, 1 - 2 * y * 4 / 10, 2 - 3 * y * 2 / 4, 3 - 4 * y * 1 / 2]
    )
    assert _discounts(np.array([1, 1, 2])) == pytest.approx([0, 0.5, 0.5, 0.5])


def test_a_vocabulary_as_large_as_63_bits_allow_is_exact():
    """4096⁵ = 2⁶⁰: packed keys must not overflow."""
    rng = np.random.default_rng(0)
    ids = rng.integers(4090, 4096, size=400)
    small = KneserNey(ids - 4090, 6, 5).probabilities(ids[:50] - 4090)
    large = KneserNey(ids, 4096, 5).probabilities(ids[:50])
    # only the uniform distribution below the unigrams differs, and it has next to no weight
    assert np.allclose(small[5:], large[5:], rtol=0.05) and np.all(large > 0)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: KneserNey([0, 1], 2, order=9),
            ValueError,
            "order must be a whole number from 1 to 8",
        ),
        (lambda: KneserNey(some_text(), 10**5, order=5), ValueError, "below 2\\^63"),
        (lambda: KneserNey([0, 1], 2, order=3), ValueError, "at least 3 tokens"),
        (lambda: KneserNey([0, 7, 1], 5, order=1), ValueError, "from 0 to 4: got 0 to 7"),
        (lambda: KneserNey([0.5, 1.0], 5, order=1), TypeError, "whole numbers"),
        (lambda: KneserNey([[0, 1]], 5, order=1), ValueError, "whole numbers .* got int64"),
        (lambda: KneserNey(some_text(), 5).probabilities([-1]), ValueError, "got -1"),
    ],
)
def test_unfit_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
