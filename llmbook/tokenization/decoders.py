"""From tokens back to text: what a `tokenizer.json` names as its decoder.

Each is a function from a list of token texts to a list of texts, which are joined at the end.
"""

import re

from llmbook.tokenization.byte_names import token_bytes
from llmbook.tokenization.pretokenize import read_pattern

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>\Z")
_CLEAN = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
]


def decoder(part, where="decoder"):
    """A file's decoder: list of str -> list of str. Without one, a space stands between tokens.

    Raises ValueError naming the part that is not understood.
    """
    if part is None:
        return lambda tokens: [" ".join(tokens)]
    if not isinstance(part, dict):
        raise ValueError(f"damaged: {where} must be an object or null, got {part!r}")
    kind = part.get("type")
    if kind not in _KINDS:
        raise ValueError(f"{where}.type is {kind!r}, which is not read here: {', '.join(_KINDS)}")
    return _KINDS[kind](part, where)


def _sequence(part, where):
    parts = part.get("decoders")
    if not isinstance(parts, list):
        raise ValueError(f"damaged: {where}.decoders must be a list, got {parts!r}")
    every = [decoder(one, f"{where}.decoders[{i}]") for i, one in enumerate(parts)]

    def run(tokens):
        for one in every:
            tokens = one(tokens)
        return tokens

    return run


def _byte_level(part, where):
    return lambda tokens: [b"".join(map(token_bytes, tokens)).decode("utf-8", "replace")]


def clean_up(text):
    """Without the spaces that cutting at signs has left: "do n't ." is "don't."."""
    for seen, wanted in _CLEAN:
        text = text.replace(seen, wanted)
    return text


def _word_piece(part, where):
    prefix, clean = part.get("prefix", "##"), part.get("cleanup", True)

    def run(tokens):
        words = [
            token
            if not place
            else token.removeprefix(prefix)
            if token.startswith(prefix)
            else f" {token}"
            for place, token in enumerate(tokens)
        ]
        return list(map(clean_up, words)) if clean else words

    return run


def _metaspace(part, where):
    mark, scheme = part.get("replacement", "▁"), part.get("prepend_scheme")
    never = scheme == "never" or (scheme is None and not part.get("add_prefix_space", True))

    def run(tokens):
        return [
            token.replace(mark, "" if not place and not never else " ")
            for place, token in enumerate(tokens)
        ]

    return run


def _byte_fallback(part, where):
    def run(tokens):
        out, waiting = [], []
        for token in [*tokens, None]:
            if token is not None and _BYTE.match(token):
                waiting.append(int(token[3:5], 16))
                continue
            if waiting:
                try:
                    out.append(bytes(waiting).decode())
                except UnicodeDecodeError:
                    out += ["\ufffd"] * len(waiting)
                waiting = []
            if token is not None:
                out.append(token)
        return out

    return run


def _strip(part, where):
    content, start, stop = part.get("content", " "), part.get("start", 0), part.get("stop", 0)

    def run(tokens):
        out = []
        for token in tokens:
            left = 0
            while left < min(start, len(token)) and token[left] == content:
                left += 1
            right = len(token)
            while right > max(left, len(token) - stop) and token[right - 1] == content:
                right -= 1
            out.append(token[left:right])
        return out

    return run


def _replace(part, where):
    choose, content = read_pattern(part.get("pattern"), f"{where}.pattern"), part.get("content")
    if not isinstance(content, str):
        raise ValueError(f"damaged: {where}.content must be a string, got {content!r}")
    return lambda tokens: [choose(token).sub(lambda match: content, token) for token in tokens]


_KINDS = {
    "Sequence": _sequence,
    "ByteLevel": _byte_level,
    "WordPiece": _word_piece,
    "Metaspace": _metaspace,
    "ByteFallback": _byte_fallback,
    "Fuse": lambda part, where: lambda tokens: ["".join(tokens)],
    "Strip": _strip,
    "Replace": _replace,
}
