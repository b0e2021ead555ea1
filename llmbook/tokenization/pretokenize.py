r"""Cutting text into pieces before any merging: no token will reach across the edge of a piece.

Two published patterns, written for the standard library's `re`:

`"gpt2"`: `'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
`"gpt4"`: contractions in either case; at most three digits together; a word may carry any one sign
in front of it, not only a space; a newline ends a piece.

`re` has no `\p{L}`, and each Python has its own edition of Unicode. So the classes are spelt out
from a table of Unicode 16.0: the pieces are the same on every Python, and those of the
`tokenizers` library.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2,
and the code published with it; the second pattern was published with the GPT-4 tokenizer.
"""

import json
import re
from functools import cache
from importlib import resources

LIBRARY_PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""The patterns as they are published: what stands in a `tokenizer.json`."""

_OURS = {  # L letters, N numbers, S white space, B white space but \r and \n, O everything else
    "gpt2": "'(?:[sdmt]|ll|ve|re)| ?[{L}]+| ?[{N}]+| ?[{O}]+|[{S}]+(?![{L}{N}{O}])|[{S}]+",
    "gpt4": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[{B}{O}]?[{L}]+|[{N}]{{1,3}}"
    "| ?[{O}]+[\r\n]*|[{S}]*[\r\n]+|[{S}]+(?![{L}{N}{O}])|[{S}]+",
}
# White space as Unicode has it: Python's own \s also takes U+001C to U+001F.
_BLANK = [
    (0x9, 0x9),
    (0xB, 0xC),
    (0x20, 0x20),
    (0x85, 0x85),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
]
_NEWLINES = [(0xA, 0xA), (0xD, 0xD)]


def split(text, pattern="gpt2"):
    """The pieces of a text, in order; joined they are the text. Raises ValueError for a name.

    pattern: `"gpt2"` or `"gpt4"`.
    """
    return splitter(pattern)(text)


def splitter(pattern="gpt2"):
    """The function text -> pieces for a pattern's name; ASCII text takes a shorter way."""
    if pattern not in _OURS:
        raise ValueError(f"pattern must be one of {', '.join(_OURS)}: got {pattern!r}")
    short = _compiled(pattern, 0x7F).findall

    def pieces(text):
        return short(text) if text.isascii() else _compiled(pattern, 0x10FFFF).findall(text)

    return pieces


@cache
def _compiled(pattern, last):
    """The pattern over the code points up to `last`."""
    classes = _classes(last)
    return re.compile(_OURS[pattern].format_map(classes))


@cache
def _classes(last):
    """The inside of a character class for L, N, S, B and O, over the code points up to `last`."""
    table = json.loads(resources.files(__package__).joinpath("unicode.json").read_text("utf-8"))
    ranges = {
        "L": _ranges(table["letters"]),
        "N": _ranges(table["numbers"]),
        "S": sorted(_BLANK + _NEWLINES),
        "B": _BLANK,
    }
    taken = sorted(ranges["L"] + ranges["N"] + ranges["S"])
    edges = [-1, *(edge for pair in taken for edge in pair), 0x110000]
    ranges["O"] = [(a + 1, b - 1) for a, b in zip(edges[::2], edges[1::2]) if a + 1 < b]
    return {
        name: "".join(_escaped(a, min(b, last)) for a, b in found if a <= last)
        for name, found in ranges.items()
    }


def _ranges(text):
    """Pairs (first, last) from hexadecimal text such as "41-5a aa"."""
    pairs = (item.partition("-") for item in text.split())
    return [(int(a, 16), int(b or a, 16)) for a, _, b in pairs]


def _escaped(first, last):
    return rf"\U{first:08x}-\U{last:08x}"
