"""Whether two models read the same tokens."""

import json
from types import SimpleNamespace

import pytest

from llmbook.models.pretrained.vocabulary import check_vocabulary


def model(size=4, file=None):
    return SimpleNamespace(config=SimpleNamespace(vocab_size=size), tokenizer_file=file)


def written(path, vocab, added=()):
    added = [{"id": i, "content": content} for i, content in added]
    path.write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": added}))
    return model(file=path)


def test_another_number_of_tokens_is_refused():
    check_vocabulary(model(), model(), "draft", "model")
    with pytest.raises(ValueError, match="draft must have the model's tok.* 5, the model's is 4"):
        check_vocabulary(model(), model(5), "draft", "model")


@pytest.mark.parametrize(
    "vocab, added, words",
    [
        ({"a": 0, "x": 1}, [(2, "<s>")], "id 1 is 'x' in .*, 'b' in"),
        ({"a": 0, "b": 1}, [(2, "<e>")], "id 2 is '<e>' in .*, '<s>' in"),
        ({"a": 0, "b": 1}, [], "id 2 is None in .*, '<s>' in"),
        ({"a": 0, "b": 1, "c": 3}, [(2, "<s>")], "id 3 is 'c' in .*, None in"),
    ],
)
def test_another_token_is_refused_with_both_files(tmp_path, vocab, added, words):
    first = written(tmp_path / "a.json", {"a": 0, "b": 1}, [(2, "<s>")])
    with pytest.raises(ValueError, match=f"policy must have the reference's tokenizer: {words}"):
        check_vocabulary(first, written(tmp_path / "b.json", vocab, added), "policy", "reference")


def test_the_same_tokens_in_another_form_are_accepted(tmp_path):
    first = written(tmp_path / "a.json", {"a": 0, "b": 1}, [(2, "<s>")])
    unigram = written(tmp_path / "b.json", [["a", -1.0], ["b", -2.0], ["<s>", 0.0]])
    check_vocabulary(first, unigram, "draft", "model")
    check_vocabulary(first, model(file=tmp_path / "gone.json"), "draft", "model")
