"""The recorded splits: whole, of the texts and tokenizers named; what records them works."""

import json

from llmbook.experiments import splits
from llmbook.experiments.record import main
from llmbook.tokenization import BPETokenizer


def test_recorded_splits_joined_are_the_texts_and_name_their_files():
    recorded = splits.published_splits()
    assert list(recorded) == list(splits.PUBLISHED)
    for cut in recorded.values():
        assert list(cut) == splits.TEXTS
        for text, tokens in cut.items():
            whole = b"".join(_bytes(token) for token in tokens)
            assert whole.decode() == text
    content = json.loads(splits.OUT.read_text("utf-8"))
    assert content["_run"]["command"] == "python -m llmbook record splits"
    assert len(content["_run"]["commit"]) == 40
    for part in content["tokenizers"].values():
        assert len(part["sha256"]) == 64 and part["licence"]


def _bytes(token):
    """A token's bytes; those that are no character stand as "\\xe7"."""
    return (
        token.encode().decode("unicode_escape").encode("latin-1")
        if "\\x" in token
        else token.encode()
    )


def test_digits_and_words_are_cut_as_the_three_are_known_to():
    recorded = splits.published_splits()
    assert recorded["Qwen 3"]["1234567890"] == list("1234567890")
    assert recorded["gpt-oss"]["1234567890"] == ["123", "456", "789", "0"]
    assert recorded["DeepSeek V3"]["1234567890"] == ["123", "456", "789", "0"]
    assert recorded["gpt-oss"][" strawberry"] == [" strawberry"]


def test_recording_cuts_with_the_files_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "PUBLISHED", {"mine": ("mine", "none")})
    BPETokenizer.train("the cat " * 9, 262).save(tmp_path / "mine")
    out = tmp_path / "out.json"
    assert main(["splits", "--folder", str(tmp_path), "--out", str(out)]) == 0
    content = json.loads(out.read_text("utf-8"))
    cut = dict(zip(content["texts"], content["tokenizers"]["mine"]["splits"], strict=True))
    assert cut["猫坐在垫子上。"]["tokens"][:3] == ["\\xe7", "\\x8c", "\\xab"]


def test_without_a_folder_nothing_is_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("LLMBOOK_PUBLISHED", raising=False)
    assert main(["splits", "--out", str(tmp_path / "out.json")]) == 2
    assert "folder must be" in capsys.readouterr().err
    assert main(["splits", "--folder", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "folder must hold qwen3/tokenizer.json" in capsys.readouterr().err
