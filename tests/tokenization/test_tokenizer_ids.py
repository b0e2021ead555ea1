"""Byte-level BPE's ids: those of an independent implementation; every byte comes back."""

import random
import time

import pytest
import torch
from helpers.tokenization_subject import AWKWARD, END, LANGUAGES, corpus, pair  # noqa: F401 - corpus and pair are fixtures
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmbook.tokenization import BPETokenizer, split


@given(AWKWARD)
@example("")
@example("\x00" * 5)
@example(f"{END}{END}a{END}")
@settings(max_examples=150, deadline=None)
def test_ids_equal_the_librarys_and_the_text_comes_back(pair, text):
    ours, theirs = pair
    ids = ours.encode(text)
    assert ids == theirs.encode(text).ids
    assert ours.decode(ids) == text == theirs.decode(ids, skip_special_tokens=False)
    plain = ours.encode(text, allowed_special=())
    assert not {0, 1} & set(plain) and ours.decode(plain) == text
    assert plain == ours.encode_bytes(text.encode())


@given(st.binary(max_size=60))
@example(b"")
@example(bytes(range(256)))
@settings(max_examples=150, deadline=None)
def test_any_bytes_come_back(pair, data):
    ours, _ = pair
    ids = ours.encode_bytes(data)
    assert ours.decode_bytes(ids) == data
    assert ours.decode(ids) == data.decode("utf-8", "replace")


def test_real_text_gets_the_librarys_ids_and_fewer_of_them(pair, corpus):
    ours, theirs = pair
    text = corpus[-200_000:]
    ids = ours.encode(text)
    assert ids == theirs.encode(text).ids == ours.encode(text)  # the second time from memory
    assert len(text) / len(ids) > 1.8


@given(st.lists(st.sampled_from("return self object the ing ation er in s x module".split())))
@example(["return", "the", "module", "the", "ing", "object"] * 20)
@settings(max_examples=80, deadline=None)
def test_short_and_long_pieces_are_merged_alike(pair, parts):
    from llmbook.tokenization import merging

    ours, theirs = pair
    letters = "".join(parts)  # one piece, much longer than any token
    ids = [ours.vocab[bytes([b])] for b in letters.encode()]
    long = merging.merge_with_heap(ids, ours._merges.ranks, ours._merges.built)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "LONG", 10**6)
        assert ours.ids_of(letters) == long
    assert long == theirs.encode(letters).ids


MEGABYTES = {"one-word": "the", "letters": "a", "emoji": "🐈", "nuls": "\x00", "spaces": " "}


@pytest.mark.parametrize(
    "pair, line",
    [
        ("gpt2", "the cat "),
        *(
            pytest.param("gpt2", c, marks=pytest.mark.slow, id=name)
            for name, c in MEGABYTES.items()
        ),
        pytest.param("gpt4", " ", marks=pytest.mark.slow, id="spaces-gpt4"),
    ],
    indirect=["pair"],
)
def test_a_line_of_a_megabyte_takes_seconds_at_most(pair, line):
    ours, theirs = pair
    text = line * (1_000_000 // len(line.encode()))
    begin = time.process_time()
    ids = ours.encode(text)
    assert time.process_time() - begin < 15
    assert ours.decode(ids) == text
    if line != " ":  # on 60,000 spaces and more the library's own pattern does not come to an end
        assert ids == theirs.encode(text).ids


def test_ids_in_any_order_are_understood(pair, tmp_path):
    ours, _ = pair
    places = list(range(ours.vocab_size))
    random.Random(0).shuffle(places)
    moved = BPETokenizer(
        {t: places[i] for t, i in ours.vocab.items()},
        ours.merges,
        {t: places[i] for t, i in ours.special_tokens.items()},
        ours.pattern,
    )
    text = LANGUAGES + END
    assert moved.encode(text) == [places[i] for i in ours.encode(text)]
    assert BPETokenizer.load(moved.save(tmp_path)).encode(text) == moved.fast().encode(text).ids


def test_special_tokens_are_called_only_when_allowed_and_the_longest_wins():
    tokenizer = BPETokenizer.train(LANGUAGES, 300, ("<|e|>", "<|e|><|e|>", "<|f|>"))
    assert tokenizer.encode("<|e|>" * 3) == [1, 0] == tokenizer.fast().encode("<|e|>" * 3).ids
    assert tokenizer.encode("<|e|><|f|>", allowed_special={"<|f|>"})[-1] == 2
    assert 0 not in tokenizer.encode("<|e|><|f|>", allowed_special={"<|f|>"})
    with pytest.raises(ValueError, match="names '<|g|>'"):
        tokenizer.encode("a", allowed_special=["<|g|>"])
    with pytest.raises(ValueError, match="'all' or a collection"):
        tokenizer.encode("a", allowed_special="none")


def test_what_is_remembered_stays_bounded(monkeypatch):
    from llmbook.tokenization import bpe

    monkeypatch.setattr(bpe, "KEPT_PIECES", 100)
    tokenizer = BPETokenizer.train("", 257)
    for i in range(50):
        tokenizer.encode(" ".join(f"{i}x{j}" for j in range(20)))
    assert len(tokenizer._remembered) < 250
    tokenizer.encode("a" * 1000)
    assert "a" * 1000 not in tokenizer._remembered


def test_tiktoken_built_from_our_ranks_gives_our_ids(pair):
    ours, _ = pair
    text = LANGUAGES + END
    assert ours.tiktoken().encode(text, allowed_special="all") == ours.encode(text)


# --- errors


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda t: t.encode("ok \ud83d no"), ValueError, r"lone surrogate, U\+D83D at position 3"),
        (lambda t: t.encode(b"bytes"), TypeError, "text must be a str: got bytes"),
        (lambda t: t.encode_bytes("text"), TypeError, "data must be bytes: got str"),
        (lambda t: t.decode([0, 300]), ValueError, "from 0 to 258: got 300"),
        (lambda t: t.decode([-1]), ValueError, "got -1"),
        (lambda t: t.decode([1.0]), TypeError, "got 1.0"),
        (lambda t: t.decode([True]), TypeError, "got True"),
        (lambda t: t.train("a", 256), ValueError, "at least 256 bytes"),
        (lambda t: t.train("a", 300.0), TypeError, "vocab_size must be a whole number"),
        (lambda t: t.train("a", 300, "<eot>"), TypeError, "collection of strings"),
        (lambda t: t.train("a", 300, ("x", "x")), ValueError, "differ from each other"),
        (lambda t: t.train("a", 300, ("!",)), ValueError, "must differ from every token's name"),
        (lambda t: t.train("a", 300, ("",)), ValueError, "at least 1 character"),
        (
            lambda t: t.train("a", 300, pattern="gpt5"),
            ValueError,
            "pattern must be one of gpt2, gpt4",
        ),
        (lambda t: t.train("a", 300, backend="rust"), ValueError, "backend must be"),
        (lambda t: t.train(["a", 7], 300), TypeError, "text must be a str: got int"),
        (lambda t: t.train("a\udfff", 300), ValueError, "lone surrogate"),
        (lambda t: t.train_fast("a\udfff", 300), ValueError, "lone surrogate"),
        (lambda t: split("a", "none"), ValueError, "pattern must be one of"),
    ],
)
def test_bad_arguments_get_a_clear_error(call, error, words):
    with pytest.raises(error, match=words):
        call(BPETokenizer.train("abc abc", 259))


def test_tensors_and_single_ids_are_decoded():
    tokenizer = BPETokenizer.train("abc abc", 259)
    ids = tokenizer.encode("abc b")
    assert tokenizer.decode(torch.tensor(ids)) == "abc b" and tokenizer.decode(ids[0]) == "abc"
    assert tokenizer.decode([]) == "" and len(tokenizer) == 259
    assert repr(tokenizer).startswith("<BPETokenizer 259 ids: 2 merges")
