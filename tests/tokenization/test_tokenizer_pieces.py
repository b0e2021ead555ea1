"""Cutting a text into pieces before BPE: the library's pieces, around every edge of a class."""

import random
import re

import pytest
from helpers.tokenization_subject import AWKWARD
from hypothesis import given, settings
from tokenizers import Regex, pre_tokenizers

from llmbook.tokenization import split
from llmbook.tokenization.character_classes import LAST, LAST_ASCII, bracketed, complement, ranges
from llmbook.tokenization.patterns import compiled
from llmbook.tokenization.pretokenize import LIBRARY_PATTERNS


def agree_on_pieces(code_points, pattern):
    cut = pre_tokenizers.Split(Regex(LIBRARY_PATTERNS[pattern]), "isolated")
    characters = [chr(c) for c in code_points if not 0xD800 <= c < 0xE000 and c < 0x110000]
    for start in range(0, len(characters), 2_000):
        text = "".join(f"a{c} {c}7{c}.{c}{c}" for c in characters[start : start + 2_000])
        assert split(text, pattern) == [piece for piece, _ in cut.pre_tokenize_str(text)]


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_pieces_equal_the_librarys_around_every_edge_of_a_class(pattern):
    edges = [c for name in "LN" for two in ranges(name) for c in two]
    near = {c + d for c in edges for d in (-1, 0, 1)} | set(range(0x3100))
    agree_on_pieces(sorted(near | set(random.Random(1).sample(range(0x110000), 10_000))), pattern)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_pieces_equal_the_librarys_around_every_code_point(pattern):
    agree_on_pieces(range(0x110000), pattern)


def test_gaps_and_classes_of_one_character_belong_to_their_sets():
    assert complement([(0, 4), (6, LAST)]) == [(5, 5)]
    assert re.fullmatch(bracketed([(LAST_ASCII, 0x9F)], LAST_ASCII), "\x7f")
    assert compiled(r"\p{Cc}")("\x7f").findall("a\x7f") == ["\x7f"]


def test_letters_and_numbers_are_those_of_this_pythons_unicode_where_it_knows_them():
    import unicodedata

    letter = compiled(LIBRARY_PATTERNS["gpt2"])("\U00010000")
    for c in map(chr, range(0x110000)):
        kind = unicodedata.category(c)
        if kind != "Cn":
            together = letter.match(f"a{c}").end() == 2
            assert together == (kind[0] == "L"), (hex(ord(c)), kind)


@given(AWKWARD)
@settings(max_examples=100, deadline=None)
def test_pieces_joined_are_the_text_and_ascii_takes_the_same_way(text):
    for pattern in LIBRARY_PATTERNS:
        assert "".join(split(text, pattern)) == text
        for sign in "猫𐀀":  # no longer ASCII; no longer in the basic plane
            marked = split(f"{sign}\n{text}", pattern)
            if not text[:1].isspace():
                assert marked == [*split(f"{sign}\n", pattern), *split(text, pattern)]


def test_what_the_patterns_do_with_words_spaces_and_digits():
    assert split("I'll pay  $12345.\n") == ["I", "'ll", " pay", " ", " $", "12345", ".", "\n"]
    assert split("I'LL pay  $12345.\n", "gpt4") == [
        "I",
        "'LL",
        " pay",
        " ",
        " $",
        "123",
        "45",
        ".\n",
    ]
