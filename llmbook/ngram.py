"""The model to beat: an n-gram model with modified Kneser–Ney smoothing, in a few sorted arrays.

    p_n(w | h) = max(c(hw) − D(c(hw)), 0) / c(h) + γ(h) p_{n−1}(w | h')

c: counts, c(h) = Σ_w c(hw); h: the n − 1 tokens before w, h' without its first token. The longest
n-grams count occurrences; the shorter ones count how many different tokens precede them
("Francisco" is frequent, but after one word only). D: what is taken off a count of 1, 2, or 3 and
more. γ(h) gives the discounted mass to the shorter history; below one token lies the uniform
distribution. Source: Kneser and Ney 1995; Chen and Goodman 1999, for the three discounts.
"""

import numpy as np

from llmbook.checks import whole


class KneserNey:
    """An n-gram model of token ids: `KneserNey(train_ids, vocab_size, order=5)`.

    ids: whole numbers (tokens,), 0 ≤ id < vocab_size. vocab_size^order must fit 63 bits. Reads a
    text of millions of tokens in seconds and holds it, sorted, in memory.
    """

    def __init__(self, ids, vocab_size, order=5):
        order = whole("order", order, least=1, most=8)
        vocab_size = whole("vocab_size", vocab_size, least=1)
        if order * np.log2(max(vocab_size, 2)) >= 63:
            raise ValueError(
                f"vocab_size^order must stay below 2^63: got vocab_size={vocab_size}, "
                f"order={order}"
            )
        self.vocab_size, self.order = vocab_size, order
        ids = self._ids(ids)
        if len(ids) < order:
            raise ValueError(f"ids must hold at least {order} tokens: got {len(ids)}")
        keys, counts = np.unique(self._pack(ids, order), return_counts=True)
        levels = []
        for n in range(order, 0, -1):
            levels.append(_Level(keys, counts, self.vocab_size))
            # Counts of the next shorter n-grams: how many different tokens precede each.
            keys, counts = np.unique(keys % self.vocab_size ** (n - 1), return_counts=True)
        self.levels = levels[::-1]  # levels[n − 1]: the n-grams

    def _ids(self, ids):
        ids = np.asarray(ids)
        numbers = ids.dtype.kind in "iu"
        if ids.ndim != 1 or not numbers:
            error = ValueError if numbers else TypeError
            raise error(f"ids must be whole numbers (tokens,): got {ids.dtype} {ids.shape}")
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.vocab_size:
            raise ValueError(
                f"ids must be from 0 to {self.vocab_size - 1}: got {ids.min()} to {ids.max()}"
            )
        return ids.astype(np.int64)

    def _pack(self, ids, n):
        """Every n consecutive tokens as one number, base vocab_size: (tokens − n + 1,)."""
        key = np.zeros(len(ids) - n + 1, dtype=np.int64)
        for i in range(n):
            key = key * self.vocab_size + ids[i : len(ids) - n + 1 + i]
        return key

    def probabilities(self, ids):
        """p(ids[t] | the order − 1 tokens before it) for every t: float64 (tokens,).

        The first tokens have the shorter history that there is.
        """
        ids = self._ids(ids)
        p = np.full(len(ids), 1 / self.vocab_size)
        for n, level in enumerate(self.levels, 1):
            if len(ids) >= n:
                p[n - 1 :] = level.mix(self._pack(ids, n), p[n - 1 :])
        return p

    def nats(self, ids):
        """Cross-entropy of a text in nats a token."""
        return float(-np.log(self.probabilities(ids)).mean())


class _Level:
    """The n-grams of one length: keys sorted, their discounted counts, their histories."""

    def __init__(self, keys, counts, vocab_size):
        self.vocab_size = vocab_size
        discounts = _discounts(counts)
        taken = discounts[np.minimum(counts, 3)]
        self.keys, self.kept = keys, counts - taken
        self.histories, first = np.unique(keys // vocab_size, return_index=True)
        self.totals = np.add.reduceat(counts, first)
        self.left_over = np.add.reduceat(taken, first)

    def mix(self, keys, shorter):
        """p_n of n-grams, given p_{n−1} of the same last tokens."""
        at, found = _find(self.keys, keys)
        kept = np.where(found, self.kept[at], 0.0)
        at, found = _find(self.histories, keys // self.vocab_size)
        mixed = (kept + self.left_over[at] * shorter) / self.totals[at]
        return np.where(found, mixed, shorter)


def _find(sorted_keys, keys):
    """Where each key stands in a sorted array, and whether it does."""
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return at, sorted_keys[at] == keys


def _discounts(counts):
    """(0, D1, D2, D3+) from how many n-grams occur once, twice, three and four times."""
    n1, n2, n3, n4 = (int((counts == c).sum()) for c in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        # Too little text to estimate the three: one absolute discount.
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    discounts = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    return np.array([min(max(d, 0.0), c) for d, c in zip(discounts, range(4), strict=True)])
