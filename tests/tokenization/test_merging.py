"""The ways to merge: plain, by runs, with a heap, many at once; all to the same ids."""

import random
from functools import cache
from itertools import groupby

import pytest
from helpers.tokenization_subject import LANGUAGES, corpus  # noqa: F401 - a fixture
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmbook.tokenization import BPETokenizer
from llmbook.tokenization.batch import Batch
from llmbook.tokenization.chunks import chunks, falls_apart
from llmbook.tokenization.merging import (
    KEPT_LENGTH,
    LONG,
    Merges,
    Remembered,
    merge_runs,
    merge_with_heap,
)


def one_by_one(ids, ranks, built):
    """The definition: of all pairs the first learned, of these the leftmost, till none is left."""
    ids = list(ids)
    while True:
        found = [(ranks[pair], i) for i, pair in enumerate(zip(ids, ids[1:])) if pair in ranks]
        if not found:
            return ids
        rank, i = min(found)
        ids[i : i + 2] = [built[rank]]


def learned(seed):
    """Merges as training makes them over three symbols: later ones build on earlier ones."""
    g, tokens, pairs = random.Random(seed), [(0,), (1,), (2,)], []
    for _ in range(12):
        a, b = g.randrange(len(tokens)), g.randrange(len(tokens))
        whole = tokens[a] + tokens[b]
        if whole not in tokens:
            tokens.append(whole)
            pairs.append((a, b, len(tokens) - 1))
    return Merges(pairs)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), max_size=12), st.integers(0, 30))
@example([(0, 9), (0, 9), (1, 1), (0, 7)], 0)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_runs_and_heap_and_plain_merge_to_the_same_ids(runs, seed):
    merges = learned(seed)
    ids = [i for i, n in runs for _ in range(n)]
    want = one_by_one(ids, merges.ranks, merges.built)
    assert merges.orderly
    assert merge_with_heap(ids, merges.ranks, merges.built) == want
    assert merges.apply(ids) == want == merges.apply_to_bytes(bytes(ids), [0, 1, 2])
    runs = [(i, len(list(same))) for i, same in groupby(ids)]
    assert merge_runs(runs, merges.ranks, merges.built) == want


def test_merges_out_of_order_are_not_merged_by_runs():
    merges = Merges([(2, 0, 3), (0, 1, 2)])  # what the second makes is used by the first
    assert not merges.orderly
    ids = [0, 1, 0, 1, 0] + [0] * 100
    want = one_by_one(ids, merges.ranks, merges.built)
    assert merges.apply(ids) == want and len(ids) > LONG


def test_a_long_run_is_merged_in_few_rounds(monkeypatch):
    from llmbook.tokenization import merging

    tokenizer = BPETokenizer.train(" " * 64 + "x", 270)
    monkeypatch.setattr(merging, "merge_with_heap", None)  # not the way for runs
    for n in (49, 1000, 100_003):
        ids = tokenizer.encode(" " * n + "x")
        assert tokenizer.decode(ids) == " " * n + "x" and len(ids) < n / 4


@given(st.lists(st.text("abc dé猫", min_size=1, max_size=20), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_many_pieces_at_once_are_merged_as_one_by_one(pieces):
    tokenizer = _trained()
    pieces = [piece.encode()[:LONG] for piece in pieces]
    got = Batch(tokenizer._byte_ids, tokenizer._merges).apply(pieces)
    ranks, built = tokenizer._merges.ranks, tokenizer._merges.built
    starts = [[tokenizer._byte_ids[b] for b in piece] for piece in pieces]
    assert got == [one_by_one(ids, ranks, built) for ids in starts]


@cache
def _trained():
    return BPETokenizer.train(LANGUAGES + "abc cab abcabc a aa aaa dé " * 9, 420)


def test_merging_nothing_and_without_merges():
    tokenizer = BPETokenizer.train("", 257)
    batch = Batch(tokenizer._byte_ids, tokenizer._merges)
    assert batch.apply([]) == [] and batch.apply([b"ab"]) == [tokenizer.encode("ab")]
    assert Merges([]).apply([]) == [] and Merges([]).apply([5] * 60) == [5] * 60


def test_what_was_worked_out_at_once_is_what_would_have_been_worked_out_alone(corpus, monkeypatch):
    from llmbook.tokenization import bpe

    tokenizer = BPETokenizer.train_fast(corpus[:300_000], 2000)
    text = corpus[-300_000:] + LANGUAGES
    for ignore in (False, True):
        tokenizer.ignore_merges = ignore
        tokenizer._remembered.clear()
        together = tokenizer.encode(text)
        monkeypatch.setattr(bpe, "_MANY", 10**9)
        tokenizer._remembered.clear()
        assert tokenizer.encode(text) == together
        monkeypatch.undo()


def test_a_small_memory_gives_the_same_ids(corpus, monkeypatch):
    from llmbook.tokenization import bpe

    tokenizer = BPETokenizer.train_fast(corpus[:100_000], 1000)
    want = tokenizer.encode(corpus[-400_000:])
    monkeypatch.setattr(bpe, "KEPT_PIECES", 3000)
    assert tokenizer.encode(corpus[-400_000:]) == want and len(tokenizer._remembered) < 6000


def test_long_pieces_are_not_remembered():
    seen = []
    remembered = Remembered(lambda piece: seen.append(piece) or [1])
    for piece in ("a", "a" * KEPT_LENGTH, "b" * (KEPT_LENGTH + 1)) * 2:
        assert remembered[piece] == [1]
    assert len(seen) == 4 and len(remembered) == 2


# --- chunks


@given(
    st.lists(st.sampled_from(["a", " b", "c d", "\n", "  ", "e's", "1", " 猫", "\t"]), max_size=60)
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_chunks_joined_are_the_text_and_end_between_letters(parts):
    text = "".join(parts)
    found = list(chunks(text, 7))
    assert "".join(found) == text and all(found)
    for one, two in zip(found, found[1:]):
        assert one[-1].isalpha() and two[0] == " " and two[1].isalpha() and len(one) > 7


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_a_text_in_chunks_has_the_ids_of_the_whole(corpus, pattern, monkeypatch):
    from llmbook.tokenization import bpe

    tokenizer = BPETokenizer.train_fast(corpus[:50_000], 700, pattern=pattern)
    text = corpus[:60_000] + LANGUAGES + corpus[60_000:90_000]
    assert tokenizer._falls_apart
    small = tokenizer.encode(text)
    monkeypatch.setattr(bpe, "chunks", lambda text: chunks(text, 100))
    assert tokenizer.encode(text) == small
    tokenizer._falls_apart = False
    assert tokenizer.encode(text) == small


def test_only_patterns_that_are_known_fall_apart():
    byte_level = {"type": "ByteLevel"}
    split = {"type": "Split", "pattern": {"Regex": r"\w+ \w+"}, "behavior": "Isolated"}
    digits = split | {"pattern": {"Regex": r"\p{N}{1,3}"}}
    assert falls_apart(byte_level) and falls_apart(digits)
    assert not falls_apart(split) and not falls_apart(digits | {"behavior": "Contiguous"})
    assert not falls_apart({"type": "Sequence", "pretokenizers": [split, byte_level]})
    assert not falls_apart(None) and not falls_apart({"type": "Metaspace"})
    removed = digits | {"behavior": "Removed"}
    assert falls_apart(removed | {"invert": True}) and not falls_apart(removed)
