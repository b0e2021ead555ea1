"""Added tokens: cut out as the library cuts them, whatever their flags; kept when written."""

import pytest
from helpers.tokenization_subject import LANGUAGES
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken as LibraryToken
from tokenizers import Tokenizer, normalizers

from llmbook.tokenization import AddedToken, BPETokenizer
from llmbook.tokenization.added import AddedTokens

PIECES = [
    "a",
    "b",
    "ab",
    "x",
    "é",
    "É",
    "ﬁ",
    "猫",
    "<",
    "|",
    "<|",
    " ",
    "  ",
    "\n",
    "_",
    "1",
    ".",
    "\u00a0",
]
TEXTS = st.lists(
    st.sampled_from([*PIECES, "hello", " world", "\u200d", "e\u0301"]), max_size=14
).map("".join)
FLAGS = st.fixed_dictionaries(
    {f: st.booleans() for f in ("lstrip", "rstrip", "single_word", "normalized")}
)
TOKENS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join),
        FLAGS,
        st.booleans(),
    ),
    max_size=5,
)


@pytest.fixture(scope="module")
def plain():
    return BPETokenizer.train(LANGUAGES + "hello user world " * 50, 330)


def with_tokens(tokenizer, tokens, normalizer=None):
    """The library's tokenizer with tokens (content, flags, whether special) added, and ours."""
    library = tokenizer.fast()
    if normalizer:
        library.normalizer = normalizer
    for content, flags, special in tokens:
        token = LibraryToken(content, special=special, **flags)
        (library.add_special_tokens if special else library.add_tokens)([token])
    return library, BPETokenizer.from_json(library.to_str())


@given(TOKENS, TEXTS, st.sampled_from([None, "NFKC", "Lowercase"]))
@example([("ab", {"rstrip": True}, True), (" ", {}, True)], "xab   b", None)
@example([("é", {"normalized": True}, False)], "aÉ", "Lowercase")
@settings(max_examples=50, deadline=None, derandomize=True)
def test_any_added_tokens_give_the_librarys_ids_and_text(plain, tokens, text, form):
    normalizer = getattr(normalizers, form)() if form else None
    library, ours = with_tokens(plain, tokens, normalizer)
    ids = library.encode(text).ids
    assert ours.encode(text) == ids
    assert ours.decode(ids) == library.decode(ids, skip_special_tokens=False)
    assert ours.decode(ids, skip_special_tokens=True) == library.decode(ids)
    written = Tokenizer.from_str(ours.to_json())
    assert written.encode(text).ids == ids and written.decode(ids) == library.decode(ids)
    assert BPETokenizer.from_json(ours.to_json()).encode(text) == ids


@pytest.mark.parametrize(
    "specials, others, text",
    [
        (["\nUser:"], ["\n\n"], "Hi\n\nUser: hello"),
        (["<|im_end|>"], ["x<"], "x<|im_end|>"),
        (["<|x|>"], ["<|x|>y"], "<|x|>y"),
    ],
)
def test_special_tokens_are_cut_out_before_the_others(plain, specials, others, text):
    library = plain.fast()
    library.add_tokens(others)
    library.add_special_tokens(specials)
    ids = BPETokenizer.from_json(library.to_str()).encode(text)
    assert ids == library.encode(text).ids and library.token_to_id(specials[0]) in ids


def test_a_token_that_the_vocabulary_has_keeps_its_id_and_its_merges(plain):
    library = plain.fast()
    word = next(k for k in library.get_vocab() if k.isascii() and k.isalpha() and len(k) > 2)
    library.add_tokens([word])
    ours = BPETokenizer.from_json(library.to_str())
    for text in (f"say {word}!", f"x{word}y", f" {word[:-1]} {word}{word}"):
        assert ours.encode(text) == library.encode(text).ids
    assert ours.vocab[word.encode()] == plain.vocab[word.encode()] == library.token_to_id(word)
    assert ours.vocab_size == plain.vocab_size


def test_what_is_not_special_stays_in_the_text_also_after_writing(plain):
    library = plain.fast()
    library.add_tokens(["<think>", "    "])
    ids = library.encode("<think>hello    world").ids
    ours = BPETokenizer.from_json(library.to_str())
    assert ours.fast().decode(ids) == library.decode(ids) == ours.decode(ids, True)
    assert list(ours.special_tokens) == ["<|endoftext|>"]


def test_a_file_holds_its_texts_as_they_are_read(plain):
    library = plain.fast()
    library.add_tokens(["猫"])
    assert '"猫"' in BPETokenizer.from_json(library.to_str()).to_json()


def test_only_special_tokens_need_to_be_allowed():
    tokens = [AddedToken("<s>", 0), AddedToken("<e>", 1), AddedToken("<think>", 2, special=False)]
    added = AddedTokens(tokens)
    assert added.cut("a<s><think><e>") == ["a", 0, 2, 1]
    assert added.cut("a<s><think><e>", allowed=()) == ["a<s>", 2, "<e>"]
    assert added.cut("a<s><think><e>", allowed={"<e>"}) == ["a<s>", 2, 1]
    assert added.cut("") == []
    for i in range(40):  # what was asked for before is not mixed up with what is asked for now
        assert added.cut("<s>", allowed={"<s>", str(i)}) == [0]


@pytest.mark.parametrize(
    "content, i, words",
    [
        ("", 1, "must have a content"),
        ("a", -1, "has id -1"),
        ("a", True, "has id True"),
        (3, 1, "content"),
    ],
)
def test_a_bad_added_token_is_refused(content, i, words):
    with pytest.raises(ValueError, match=words):
        AddedToken(content, i)
