"""Sets of characters by their Unicode properties: the same on every Python.

A set is a sorted list of ranges (first, last) of code points, both ends included. Each Python
carries its own edition of Unicode; these come from one table, `unicode.json`.
"""

import json
import re
from functools import cache
from importlib import resources

LAST = 0x10FFFF
LAST_ASCII = 0x7F
LAST_BASIC = 0xFFFF  # up to here `re` looks characters up; what is beyond it compares one by one
WHITE_SPACE = "9-d 20 85 a0 1680 2000-200a 2028-2029 202f 205f 3000"
"""White space as Unicode has it: Python's own also takes U+001C to U+001F."""
_EDITIONS = ("newer", "removed", "marks", "accents", "punctuation")


@cache
def table():
    """The content of `unicode.json`; its "source" says what is what."""
    return json.loads(resources.files(__package__).joinpath("unicode.json").read_text("utf-8"))


@cache
def ranges(name):
    """The characters of a property. Raises ValueError for a name that is not known.

    name: a general category ("Lu") or its first letter ("L", "N", "P" …); "space", "word"
    (what `\\w` is), "joins", "prepends", "breaks", or one of the older editions' sets.
    """
    categories = table()["general_category"]
    if name in categories:
        return parsed(categories[name])
    if name == "C":  # control, format, private, surrogates, unassigned: all that is not the rest
        return complement(union(*(ranges(letter) for letter in "LMNPSZ")))
    found = [parsed(text) for key, text in categories.items() if key[0] == name]
    if found:
        return union(*found)
    if name == "space":
        return parsed(WHITE_SPACE)
    if name == "word":
        return union(*map(ranges, ("L", "M", "Nd", "Pc")), parsed(table()["word"]))
    if name in ("joins", "prepends", "breaks"):
        return parsed(table()[name])
    if name in _EDITIONS:
        return parsed(table()["editions"][name])
    raise ValueError(f"{name!r} is no property of characters that is known here")


def parsed(text):
    """Ranges from hexadecimal text such as "41-5a aa"."""
    pairs = (item.partition("-") for item in text.split())
    return [(int(a, 16), int(b or a, 16)) for a, _, b in pairs]


def union(*sets):
    """The characters that are in any of the sets."""
    joined = []
    for first, last in sorted(pair for one in sets for pair in one):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def complement(one):
    """Every other character."""
    edges = [-1, *(edge for pair in union(one) for edge in pair), LAST + 1]
    return [(a + 1, b - 1) for a, b in zip(edges[::2], edges[1::2]) if a + 1 < b]


def bracketed(one, last=LAST):
    """A character class for `re` of the set's characters up to `last`."""
    inside = "".join(_escaped(a, min(b, last)) for a, b in one if a <= last)
    return f"[{inside}]" if inside else r"[^\x00-\U0010ffff]"  # the class that nothing is in


def _escaped(first, last):
    return rf"\U{first:08x}" if first == last else rf"\U{first:08x}-\U{last:08x}"


@cache
def matcher(name, repeat=""):
    """A compiled pattern for one character of a property, or with a `repeat` such as "+"."""
    return re.compile(bracketed(ranges(name)) + repeat)
