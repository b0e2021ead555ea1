"""Characters as tokens: round trips, the corpus's alphabet, the file that the library reads."""

import numpy as np
import pytest
import torch

from llmbook.data import documentation
from llmbook.tokenization.characters import PRINTABLE, CharacterTokenizer


def test_characters_round_trip_in_sorted_order():
    tokenizer = CharacterTokenizer("hello, world")
    assert tokenizer.characters == " ,dehlorw" and len(tokenizer) == 9
    assert tokenizer.encode("hold, dw") == [4, 6, 5, 2, 1, 0, 2, 8]
    ids = tokenizer.encode("hold, dw")
    for given in (ids, tuple(ids), torch.tensor(ids), np.array(ids)):
        assert tokenizer.decode(given) == "hold, dw"
    assert tokenizer.decode(4) == "h" == tokenizer.decode(torch.tensor(4))
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""
    assert "h" in tokenizer and "z" not in tokenizer
    assert repr(tokenizer) == "CharacterTokenizer(' ,dehlorw')"


def test_the_default_vocabulary_is_the_corpus_alphabet():
    text = documentation("validation", "quick").text[:5000]
    tokenizer = CharacterTokenizer()
    assert len(tokenizer) == 96 and tokenizer.characters[0] == "\n"
    assert tokenizer.characters == PRINTABLE
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_characters_and_ids_are_named():
    tokenizer = CharacterTokenizer("ab")
    with pytest.raises(ValueError, match="character 'c' at position 1 is not among the 2"):
        tokenizer.encode("ac")
    for bad in (2, -1, 0.5, True):
        error = ValueError if type(bad) is int else TypeError
        with pytest.raises(error, match=f"from 0 to 1: got {bad}"):
            tokenizer.decode([0, bad])
    with pytest.raises(ValueError, match="text must be a text of at least 1 character"):
        CharacterTokenizer("")
    with pytest.raises(TypeError, match="text must be a text of at least 1 character: got None"):
        CharacterTokenizer(None)


def test_the_library_reads_it_to_the_same_ids(tmp_path):
    from tokenizers import Tokenizer

    ours = CharacterTokenizer("cab \n<", end_of_text=True)
    ours.save(tmp_path / "new")
    theirs = Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    text = "a cab\n< b"
    assert theirs.encode(text).ids == ours.encode(text) and len(ours) == 7
    assert theirs.decode(ours.encode(text)) == text
    assert ours.special_tokens == {"<|endoftext|>": 6}
    assert ours.decode([*ours.encode(text), 6]) == text + "<|endoftext|>"
    a, blank, line = ours.encode("a \n")
    assert theirs.encode("a<|endoftext|>a").ids == [a, 6, a]
    assert theirs.encode(" <|endoftext|>\n").ids == [blank, 6, line]
    assert CharacterTokenizer("a").special_tokens == {}
