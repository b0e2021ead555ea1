"""`tokenizer.json`, the file format of the `tokenizers` library: written, and read with care.

The library keeps tokens as text and gives every byte a printable stand-in: bytes that print stand
for themselves, the others for the characters from U+0100 on, so that a space is "Ġ" and a newline
"Ċ". What is read must be byte-level BPE as `BPETokenizer` does it; a setting that would change ids
and is not ours is refused by name.
"""

import json

from llmbook.tokenization.pretokenize import LIBRARY_PATTERNS

_PRINTS = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTS]
STAND_IN = {byte: chr(byte) for byte in _PRINTS} | {
    byte: chr(0x100 + place) for place, byte in enumerate(_HIDDEN)
}
"""Byte -> the character that stands for it."""
BYTE_ORDER = _PRINTS + _HIDDEN
"""The 256 bytes in the order of their stand-ins, which is that of their ids."""
_BYTE_OF = {character: byte for byte, character in STAND_IN.items()}


def printable(token):
    """A token's bytes as the format writes them: `b" the"` is "Ġthe"."""
    return "".join(STAND_IN[byte] for byte in token)


def _raw(text):
    try:
        return bytes(_BYTE_OF[character] for character in text)
    except KeyError as error:
        raise ValueError(
            f"token {text!r} has {error.args[0]!r}, which stands for no byte: this is not a "
            "byte-level vocabulary"
        ) from None


def _byte_level(use_regex):
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _pre_tokenizer(pattern):
    if pattern == "gpt2":
        return _byte_level(True)
    cut = {
        "type": "Split",
        "pattern": {"Regex": LIBRARY_PATTERNS[pattern]},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [cut, _byte_level(False)]}


def write(tokenizer):
    """The text of a `tokenizer.json` for a `BPETokenizer`."""
    ids = sorted(tokenizer.vocab.items(), key=lambda item: item[1])
    vocab = {printable(token): i for token, i in ids}
    specials = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    added = [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for text, i in specials
    ]
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(tokenizer.pattern),
        "post_processor": None,
        "decoder": _byte_level(True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(sorted((vocab | dict(specials)).items(), key=lambda item: item[1])),
            "merges": [[printable(a), printable(b)] for a, b in tokenizer.merges],
        },
    }
    return json.dumps(whole, ensure_ascii=False, indent=1)


def read(text):
    """The parts of a `BPETokenizer` from the text of a `tokenizer.json`.

    Raises ValueError naming what is damaged, or which setting is not byte-level BPE as here.
    """
    try:
        whole = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not whole JSON, so no tokenizer.json ({error})") from None
    if not isinstance(whole, dict) or not isinstance(whole.get("model"), dict):
        raise ValueError("not a tokenizer.json: it has no 'model'")
    _refuse_foreign(whole)
    model = whole["model"]
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise ValueError("damaged: model.vocab must be an object and model.merges a list")
    specials = _specials(whole.get("added_tokens"), vocab)
    for token, i in vocab.items():
        if isinstance(i, bool) or not isinstance(i, int):
            raise ValueError(f"damaged: the id of {token!r} must be a whole number, got {i!r}")
    return {
        "vocab": {_raw(token): i for token, i in vocab.items() if token not in specials},
        "merges": [_pair(merge) for merge in merges],
        "special_tokens": specials,
        "pattern": _pattern(whole.get("pre_tokenizer")),
    }


def _refuse_foreign(whole):
    """Raise for a setting that would change ids: [where, what is there, what is understood]."""
    model = whole["model"]
    decoder, post = (_part(whole, name) for name in ("decoder", "post_processor"))
    rules = [
        ("model.type", model.get("type"), ("BPE",)),
        ("normalizer", whole.get("normalizer"), (None,)),
        ("decoder.type", decoder.get("type"), ("ByteLevel",)),
        ("post_processor.type", post.get("type"), (None, "ByteLevel")),
        ("truncation", whole.get("truncation"), (None,)),
        ("padding", whole.get("padding"), (None,)),
        ("model.dropout", model.get("dropout"), (None, 0, 0.0)),
        ("model.unk_token", model.get("unk_token"), (None,)),
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), (None, "")),
        ("model.end_of_word_suffix", model.get("end_of_word_suffix"), (None, "")),
        ("model.byte_fallback", model.get("byte_fallback", False), (False,)),
        ("model.ignore_merges", model.get("ignore_merges", False), (False,)),
    ]
    for where, got, understood in rules:
        if got not in understood:
            wanted = " or ".join(map(repr, understood))
            raise ValueError(f"not byte-level BPE as read here: {where} is {got!r}, not {wanted}")


def _part(whole, name):
    part = whole.get(name) or {}
    if not isinstance(part, dict):
        raise ValueError(f"damaged: {name} must be an object or null, got {part!r}")
    return part


def _specials(added, vocab):
    if not isinstance(added, list):
        raise ValueError("damaged: added_tokens must be a list")
    specials = {}
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ValueError(f"damaged: an added token must have a content, got {token!r}")
        content = token["content"]
        for flag in ("single_word", "lstrip", "rstrip"):
            if token.get(flag):
                raise ValueError(f"special token {content!r} has {flag}, which is not read here")
        if vocab.get(content, token.get("id")) != token.get("id"):
            raise ValueError(
                f"damaged: special token {content!r} has id {token.get('id')!r} and stands in "
                f"model.vocab with {vocab[content]!r}"
            )
        if not isinstance(token.get("id"), int):
            raise ValueError(f"damaged: special token {content!r} has id {token.get('id')!r}")
        specials[content] = token["id"]
    return specials


def _pair(merge):
    """A merge as the format writes it: ["a", "b"], in older files "a b"."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    two = isinstance(parts, list) and len(parts) == 2
    if not two or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"damaged: a merge must be two tokens, got {merge!r}")
    return tuple(map(_raw, parts))


def _pattern(pre_tokenizer):
    """The name of the pattern that a file's pre-tokenizer cuts with."""
    for name in LIBRARY_PATTERNS:
        ours = _pre_tokenizer(name)
        if _essence(pre_tokenizer) == _essence(ours):
            return name
    raise ValueError(
        "the pre_tokenizer is not one of those understood, "
        f"{' and '.join(LIBRARY_PATTERNS)}: got {json.dumps(pre_tokenizer)[:200]}"
    )


def _essence(part):
    """A pre-tokenizer without what does not change ids."""
    if isinstance(part, dict):
        return {k: _essence(v) for k, v in part.items() if k != "trim_offsets"}
    return [_essence(p) for p in part] if isinstance(part, list) else part


def train_with_library(texts, vocab_size, special_tokens, pattern):
    """The text of a `tokenizer.json` whose merges the `tokenizers` library has learned."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    if pattern == "gpt2":
        cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        cut = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LIBRARY_PATTERNS[pattern]), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()
