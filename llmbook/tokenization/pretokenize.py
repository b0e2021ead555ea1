r"""Cutting text into pieces before any merging: no token will reach across the edge of a piece.

Two published patterns have a name here:

`"gpt2"`: `'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
`"gpt4"`: contractions in either case; at most three digits together; a word may carry any one sign
in front of it, not only a space; a newline ends a piece.

A `tokenizer.json` may name other steps, one after the other; `steps` reads them. A step takes a
list of pieces and gives a longer one, and is told whether the first piece begins the text.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2,
and the code published with it; the second pattern was published with the GPT-4 tokenizer.
"""

import re

from llmbook.checks import one_of
from llmbook.tokenization.character_classes import bracketed, complement, matcher, ranges, union
from llmbook.tokenization.patterns import compiled

LIBRARY_PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""The patterns as they are published: what stands in a `tokenizer.json`."""

BEHAVIOURS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")


def split(text, pattern="gpt2"):
    """The pieces of a text, in order; joined they are the text. Raises ValueError for a name.

    pattern: `"gpt2"` or `"gpt4"`.
    """
    return splitter(pattern)(text)


def splitter(pattern="gpt2"):
    """The function text -> pieces for a pattern's name; ASCII text takes a shorter way."""
    one_of("pattern", pattern, LIBRARY_PATTERNS)
    choose = compiled(LIBRARY_PATTERNS[pattern])
    return lambda text: choose(text).findall(text)


# --- the steps that a file may name


def steps(part, where="pre_tokenizer"):
    """A file's pre-tokenizer as a step: (pieces, begins) -> pieces. None changes nothing.

    pieces: a list of strings; begins: whether the first of them begins the text.
    Raises ValueError naming the part that is not understood.
    """
    if part is None:
        return lambda pieces, begins: pieces
    if not isinstance(part, dict):
        raise ValueError(f"damaged: {where} must be an object or null, got {part!r}")
    kind = part.get("type")
    if kind not in _KINDS:
        raise ValueError(f"{where}.type is {kind!r}, which is not read here: {', '.join(_KINDS)}")
    return _KINDS[kind](part, where)


def _sequence(part, where):
    parts = part.get("pretokenizers")
    if not isinstance(parts, list):
        raise ValueError(f"damaged: {where}.pretokenizers must be a list, got {parts!r}")
    every = [steps(one, f"{where}.pretokenizers[{i}]") for i, one in enumerate(parts)]

    def run(pieces, begins):
        for step in every:
            pieces = step(pieces, begins)
        return pieces

    return run


def _split(part, where):
    behaviour, invert = part.get("behavior"), bool(part.get("invert", False))
    if behaviour not in BEHAVIOURS:
        raise ValueError(f"{where}.behavior must be one of {', '.join(BEHAVIOURS)}: {behaviour!r}")
    return cutting(read_pattern(part.get("pattern"), f"{where}.pattern"), behaviour, invert)


def read_pattern(pattern, where):
    """A file's pattern, {"String": …} or {"Regex": …}: text -> compiled pattern."""
    if isinstance(pattern, dict) and len(pattern) == 1:
        kind, text = next(iter(pattern.items()))
        if kind == "String" and isinstance(text, str) and text:
            literal = re.compile(re.escape(text))
            return lambda _: literal
        if kind == "Regex":
            try:
                return compiled(text)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
    raise ValueError(f"damaged: {where} must be a String or a Regex, got {pattern!r}")


def cutting(choose, behaviour="Isolated", invert=False):
    """The step that cuts at the matches of a pattern.

    choose: text -> compiled pattern. behaviour: what becomes of a match (Isolated: a piece of its
    own); invert: what lies between the matches is treated as the matches.
    """
    keeps_rest = behaviour == "Isolated"

    def run(pieces, begins):
        found = []
        for piece in pieces:
            if keeps_rest or (behaviour == "Removed" and invert):
                matches = choose(piece).findall(piece)
                if not keeps_rest or sum(map(len, matches)) == len(piece):
                    found += filter(None, matches) if "" in matches else matches
                    continue
            spans = _spans(choose(piece), piece, invert)
            found += [piece[a:b] for a, b in _merged(spans, behaviour) if a < b]
        return found

    return run


def _spans(pattern, text, invert):
    """All of a text as (start, end, whether it is a match)."""
    spans, at = [], 0
    for match in pattern.finditer(text):
        start, end = match.span()
        if at < start:
            spans.append((at, start, invert))
        spans.append((start, end, not invert))
        at = end
    if at < len(text):
        spans.append((at, len(text), invert))
    return spans


def _merged(spans, behaviour):
    """Spans (start, end) after what is to happen to the matches."""
    if behaviour in ("Isolated", "Removed"):
        return [(a, b) for a, b, hit in spans if behaviour == "Isolated" or not hit]
    joined, before = [], None
    backwards = behaviour == "MergedWithNext"
    for a, b, hit in reversed(spans) if backwards else spans:
        joins = hit == before if behaviour == "Contiguous" else hit and not before
        if joins and joined:
            other = joined[-1]
            joined[-1] = (a, other[1]) if backwards else (other[0], b)
        else:
            joined.append((a, b))
        before = hit
    return joined[::-1] if backwards else joined


def _byte_level(part, where):
    cut = cutting(compiled(LIBRARY_PATTERNS["gpt2"])) if part.get("use_regex", True) else None
    prefix = part.get("add_prefix_space", True)

    def run(pieces, begins):
        if prefix:
            pieces = [piece if piece[:1] == " " else " " + piece for piece in pieces]
        return cut(pieces, begins) if cut else pieces

    return run


def _digits(part, where):
    one = matcher("N", "" if part.get("individual_digits", False) else "+")
    return cutting(lambda text: one)


def _punctuation(part, where):
    sign = matcher("punctuation")
    return cutting(lambda text: sign, part.get("behavior", "Isolated"))


def _white_space_split(part, where):
    blank = matcher("space")
    return cutting(lambda text: blank, "Removed")


def _white_space(part, where):
    word, blank = ranges("word"), ranges("space")
    other = bracketed(complement(union(word, blank)))
    pattern = re.compile(f"{bracketed(word)}+|{other}+")
    return cutting(lambda text: pattern, "Removed", invert=True)


def _bert(part, where):
    blanks, signs = _white_space_split(part, where), _punctuation({}, where)
    return lambda pieces, begins: signs(blanks(pieces, begins), begins)


def _metaspace(part, where):
    mark = part.get("replacement", "▁")
    scheme = part.get("prepend_scheme")
    if scheme is None:  # files before 2024
        scheme = "always" if part.get("add_prefix_space", True) else "never"
    if scheme not in ("always", "first", "never") or not isinstance(mark, str) or not mark:
        raise ValueError(f"damaged: {where} must have a mark and a scheme, got {part!r}")
    literal = re.compile(re.escape(mark))
    cut = cutting(lambda text: literal, "MergedWithNext")

    def run(pieces, begins):
        marked = [piece.replace(" ", mark) for piece in pieces]
        for place, piece in enumerate(marked):
            first = scheme == "always" or (scheme == "first" and begins and place == 0)
            if first and not piece.startswith(mark):
                marked[place] = mark + piece
        return cut(marked, begins) if part.get("split", True) else marked

    return run


_KINDS = {
    "Sequence": _sequence,
    "Split": _split,
    "ByteLevel": _byte_level,
    "Digits": _digits,
    "Punctuation": _punctuation,
    "WhitespaceSplit": _white_space_split,
    "Whitespace": _white_space,
    "BertPreTokenizer": _bert,
    "Metaspace": _metaspace,
}
