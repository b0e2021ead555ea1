"""Merging many short pieces at once, as tables of numbers.

All pieces of one length stand in a table, the longest first. Each row merges its best pair and is
shorter by one, so all that go on have again one length, and the pieces of that length join them:
at most as many rounds as the longest piece has bytes, whatever the number of pieces.
"""

import numpy as np


class Batch:
    """Merges as arrays. starts: the 256 bytes' ids; merges: a `Merges`."""

    def __init__(self, starts, merges):
        self.starts = np.array(starts, np.int32)
        self.built = np.array(merges.built, np.int32)
        self.none = len(merges.built)  # the rank of a pair that does not merge
        pairs = np.array(list(merges.ranks), np.int64).reshape(-1, 2)
        ranks = np.fromiter(merges.ranks.values(), np.int32, len(pairs))
        highest = [part.max(initial=0) for part in (self.starts, pairs, self.built)]
        self.base = int(max(highest)) + 1
        keys = pairs[:, 0] * self.base + pairs[:, 1]
        order = np.argsort(keys)
        self.keys = np.append(keys[order], np.iinfo(np.int64).max)
        self.ranks = np.append(ranks[order], self.none).astype(np.int32)
        self.of_bytes = self._rank(*np.meshgrid(self.starts, self.starts, indexing="ij"))

    def _rank(self, left, right):
        """The rank of pairs of ids; arrays of one shape."""
        keys = left.astype(np.int64) * self.base + right
        found = np.searchsorted(self.keys, keys)
        return np.where(self.keys[found] == keys, self.ranks[found], self.none)

    def apply(self, pieces):
        """Ids of pieces. pieces: list of bytes, none empty. Returns a list of lists of int."""
        by_length = {}
        for place, piece in enumerate(pieces):
            by_length.setdefault(len(piece), []).append(place)
        results = [None] * len(pieces)
        length = max(by_length, default=0)
        ids, places = np.empty((0, length), np.int32), np.empty(0, np.int64)  # (rows, length)
        ranks = np.empty((0, max(length - 1, 0)), np.int32)  # (rows, length - 1)
        while length:
            new = by_length.get(length, [])
            if new:
                data = np.frombuffer(b"".join([pieces[i] for i in new]), np.uint8)
                data = data.reshape(-1, length)
                ids = np.concatenate([ids, self.starts[data]])
                ranks = np.concatenate([ranks, self.of_bytes[data[:, :-1], data[:, 1:]]])
                places = np.concatenate([places, np.array(new)])
            goes_on = (ranks < self.none).any(1)
            done = ~goes_on
            for place, row in zip(places[done].tolist(), ids[done].tolist()):
                results[place] = row
            ids, ranks, places = ids[goes_on], ranks[goes_on], places[goes_on]
            if length > 1:
                ids, ranks = self._merge(ids, ranks)
            length -= 1
        return results

    def _merge(self, ids, ranks):
        """Every row's best pair merged. ids: (rows, length); ranks: (rows, length - 1)."""
        n, length = ids.shape
        rows = np.arange(n)
        place = ranks.argmin(1)  # of equals the leftmost
        ids[rows, place] = self.built[ranks[rows, place]]
        keep = np.ones((n, length), bool)
        keep[rows, place + 1] = False
        ids = ids[keep].reshape(n, length - 1)
        keep = np.ones((n, length - 1), bool)
        keep[rows, place] = False
        ranks = ranks[keep].reshape(n, length - 2)
        left = np.flatnonzero(place > 0)  # the new token and what stands before it
        at = place[left]
        ranks[left, at - 1] = self._rank(ids[left, at - 1], ids[left, at])
        right = np.flatnonzero(place < length - 2)
        at = place[right]
        ranks[right, at] = self._rank(ids[right, at], ids[right, at + 1])
        return ids, ranks
