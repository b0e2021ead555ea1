"""Applying merges to a piece: of all neighbours that can merge, the earliest-learned pair first.

Of one pair in several places the leftmost goes first. Three ways, all to the same ids: a plain
search for short pieces, runs of equal tokens for long pieces such as blanks, and else a heap.
(Many short pieces at once: see `batch`.)

Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units",
section 3.2.
"""

import heapq
import re
from functools import cached_property
from itertools import groupby

LONG = 48  # tokens; a piece above is merged by runs or with a heap
KEPT_LENGTH = 256  # characters; the ids of a piece above are not remembered
_RUN = re.compile(rb"(.)\1*", re.DOTALL)


class Merges:
    """What merges with what. pairs: list of (left id, right id, new id) in the order learned.

    A pair that is listed twice counts where it stands last.
    """

    def __init__(self, pairs):
        self.ranks = {(a, b): rank for rank, (a, b, _) in enumerate(pairs)}
        self.built = [new for _, _, new in pairs]

    @cached_property
    def orderly(self):
        """Whether no token is used in an earlier merge than one that makes it.

        Then a merge never opens the way for one that should have come before it, and all places of
        a pair may be merged together.
        """
        used = {}
        for (a, b), rank in self.ranks.items():
            for part in (a, b):
                used[part] = min(rank, used.get(part, rank))
        none = len(self.built)
        return all(used.get(self.built[r], none) > r for r in self.ranks.values())

    def apply(self, ids):
        """Merge a list of ids; returns a new list. At most n log n steps for long ones."""
        if len(ids) > LONG:
            if self.orderly:
                runs = [(i, len(list(same))) for i, same in groupby(ids)]
                if len(runs) * 8 <= len(ids):
                    return merge_runs(runs, self.ranks, self.built)
            return merge_with_heap(ids, self.ranks, self.built)
        ranks, built, none = self.ranks, self.built, len(self.built)
        ids = list(ids)
        while len(ids) > 1:
            found = [ranks.get(pair, none) for pair in zip(ids, ids[1:])]
            best = min(found)
            if best == none:
                break
            place = found.index(best)
            ids[place : place + 2] = [built[best]]
        return ids

    def apply_to_bytes(self, data, starts):
        """Merge the bytes of a piece. starts: the 256 bytes' ids."""
        if len(data) > LONG and self.orderly:
            runs = [(starts[run[0][0]], len(run[0])) for run in _RUN.finditer(data)]
            if len(runs) * 8 <= len(data):
                return merge_runs(runs, self.ranks, self.built)
        return self.apply([starts[byte] for byte in data])


def merge_with_heap(ids, ranks, built):
    """The same merges in n log n steps: neighbours in a linked list, candidates in a heap.

    A candidate is one number, rank · n + place: the lowest rank first, and of these the leftmost.
    """
    ids, n = list(ids), len(ids)
    before, after = list(range(-1, n - 1)), list(range(1, n + 1))
    heap = [
        ranks[pair] * n + place for place, pair in enumerate(zip(ids, ids[1:])) if pair in ranks
    ]
    heapq.heapify(heap)
    while heap:
        rank, place = divmod(heapq.heappop(heap), n)
        right = after[place]
        if right >= n or ranks.get((ids[place], ids[right])) != rank:
            continue  # one of the two has been merged meanwhile
        ids[place], ids[right] = built[rank], None
        after[place] = last = after[right]
        after[right] = n  # out of the list
        if last < n:
            before[last] = place
            found = ranks.get((ids[place], ids[last]))
            if found is not None:
                heapq.heappush(heap, found * n + place)
        if place:
            first = before[place]
            found = ranks.get((ids[first], ids[place]))
            if found is not None:
                heapq.heappush(heap, found * n + first)
    return [i for i in ids if i is not None]


def merge_runs(runs, ranks, built):
    """The same merges for ids as runs [(id, how often)]: a pair is merged everywhere at once.

    For `Merges` that are orderly only. A run of n equal tokens takes about log n rounds.
    """
    none, rank_of = len(built), ranks.get
    while True:
        found, last = none, None
        for i, n in runs:
            rank = rank_of((last, i), none)
            if rank < found:
                found = rank
            if n > 1:
                rank = rank_of((i, i), none)
                if rank < found:
                    found = rank
            last = i
        if found == none:
            return [i for i, n in runs for _ in range(n)]
        runs = _merge_pair(runs, found, ranks, built[found])


def _merge_pair(runs, rank, ranks, new):
    """Runs, neighbours different, with the pair of that rank made `new` wherever it stands."""
    merged, last, count, rank_of = [], None, 0, ranks.get  # the run that may still grow
    for i, n in runs:
        if n > 1 and rank_of((i, i)) == rank:  # from the left: aaaaa is aa aa a
            parts = ((new, n // 2), (i, n % 2))
        elif rank_of((last, i)) == rank:
            count -= 1
            if not count:
                last, count = merged.pop() if merged else (None, 0)
            parts = ((new, 1), (i, n - 1))
        else:
            parts = ((i, n),)
        for j, m in parts:
            if m and j == last:
                count += m
            elif m:
                if count:
                    merged.append((last, count))
                last, count = j, m
    merged.append((last, count))
    return merged


class Remembered(dict):
    """Piece -> ids, worked out when first asked for; very long pieces are not kept."""

    def __init__(self, compute):
        super().__init__()
        self.compute = compute

    def __missing__(self, piece):
        ids = self.compute(piece)
        if len(piece) <= KEPT_LENGTH:
            self[piece] = ids
        return ids
