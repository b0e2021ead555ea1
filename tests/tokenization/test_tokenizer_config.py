"""tokenizer_config.json: kept, and written so that transformers reads the tokenizer as it is."""

import json

import pytest
from helpers.tokenization_subject import LANGUAGES

from llmbook.tokenization import BPETokenizer, load
from llmbook.tokenization.tokenizer_config import config_text


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_transformers_reads_a_saved_folder_to_our_ids(tmp_path, pattern):
    from transformers import AutoTokenizer

    ours = BPETokenizer.train(LANGUAGES * 3, 400, pattern=pattern)
    ours.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = LANGUAGES + "<|endoftext|>"
    assert theirs(text)["input_ids"] == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == text
    assert theirs.eos_token == "<|endoftext|>"


def test_what_a_folder_says_is_kept_but_for_the_class(tmp_path):
    ours = BPETokenizer.train("abc", 258, ("<|endoftext|>", "<s>"))
    ours.save(tmp_path / "a")
    said = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "<s>",
        "chat_template": "{{ x }}",
    }
    (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps(said))
    older = {"pad_token": "<s>", "bos_token": "<|endoftext|>"}
    (tmp_path / "a" / "special_tokens_map.json").write_text(json.dumps(older))
    for read in (load, BPETokenizer.load):
        tokenizer = read(tmp_path / "a")
        assert tokenizer.config == said | {"pad_token": "<s>"}
        tokenizer.save(tmp_path / "b")
        again = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
        assert again == said | {"pad_token": "<s>", "tokenizer_class": "TokenizersBackend"}


def test_texts_are_written_as_they_are_read():
    assert '"猫"' in config_text({"bos_token": "猫"}, {})


def test_a_file_alone_is_written_alone_and_no_token_is_made_up(tmp_path):
    ours = BPETokenizer.train("abc", 257, ("<s>",))
    ours.save(tmp_path / "mine.json")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.json"]
    (tmp_path / "tokenizer_config.json").write_text("[]")
    assert load(tmp_path / "mine.json").config == {}
    ours.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "TokenizersBackend"
    }


@pytest.mark.parametrize(
    "text, words", [("{", "not whole JSON"), ("[]", "must hold a JSON object, got list")]
)
def test_a_damaged_config_is_refused_by_name(tmp_path, text, words):
    BPETokenizer.train("abc", 257).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(
        ValueError, match=f"tokenizer_config.json {words}|tokenizer_config.json is {words}"
    ):
        load(tmp_path)
