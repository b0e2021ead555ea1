"""Normalizers: what a `tokenizer.json` does to text before it is cut.

Each is a function text -> text. The library's normal forms know Unicode 9.0, so characters that
are younger keep apart what stands on their two sides and stay as they are.

Source: the Unicode Standard, annex 15 (normal forms); BERT's are those of its published code.
"""

import re
import unicodedata

from llmbook.tokenization.character_classes import bracketed, matcher, ranges, union
from llmbook.tokenization.charsmap import CharacterMap
from llmbook.tokenization.pretokenize import read_pattern

FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def normalizer(part, where="normalizer"):
    """A file's normalizer as a function text -> text; None for one that changes nothing.

    Raises ValueError naming the part that is not understood.
    """
    if part is None:
        return None
    if not isinstance(part, dict):
        raise ValueError(f"damaged: {where} must be an object or null, got {part!r}")
    kind = part.get("type")
    if kind in FORMS:
        return lambda text: normal_form(kind, text)
    if kind not in _KINDS:
        known = ", ".join([*FORMS, *_KINDS])
        raise ValueError(f"{where}.type is {kind!r}, which is not read here: {known}")
    return _KINDS[kind](part, where)


def normal_form(form, text):
    """A text in one of Unicode's normal forms, as Unicode 9.0 has them."""
    if text.isascii() or unicodedata.is_normalized(form, text):
        return text
    parts = re.split(f"({matcher('newer', '+').pattern})", text)
    parts[::2] = [unicodedata.normalize(form, part) for part in parts[::2]]
    return "".join(parts)


def lower(text):
    """Small letters one by one: a capital sigma at the end of a word is no other than within."""
    return text.replace("Σ", "σ").lower()


def _sequence(part, where):
    parts = part.get("normalizers")
    if not isinstance(parts, list):
        raise ValueError(f"damaged: {where}.normalizers must be a list, got {parts!r}")
    every = [normalizer(one, f"{where}.normalizers[{i}]") for i, one in enumerate(parts)]
    every = [one for one in every if one]
    if not every:
        return None

    def run(text):
        for one in every:
            text = one(text)
        return text

    return run


def _replace(part, where):
    choose, content = read_pattern(part.get("pattern"), f"{where}.pattern"), part.get("content")
    if not isinstance(content, str):
        raise ValueError(f"damaged: {where}.content must be a string, got {content!r}")
    return lambda text: choose(text).sub(lambda match: content, text)


def _prepend(part, where):
    mark = part.get("prepend")
    if not isinstance(mark, str):
        raise ValueError(f"damaged: {where}.prepend must be a string, got {mark!r}")
    return lambda text: mark + text if text else text


def _strip(part, where):
    blank = matcher("space", "*").pattern
    left, right = part.get("strip_left", True), part.get("strip_right", True)
    ends = re.compile("|".join([rf"\A{blank}"] * bool(left) + [rf"{blank}\Z"] * bool(right)))
    return lambda text: ends.sub("", text) if left or right else text


def _without(name):
    return lambda part, where: lambda text: matcher(name).sub("", text)


def _nmt(part, where):
    gone = re.compile("[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]")
    blank = re.compile("[\t\n\x0c\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]")
    return lambda text: blank.sub(" ", gone.sub("", text))


def _bert(part, where):
    lowercase = part.get("lowercase", True)
    strip = part.get("strip_accents")
    strip = lowercase if strip is None else strip
    gone = re.compile(bracketed(union(ranges("removed"), ranges("Co"))))
    chinese = (
        "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f"
        "\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f"
    )
    chinese = re.compile(f"[{chinese}]")

    def run(text):
        if part.get("clean_text", True):
            text = matcher("space").sub(" ", gone.sub("", text))
        if part.get("handle_chinese_chars", True):
            text = chinese.sub(r" \g<0> ", text)
        if strip:
            text = matcher("marks").sub("", normal_form("NFD", text))
        return lower(text) if lowercase else text

    return run


def _precompiled(part, where):
    try:
        return CharacterMap.from_base64(part.get("precompiled_charsmap"))
    except ValueError as error:
        raise ValueError(f"{where}.precompiled_charsmap: {error}") from None


_KINDS = {
    "Sequence": _sequence,
    "Replace": _replace,
    "Prepend": _prepend,
    "Strip": _strip,
    "Lowercase": lambda part, where: lower,
    "StripAccents": _without("accents"),
    "Nmt": _nmt,
    "BertNormalizer": _bert,
    "Precompiled": _precompiled,
}
