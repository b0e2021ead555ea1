"""Training byte-level BPE: the merges of an independent implementation, and of recounting."""

import json
import random
import time
from collections import Counter

import pytest
from helpers.tokenization_subject import LANGUAGES, corpus, library  # noqa: F401 - corpus is a fixture

from llmbook.tokenization import BPETokenizer
from llmbook.tokenization.trainer import learn_merges, merge


def naive_merges(words, tokens, vocab_size):
    """Count everything again for each merge; of equal counts the smallest pair of ids."""
    tokens, merges = list(tokens), []
    while len(tokens) < vocab_size:
        counts = Counter()
        for word, n in words.items():
            for two in zip(word, word[1:]):
                counts[two] += n
        if not counts:
            break
        best = min(counts, key=lambda two: (-counts[two], two))
        joined = tokens[best[0]] + tokens[best[1]]
        if joined not in tokens:
            tokens.append(joined)
        merges.append(best)
        new, fresh = tokens.index(joined), Counter()
        for word, n in words.items():
            out = []
            for i in word:
                out.append(i)
                if tuple(out[-2:]) == best and not (len(out) > 2 and out[-2] is None):
                    out[-2:] = [new]
            fresh[tuple(out)] += n
        words = fresh
    return merges, tokens


def test_merges_equal_those_of_recounting_everything_each_time():
    g = random.Random(3)
    for alphabet in ("ab", "abc", "aaab", "abcdefgh"):
        text = ["".join(g.choices(alphabet, k=g.randint(1, 14))) for _ in range(120)]
        letters = [c.encode() for c in sorted(set(alphabet))]
        words = Counter(tuple(letters.index(c.encode()) for c in word) for word in text)
        tokens = list(letters)
        assert (learn_merges(words, tokens, 40), tokens) == naive_merges(words, letters, 40)


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_merges_and_ids_equal_those_of_the_librarys_trainer(corpus, pattern):
    texts = [LANGUAGES * 3, corpus[:150_000], corpus[-50_000:], "", "a" * 300]
    ours = BPETokenizer.train(texts, 1500, pattern=pattern, backend="python")
    theirs = json.loads(library(texts, 1500, pattern).to_str())["model"]
    mine = json.loads(ours.to_json())["model"]
    assert mine["merges"] == theirs["merges"] and len(mine["merges"]) > 1200
    assert mine["vocab"] == theirs["vocab"]


def test_merges_equal_the_librarys_where_nearly_all_pairs_tie():
    g = random.Random(5)
    for round in range(25):
        letters = "abc"[: 2 + round % 2]
        text = " ".join("".join(g.choices(letters, k=g.randint(1, 12))) for _ in range(100))
        a = BPETokenizer.train(text, 257 + 80, backend="python")
        b = BPETokenizer.train_fast(text, 257 + 80)
        assert a.merges == b.merges and a.vocab == b.vocab


def test_185_kilobytes_and_256_merges_take_at_most_a_second_and_a_half(corpus):
    text = corpus[:185_000]
    begin = time.process_time()
    tokenizer = BPETokenizer.train(text, 256 + 1 + 256, backend="python")
    assert time.process_time() - begin <= 1.5
    assert len(tokenizer.merges) == 256


def test_the_textbook_example():
    words, tokens = {(0, 0, 0, 1, 3, 0, 0, 0, 1, 0, 2): 1}, [b"a", b"b", b"c", b"d"]
    merges = learn_merges(words, tokens, 7)
    ids = [0, 0, 0, 1, 3, 0, 0, 0, 1, 0, 2]
    for new, two in enumerate(merges, 4):
        ids = merge(ids, two, new)
    assert tokens[4:] == [b"aa", b"aaa", b"aaab"] or tokens[4:] == [b"aa", b"ab", b"aaab"]
    assert ids == [6, 3, 6, 0, 2]


def test_training_stops_when_no_pair_is_left_and_takes_an_empty_text():
    tokenizer = BPETokenizer.train("ab ab", 1000, ())
    assert [a + b for a, b in tokenizer.merges] == [b"ab", b" ab"]
    assert BPETokenizer.train("", 300).vocab_size == 257


def test_auto_gives_large_texts_to_the_library_and_the_result_is_the_same(monkeypatch, corpus):
    from llmbook.tokenization import bpe

    plain = BPETokenizer.train(corpus[:20_000], 300)
    used = []
    fast = bpe.train_with_library
    monkeypatch.setattr(bpe, "train_with_library", lambda *args: used.append(1) or fast(*args))
    monkeypatch.setattr(bpe, "LARGE_TEXT", 20_000)
    assert BPETokenizer.train(iter([corpus[:20_000]]), 300).to_json() == plain.to_json()
    assert BPETokenizer.train(corpus[:19_000], 300) and used == [1]


def test_special_tokens_come_first_and_progress_is_told():
    seen = []
    tokenizer = BPETokenizer.train("low lower lowest", 262, ("<a>", "<b>"), progress=seen.append)
    assert tokenizer.special_tokens == {"<a>": 0, "<b>": 1}
    assert tokenizer.vocab[b"!"] == 2 and seen == [259, 260, 261, 262]
