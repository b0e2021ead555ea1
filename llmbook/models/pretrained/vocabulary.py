"""Whether two models read the same tokens: a draft and its model, a reference and its policy."""

from llmbook.models.pretrained.files import read_json


def check_vocabulary(model, other, its_name, own_name):
    """Raise ValueError unless `other` reads the model's tokens as the model does.

    With another tokenizer it would speak of other words under the same ids. Every model knows how
    many tokens it has, in `config.vocab_size`; what they are is compared where both were loaded
    from folders with a tokenizer.json that are still there, or are copies of such models.
    its_name, own_name: what the two are called in the error, "draft" and "model", say.
    """
    models = model, other
    need = f"{its_name} must have the {own_name}'s tokenizer"
    sizes = [getattr(getattr(one, "config", None), "vocab_size", None) for one in models]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{need}: got vocab_size {sizes[1]}, the {own_name}'s is {sizes[0]}")
    files = [getattr(one, "tokenizer_file", None) for one in models]
    if None in files or files[0] == files[1] or not all(file.is_file() for file in files):
        return
    ours, theirs = map(_words, files)
    for token in sorted(ours.keys() | theirs.keys()):
        if ours.get(token) != theirs.get(token):
            raise ValueError(
                f"{need}: id {token} is {theirs.get(token)!r} in {files[1]}, "
                f"{ours.get(token)!r} in {files[0]}"
            )


def _words(path):
    """{id: token} of a tokenizer.json; a Unigram's vocabulary is a list of (token, score)."""
    content = read_json(path)
    vocab = content.get("model", {}).get("vocab", {})
    if isinstance(vocab, list):
        vocab = {token: i for i, (token, _) in enumerate(vocab)}
    added = {token["id"]: token["content"] for token in content.get("added_tokens", ())}
    return {i: token for token, i in vocab.items()} | added
