"""Byte-pair encoding, the training: merge the most frequent pair of neighbours, and again.

The text comes as distinct words with their counts. After a merge only the words that held the
merged pair have changed, so only their pairs are counted anew: a merge costs what it touches, not
another pass over the text.

Source: Gage 1994, "A New Algorithm for Data Compression"; Sennrich et al. 2016, "Neural Machine
Translation of Rare Words with Subword Units", section 3.2.
"""

import heapq
from collections import Counter, defaultdict

from llmbook.tokenization.chunks import chunks


def count_words(texts, pieces):
    """How often each piece occurs in an iterable of texts.

    pieces: a function text -> pieces, by one of the published patterns: long texts are cut in
    chunks first.
    """
    counts = Counter()
    for text in texts:
        for chunk in chunks(text):
            counts.update(pieces(chunk))
    return counts


def learn_merges(words, tokens, vocab_size, progress=None):
    """Add merged tokens to `tokens` until it holds `vocab_size`, or no pair is left.

    words: a dict from a word, as a tuple of ids, to its count. tokens: a list of bytes, id by
    place; it grows. Returns the merges in order, a list of (id, id).

    Convention: a pair counts once for each place where its two tokens stand side by side, so "aaa"
    holds (a, a) twice. Of equally frequent pairs the one with the smaller first id wins, then the
    smaller second id. Two merges may build the same bytes in different ways: they share one id.
    progress: called with the number of tokens after each merge.
    """
    sequences = list(map(list, words))
    weights = list(words.values())
    counts, where = defaultdict(int), defaultdict(list)
    for index, (sequence, weight) in enumerate(zip(sequences, weights)):
        for pair in zip(sequence, sequence[1:]):
            counts[pair] += weight
            where[pair].append(index)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    known = {token: i for i, token in enumerate(tokens)}
    merges = {}  # used as an ordered set
    while len(tokens) < vocab_size and heap:
        negative, pair = heapq.heappop(heap)
        if counts[pair] != -negative:  # the count has changed since it was put here
            if counts[pair]:
                heapq.heappush(heap, (-counts[pair], pair))
            continue
        merged = tokens[pair[0]] + tokens[pair[1]]
        new = known.setdefault(merged, len(tokens))
        if new == len(tokens):
            tokens.append(merged)
        merges.pop(pair, None)
        merges[pair] = new
        grown = _merge_everywhere(pair, new, sequences, weights, counts, where)
        for other in grown:
            if counts[other]:
                heapq.heappush(heap, (-counts[other], other))
        if progress:
            progress(len(tokens))
    return list(merges)


def _merge_everywhere(pair, new, sequences, weights, counts, where):
    """Merge a pair wherever it stands, keep the books, return the pairs that may have grown.

    Only the neighbours of a place change: what stood beside the pair now stands beside `new`.
    """
    first, second = pair
    grown = set()
    for index in where.pop(pair):
        sequence, weight = sequences[index], weights[index]
        place, last = -1, len(sequence) - 1
        while True:
            try:
                place = sequence.index(first, place + 1, last)
            except ValueError:  # there is no other
                break
            if sequence[place + 1] != second:
                continue
            sequence[place : place + 2] = (new,)
            last -= 1
            if place:
                left = sequence[place - 1]
                counts[left, first] -= weight
                fresh = (left, new)
                counts[fresh] += weight
                where[fresh].append(index)
                grown.add(fresh)
            if place < last:
                right = sequence[place + 1]
                counts[second, right] -= weight
                fresh = (new, right)
                counts[fresh] += weight
                where[fresh].append(index)
                grown.add(fresh)
    counts[pair] = 0
    return grown


def merge(ids, pair, new):
    """Replace each occurrence of a pair, from the left: aaa with (a, a) gives [new, a]."""
    first, second = pair
    merged, i, last = [], 0, len(ids) - 1
    while i <= last:
        if i < last and ids[i] == first and ids[i + 1] == second:
            merged.append(new)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged
