"""`tokenizer.json`, the file format of the `tokenizers` library, read with care.

`read` gives its parts, whatever the model; older notations are understood. What would change ids
and is not understood is refused, by a message that names the part. `byte_level` gives the parts of
a `BPETokenizer`.
"""

import json

from llmbook.tokenization.added import AddedToken
from llmbook.tokenization.byte_names import BYTE_ORDER, STAND_IN, named_bytes, printable
from llmbook.tokenization.pipeline import Form
from llmbook.tokenization.pretokenize import LIBRARY_PATTERNS
from llmbook.tokenization.starts import Unknown

__all__ = ["BYTE_ORDER", "STAND_IN", "byte_level_form", "bpe_parts", "printable", "read"]

_FORM = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding")


def byte_level_form(pattern):
    """The form of byte-level BPE that cuts with a pattern of that name."""
    cut = _byte_level_step(pattern == "gpt2")
    if pattern != "gpt2":
        split = {
            "type": "Split",
            "pattern": {"Regex": LIBRARY_PATTERNS[pattern]},
            "behavior": "Isolated",
            "invert": False,
        }
        cut = {"type": "Sequence", "pretokenizers": [split, cut]}
    return Form(pre_tokenizer=cut, decoder=_byte_level_step(True))


def _byte_level_step(use_regex):
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def pattern_name(form):
    """The name of the pattern that a form cuts with, and nothing else; None for another form."""
    for name in LIBRARY_PATTERNS:
        if _essence(form.pre_tokenizer) == _essence(byte_level_form(name).pre_tokenizer):
            return name
    return None


def _essence(part):
    """A pre-tokenizer without what does not change ids."""
    if not isinstance(part, dict):
        return part
    inner = part.get("pretokenizers")
    if part.get("type") == "Sequence" and isinstance(inner, list):
        inner = [_essence(one) for one in inner]
        return inner[0] if len(inner) == 1 else {"type": "Sequence", "pretokenizers": inner}
    byte_level = part.get("type") == "ByteLevel"
    defaults = {"use_regex": True, "add_prefix_space": True} if byte_level else {}
    return defaults | {key: value for key, value in part.items() if key != "trim_offsets"}


# --- reading


def read(text):
    """(model, added tokens, form) of the text of a `tokenizer.json`.

    model: its object with "type" filled in; added tokens: a tuple of `AddedToken`; form: a `Form`.
    Raises ValueError naming what is damaged.
    """
    try:
        whole = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not whole JSON, so no tokenizer.json ({error})") from None
    if not isinstance(whole, dict) or not isinstance(whole.get("model"), dict):
        raise ValueError("not a tokenizer.json: it has no 'model'")
    model = dict(whole["model"])
    model.setdefault("type", _kind(model))
    form = Form(**{name: whole.get(name) for name in _FORM})
    return model, _added(whole.get("added_tokens"), _vocabulary(model)), form


def _kind(model):
    """The type of a model that does not say it: files before 2020."""
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def _vocabulary(model):
    """A model's dict from text to id, checked; Unigram's list of pairs as such a dict."""
    vocab = model.get("vocab")
    if isinstance(vocab, list):
        for pair in vocab:
            good = isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)
            number = good and isinstance(pair[1], (int, float)) and not isinstance(pair[1], bool)
            if not number:
                raise ValueError(f"damaged: model.vocab must hold [text, score], got {pair!r}")
        return {piece: i for i, (piece, _) in enumerate(vocab)}
    if not isinstance(vocab, dict):
        raise ValueError(f"damaged: model.vocab must be an object, got {str(vocab)[:40]!r}")
    for token, i in vocab.items():
        if isinstance(i, bool) or not isinstance(i, int) or i < 0:
            raise ValueError(f"damaged: the id of {token!r} must be a whole number, got {i!r}")
    if len(set(vocab.values())) < len(vocab):
        ids = sorted(vocab.values())
        twice = next(a for a, b in zip(ids, ids[1:]) if a == b)
        raise ValueError(f"damaged: ids must be used once each: {twice} is in model.vocab twice")
    return vocab


def _added(added, vocab):
    """A file's added tokens. One that the vocabulary has keeps its id; others follow the last."""
    if added is None:
        return ()
    if not isinstance(added, list):
        raise ValueError(f"damaged: added_tokens must be a list, got {added!r}")
    tokens, given = {}, {}
    for entry in added:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise ValueError(f"damaged: an added token must have a content, got {entry!r}")
        content, i = entry["content"], entry.get("id")
        if not content or content in tokens:
            continue  # the library passes over these, too
        flags = {
            name: _flag(entry, name, name == "normalized" and not entry.get("special", False))
            for name in ("special", "lstrip", "rstrip", "single_word", "normalized")
        }
        token = AddedToken(content, i, **flags)
        if vocab.get(content, i) != i:
            raise ValueError(
                f"damaged: added token {content!r} has id {i!r} and stands in "
                f"model.vocab with {vocab[content]!r}"
            )
        following = max([len(vocab), *(1 + got for got in given.values())])
        if content not in vocab and i != following:
            raise ValueError(
                f"damaged: added token {content!r} has id {i}, where {following} follows: ids "
                "must be used once each and without a gap"
            )
        tokens[content], given[content] = token, i
    return tuple(tokens.values())


def _flag(entry, name, default=False):
    value = entry.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"damaged: added token {entry['content']!r} has {name} {value!r}")
    return value


# --- BPE


def bpe_parts(model):
    """(vocab, merges, unknown, ignore_merges) of a BPE model; tokens as the file names them.

    Raises ValueError for what is damaged and for settings that are not understood.
    """
    for name, none in (("dropout", (None, 0)), *((n, (None, "")) for n in _AFFIXES)):
        if model.get(name) not in none:
            raise ValueError(f"model.{name} is {model[name]!r}, which is not read here")
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise ValueError("damaged: model.merges must be a list")
    unknown = Unknown(
        _text(model, "unk_token"), _switch(model, "fuse_unk"), _switch(model, "byte_fallback")
    )
    return model["vocab"], list(map(_pair, merges)), unknown, _switch(model, "ignore_merges")


_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")


def _text(model, name):
    value = model.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"damaged: model.{name} must be a string or null, got {value!r}")
    return value


def _switch(model, name):
    value = model.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"damaged: model.{name} must be true or false, got {value!r}")
    return value


def _pair(merge):
    """A merge as the format writes it: ["a", "b"], in older files "a b"."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    two = isinstance(parts, list) and len(parts) == 2
    if not two or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"damaged: a merge must be two tokens, got {merge!r}")
    return tuple(parts)


# --- byte-level BPE


def is_byte_level(model, form):
    """Whether a file is byte-level BPE: its pieces become bytes last, its tokens are bytes."""
    return model["type"] == "BPE" and not _not_byte_level(model, form)


def _not_byte_level(model, form):
    """Why a file is no byte-level BPE; an empty string where it is."""
    if model["type"] != "BPE":
        return f"model.type is {model['type']!r}, not 'BPE'"
    cut = _flat(form.pre_tokenizer, "pretokenizers")
    kinds = [one.get("type") if isinstance(one, dict) else None for one in cut]
    if not kinds or kinds[-1] != "ByteLevel" or "ByteLevel" in kinds[:-1]:
        got = json.dumps(form.pre_tokenizer)[:200]
        return f"pre_tokenizer is {got}, which does not end in ByteLevel"
    kinds = [
        one.get("type") if isinstance(one, dict) else None
        for one in _flat(form.decoder, "decoders")
    ]
    if kinds != ["ByteLevel"]:
        return f"decoder.type is {kinds[0] if len(kinds) == 1 else kinds!r}, not 'ByteLevel'"
    return ""


def _flat(part, inner):
    """The steps of a part, Sequences within it opened."""
    if isinstance(part, dict) and part.get("type") == "Sequence":
        inside = part.get(inner)
        return [one for p in inside for one in _flat(p, inner)] if isinstance(inside, list) else []
    return [] if part is None else [part]


def byte_level(text):
    """The arguments of a `BPETokenizer` from the text of a `tokenizer.json`.

    Raises ValueError naming what is damaged, or which part is not byte-level BPE.
    """
    model, added, form = read(text)
    why = _not_byte_level(model, form)
    if why:
        raise ValueError(f"not byte-level BPE: {why}")
    names, merges, unknown, ignore_merges = bpe_parts(model)
    pairs = [(_raw(a), _raw(b)) for a, b in merges]
    contents = {token.content for token in added}
    if not ignore_merges:  # the texts that are only ever cut out are no tokens of the model
        used = {printable(t) for a, b in pairs for t in (a, b, a + b) if len(t) > 1}
        contents -= used
    vocab, others = {}, {}
    for name, i in names.items():
        token = named_bytes(name)
        only_cut = name in contents and len(name) > 1 and not ignore_merges
        if token is None or only_cut or not token:
            others[name] = i
        else:
            vocab[token] = i
    return {
        "vocab": vocab,
        "merges": pairs,
        "pattern": pattern_name(form),
        "added_tokens": added,
        "form": form,
        "other_names": others,
        "unknown": unknown,
        "ignore_merges": ignore_merges,
    }


def _raw(name):
    token = named_bytes(name)
    if token is None:
        raise ValueError(f"token {name!r} stands for no byte: this is not a byte-level vocabulary")
    return token
