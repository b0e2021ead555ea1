"""tokenizer.json: read and written as the library does; what is foreign or damaged is refused."""

import json

import pytest
from helpers.tokenization_subject import END, LANGUAGES, corpus, library, pair  # noqa: F401 - corpus and pair are fixtures
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from llmbook.tokenization import BPETokenizer
from llmbook.tokenization.tokenizer_json import BYTE_ORDER, STAND_IN


def test_a_file_of_the_library_loads_to_its_ids_and_saves_to_the_same(tmp_path, corpus):
    theirs = library([corpus[:200_000]], 2048, "gpt2")
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = BPETokenizer.load(tmp_path)
    text = corpus[-100_000:] + LANGUAGES + END
    assert ours.encode(text) == theirs.encode(text).ids
    assert ours.special_tokens == {END: 0} and ours.vocab_size == 2048
    again = BPETokenizer.load(ours.save(tmp_path / "new" / "mine.json"))
    assert again.encode(text) == ours.encode(text)
    theirs = Tokenizer.from_file(str(tmp_path / "new" / "mine.json"))
    assert theirs.encode(text).ids == ours.encode(text)


def test_merges_in_the_older_notation_are_read(pair):
    ours, _ = pair
    whole = json.loads(ours.to_json())
    whole["model"]["merges"] = [" ".join(two) for two in whole["model"]["merges"]]
    assert BPETokenizer.from_json(json.dumps(whole)).merges == ours.merges


def test_stand_ins_and_their_order_are_the_librarys():
    assert set(STAND_IN.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert [STAND_IN[b] for b in BYTE_ORDER] == sorted(STAND_IN.values())
    assert STAND_IN[ord(" ")] == "Ġ" and STAND_IN[ord("\n")] == "Ċ"


FOREIGN = {
    "model.type is 'WordPiece'": ("model", "type", "WordPiece"),
    "normalizer.type is 'Odd'": (None, "normalizer", {"type": "Odd"}),
    "normalizer must be an object": (None, "normalizer", "NFC"),
    "decoder.type is 'WordPiece'": (None, "decoder", {"type": "WordPiece"}),
    "post_processor.type is 'Odd'": (None, "post_processor", {"type": "Odd"}),
    "post_processor must have a list": (None, "post_processor", {"type": "TemplateProcessing"}),
    "truncation.max_length": (None, "truncation", {"max_length": "3"}),
    "padding.strategy": (None, "padding", {"strategy": "Odd"}),
    "does not end in ByteLevel": (None, "pre_tokenizer", {"type": "Whitespace"}),
    "pre_tokenizer is null": (None, "pre_tokenizer", None),
    "model.dropout": ("model", "dropout", 0.1),
    "model.end_of_word_suffix": ("model", "end_of_word_suffix", "</w>"),
    "model.continuing_subword_prefix": ("model", "continuing_subword_prefix", "##"),
    "model.ignore_merges must be": ("model", "ignore_merges", 1),
    "model.unk_token must be": ("model", "unk_token", 1),
}


@pytest.mark.parametrize("named", FOREIGN)
def test_a_file_with_a_setting_that_is_not_understood_is_refused_by_name(named):
    part, key, value = FOREIGN[named]
    whole = json.loads(BPETokenizer.train("abc", 258).to_json())
    (whole[part] if part else whole)[key] = value
    with pytest.raises(ValueError, match=named):
        BPETokenizer.from_json(json.dumps(whole))


DAMAGE = {
    "not whole JSON": lambda whole: json.dumps(whole)[:-20],
    "no 'model'": lambda whole: "[]",
    "ids must be used once each: 7": lambda whole: whole["model"]["vocab"].update({"a": 7}),
    "stands for no byte": lambda whole: whole["model"]["merges"].append(["猫", "a"]),
    "a merge must be two tokens": lambda whole: whole["model"]["merges"].append(["a", "b", "c"]),
    "which is not in vocab": lambda whole: whole["model"]["merges"].append(["a", "z"]),
    "must be a whole number": lambda whole: whole["model"]["vocab"].update({"a": "7"}),
    "must have a content": lambda whole: whole["added_tokens"].append({}),
    "stands in model.vocab with": lambda whole: whole["added_tokens"][0].update({"id": 5}),
    "added_tokens must be a list": lambda whole: whole.update(added_tokens={}),
    "decoder must be an object": lambda whole: whole.update(decoder="ByteLevel"),
    "has lstrip 1": lambda whole: whole["added_tokens"][0].update({"lstrip": 1}),
    "where 259 follows": lambda whole: whole["added_tokens"].append({"id": 300, "content": "<x>"}),
    "model.vocab must be an object": lambda whole: whole["model"].update(vocab=7),
    "model.merges must be a list": lambda whole: whole["model"].update(merges={}),
    "pretokenizers must be a list": lambda whole: whole.update(
        normalizer=None,
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [{"type": "Sequence", "pretokenizers": 3}, whole["pre_tokenizer"]],
        },
    ),
}


@pytest.mark.parametrize("words", DAMAGE)
def test_a_damaged_file_is_refused_and_told_why(tmp_path, words):
    whole = json.loads(BPETokenizer.train("abc abc", 259).to_json())
    text = DAMAGE[words](whole)
    path = tmp_path / "tokenizer.json"
    path.write_text(text if isinstance(text, str) else json.dumps(whole))
    with pytest.raises(ValueError, match=words) as caught:
        BPETokenizer.load(path)
    assert str(path) in str(caught.value)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_with_any_value_replaced_loads_or_is_refused_with_a_value_error(data):
    whole = json.loads(BPETokenizer.train("abc abc", 259).to_json())
    at = whole
    while True:  # walk down to a random place
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(at[key], (dict, list)) and at[key] and data.draw(st.booleans()):
            at = at[key]
        else:
            break
    values = [None, -1, 0, 5, 1.5, "", "x", [], [1], {}, {"a": 1}, True]
    at[key] = data.draw(st.sampled_from(values))
    try:
        BPETokenizer.from_json(json.dumps(whole))
    except ValueError:
        return


def test_no_file_and_an_interrupted_save(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        BPETokenizer.load(tmp_path / "none")
    tokenizer = BPETokenizer.train("abc abc", 259)
    path = tokenizer.save(tmp_path)
    before = path.read_text("utf-8")
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        BPETokenizer.train("other words", 262).save(tmp_path)
    assert path.read_text("utf-8") == before
