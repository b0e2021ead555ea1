"""WordPiece and Unigram: the library's pieces from the same vocabulary; what training promises."""

import math
import random
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from llmbook.data import documentation
from llmbook.tokenization import Unigram, WordPiece

WORDS = Counter(
    "low low low low low lower lower newest newest newest newest newest newest "
    "widest widest widest".split()
)
LETTERS = st.text("abcx", max_size=14)


@pytest.fixture(scope="module")
def real_words():
    return Counter(documentation().text[:30_000].split())


def cuts(word):
    """Every way to cut a word into pieces."""
    inner = range(1, len(word))
    for n in range(len(word)):
        for places in combinations(inner, n):
            edges = [0, *places, len(word)]
            yield [word[a:b] for a, b in zip(edges, edges[1:])]


# --- WordPiece


@given(LETTERS)
@settings(max_examples=200, deadline=None)
def test_wordpiece_cuts_like_the_library_from_the_same_vocabulary(word):
    pieces = ["[UNK]", "a", "ab", "abc", "b", "##b", "##c", "##a", "##ab", "##bca", "##caa", "c"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    theirs = models.WordPiece(vocab=vocab, unk_token="[UNK]", max_input_chars_per_word=12)
    ours = WordPiece(vocab, longest=12)
    assert ours.tokenize(word) == [token.value for token in theirs.tokenize(word)]


def test_wordpiece_trained_on_real_words_cuts_unseen_words_like_the_library(real_words):
    ours = WordPiece.train(dict(real_words.most_common(500)), 200)
    assert len(ours.vocab) == 200
    theirs = models.WordPiece(vocab=ours.vocab, unk_token="[UNK]")
    unseen = Counter(documentation().text[-20_000:].split())
    for word in unseen:
        assert ours.tokenize(word) == [token.value for token in theirs.tokenize(word)]
    known = next(word for word, _ in real_words.most_common(500) if len(word) > 8)
    assert "".join(ours.tokenize(known)).replace("##", "") == known


def test_wordpiece_joins_what_is_surprisingly_together_and_bpe_what_is_frequent():
    words = {"ab": 50, "ac": 50, "db": 50, "xy": 3}
    ours = WordPiece.train(words, 7 + 1)
    assert list(ours.vocab)[-1] == "xy"  # 3 / (3 · 3) beats 50 / (100 · 100)
    assert list(WordPiece.train(words | {"xy": 1}, 7 + 1).vocab)[-1] == "xy"  # once is enough
    assert list(WordPiece.train(words, 7 + 1, min_count=4).vocab)[-1] == "ac"


def test_wordpiece_reads_words_of_a_hundred_characters_unless_told():
    ours = WordPiece({"[UNK]": 0, "a": 1, "##a": 2})
    assert ours.encode("a" * 100) == [1, *[2] * 99] and ours.encode("a" * 101) == [0]


def test_wordpiece_does_not_know_a_word_with_one_strange_character_and_loses_spaces():
    ours = WordPiece.train(WORDS, 30)
    assert ours.tokenize("löw") == ["[UNK]"] and ours.encode("low  low") == ours.encode("low low")


# --- Unigram


@given(LETTERS, st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_unigram_cuts_like_the_library_from_the_same_scores(word, seed):
    g = random.Random(seed)
    scores = {
        piece: -g.uniform(1, 12)
        for piece in ("a", "b", "c", "ab", "bc", "abc", "aa", "ca", "cab", "bcab")
    }
    theirs = models.Unigram([("<unk>", 0.0), *scores.items()], unk_id=0)
    got = Unigram(scores).tokenize(word)
    want = [t.value if t.id else "<unk>" for t in theirs.tokenize(word)]
    assert got == want


def test_unigrams_cut_is_the_best_of_all_and_its_expectation_a_mean_over_all():
    g = random.Random(7)
    words = {"abcab": 3, "cabbage": 2}
    pieces = {"".join(g.choices("abceg", k=g.randint(1, 3))) for _ in range(40)} | set("abceg")
    model = Unigram({piece: -g.uniform(0.5, 6) for piece in sorted(pieces)})
    counts, total = model.expected_counts(words)
    want, likelihood = Counter(), 0.0
    for word, n in words.items():
        every = [c for c in cuts(word) if all(piece in pieces for piece in c)]
        p = [math.exp(sum(model.scores[piece] for piece in c)) for c in every]
        assert model.tokenize(word) == every[p.index(max(p))]
        likelihood += n * math.log(sum(p))
        for c, share in zip(every, p):
            for piece in c:
                want[piece] += n * share / sum(p)
    assert total == pytest.approx(likelihood)
    assert {k: v for k, v in counts.items() if v} == pytest.approx(dict(want))


@pytest.mark.parametrize("n", [128, 150, 2000])
def test_long_words_are_counted_as_short_ones_are(n):
    """Words of 2n letters, for which the sums over all cuts can be written down."""
    model = Unigram({"a": -3.0, "b": -3.2, "ab": -5.9})
    counts, total = model.expected_counts({"ab" * n: 1})
    apart, joined = math.exp(-6.2), math.exp(-5.9)  # each "ab" is cut in one of two ways
    assert total == pytest.approx(n * math.log(apart + joined))
    assert counts["a"] == pytest.approx(n * apart / (apart + joined))
    assert counts["b"] == pytest.approx(n * apart / (apart + joined))
    assert counts["ab"] == pytest.approx(n * joined / (apart + joined))


def test_long_words_are_cut_like_the_library_and_trained_on():
    g = random.Random(3)
    scores = {p: -g.uniform(1, 12) for p in ("a", "b", "c", "ab", "bc", "abc", "aa", "ca", "cab")}
    word = "".join(g.choices("abcx", k=3000))
    theirs = models.Unigram([("<unk>", 0.0), *scores.items()], unk_id=0)
    ours = Unigram(scores)
    assert ours.ids_of(word) == [token.id for token in theirs.tokenize(word)]
    chinese = "".join(chr(0x4E00 + i * 7919 % 500) for i in range(400))
    model = Unigram.train({chinese: 1, "abc" * 120: 2}, 420)
    assert len(model.scores) <= 420 and "".join(model.tokenize(chinese)) == chinese


def test_re_estimating_never_makes_the_text_less_likely(real_words):
    words = dict(real_words.most_common(200))
    pieces = {p for w in words for p in [*w, w[:2], w[1:4]] if p}
    model = Unigram(dict.fromkeys(sorted(pieces), -math.log(len(pieces))))
    before = -math.inf
    for _ in range(6):
        counts, likelihood = model.expected_counts(words)
        assert likelihood >= before - 1e-9
        before, total = likelihood, sum(counts.values())
        model = Unigram({p: math.log(max(counts[p], 1e-9) / total) for p in model.scores})


def test_unigram_trained_has_the_size_asked_for_all_letters_and_uses_long_pieces():
    model = Unigram.train(WORDS, 16)
    assert len(model.scores) == 16 and set("lowernstid") <= set(model.scores)
    assert math.fsum(map(math.exp, model.scores.values())) == pytest.approx(1)
    assert len(Unigram.train(WORDS, 10).scores) == 10  # letters alone
    assert model.tokenize("newest") == ["newest"] and len(model.tokenize("lowest")) < 6
    pieces = [*model.tokenize("low"), "l", "<unk>", "w"]
    assert model.encode("low löw") == [model.ids[piece] for piece in pieces]


def test_a_round_of_training_re_estimates_twice(monkeypatch):
    asked, estimate = [], Unigram.expected_counts
    monkeypatch.setattr(Unigram, "expected_counts", lambda *a: asked.append(1) or estimate(*a))
    Unigram.train({"ab": 2}, 3)  # one round: a, b, ab
    assert len(asked) == 2


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: WordPiece({"a": 0}), "unknown token"),
        (lambda: WordPiece.train(WORDS, 5), "vocab_size must be at least"),
        (lambda: Unigram.train(WORDS, 5), "vocab_size must be at least 10"),
        (lambda: Unigram({}), "at least one piece"),
        (lambda: Unigram({"a": -math.inf}), "finite"),
    ],
)
def test_bad_arguments_get_a_clear_error(call, words):
    with pytest.raises(ValueError, match=words):
        call()
