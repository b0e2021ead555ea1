r"""Published patterns, which are written for another engine, translated for Python's `re`.

A `tokenizer.json` holds its pattern as the Oniguruma engine reads it: `\p{Lu}` is a general
category, `\s` is Unicode's white space, a class may hold another class. `re` knows none of that,
so every class is spelt out as ranges of code points; what stays is grouping, repetition and
looking around, in which the two agree. What is not understood is refused by name.
"""

import re
from functools import cache

from llmbook.tokenization.character_classes import (
    LAST,
    LAST_ASCII,
    LAST_BASIC,
    bracketed,
    complement,
    ranges,
    union,
)

_GROUP = re.compile(r"\((?:\?(?::|=|!|<=|<!|>|i:))?(?!\?)")
_REPEAT = re.compile(r"(?:[*+?]|\{\d+(?:,\d*)?\}|\{,\d+\})[?+]?")
_SETS = {"s": "space", "d": "Nd", "w": "word"}
_NAMES = {"letter": "L", "mark": "M", "number": "N", "punctuation": "P", "symbol": "S"}
_JOINERS, _SMALL_NUMBERS = [(0x200C, 0x200D)], [(0xB2, 0xB3), (0xB9, 0xB9), (0xBC, 0xBE)]
_CONTROLS = dict(zip("nrtfvae0", "\n\r\t\f\v\a\x1b\0"))
_ANCHORS = {"A": r"\A", "z": r"\Z", "Z": r"(?=\n?\Z)"}


def compiled(pattern):
    """A function text -> compiled pattern: the fewer characters a text draws on, the faster.

    Raises ValueError for a pattern that is not understood.
    """
    short = _compiled(pattern, LAST_ASCII)

    def choose(text):
        if text.isascii():
            return short
        basic = len(text.encode("utf-16-le", "surrogatepass")) == 2 * len(text)
        return _compiled(pattern, LAST_BASIC if basic else LAST)

    return choose


@cache
def _compiled(pattern, last):
    translated = translate(pattern, last)
    try:
        return re.compile(translated, re.MULTILINE)
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} is not understood: {error}") from None


def translate(pattern, last=LAST):
    """The pattern for `re`, its classes over the code points up to `last`."""
    if not isinstance(pattern, str):
        raise ValueError(f"a pattern must be a string: got {pattern!r}")
    out, at = [], 0
    while at < len(pattern):
        sign = pattern[at]
        if sign == "[":
            found, at = _class(pattern, at)
            out.append(bracketed(found, last))
        elif sign == "\\":
            anchor = _ANCHORS.get(pattern[at + 1 : at + 2])
            if anchor or pattern[at + 1 : at + 2] in ("b", "B"):
                out.append(anchor or _edge_of_word(pattern[at + 1], last))
                at += 2
                continue
            found, at = _escape(pattern, at)
            out.append(bracketed(found, last) if isinstance(found, list) else re.escape(found))
        elif sign == "(":
            group = _GROUP.match(pattern, at)
            if not group:
                _refuse(pattern, at)
            out.append("(?:" if group[0] == "(" else group[0])
            at = group.end()
        elif sign in "*+?{":
            repeat = _REPEAT.match(pattern, at)
            if not repeat or repeat[0].endswith("}+"):  # there, a repetition of the repetition
                _refuse(pattern, at)
            out.append(repeat[0])
            at = repeat.end()
        else:
            out.append(sign if sign in "|).^$" else re.escape(sign))
            at += 1
    return "".join(out)


def _edge_of_word(sign, last):
    word = bracketed(ranges("word"), last)
    edge = f"(?:(?<={word})(?!{word})|(?<!{word})(?={word}))"
    return edge if sign == "b" else f"(?!{edge})"


def _escape(pattern, at):
    """What stands at a backslash: a set as ranges, or one character; and the place behind it."""
    sign = pattern[at + 1 : at + 2]
    behind = at + 2
    if sign in ("p", "P"):
        name = re.compile(r"\{(\^?)(\w+)\}").match(pattern, behind)
        if not name:
            _refuse(pattern, at)
        key = _NAMES.get(name[2].lower(), name[2])
        try:
            found = ranges(key) if key[0].isupper() else _refuse(pattern, at)
        except ValueError:
            raise ValueError(f"the pattern {pattern!r} names \\p{{{name[2]}}}, unknown") from None
        return complement(found) if (sign == "P") != bool(name[1]) else found, name.end()
    if sign.lower() in _SETS and sign:
        found = ranges(_SETS[sign.lower()])
        if sign in "wW":  # Oniguruma counts Latin-1's small numbers, and not the two joiners
            found = union(complement(union(complement(found), _JOINERS)), _SMALL_NUMBERS)
        return complement(found) if sign.isupper() else found, behind
    if sign in _CONTROLS:
        return _CONTROLS[sign], behind
    code = re.compile(r"x\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})")
    code = code.match(pattern, at + 1)
    if code:
        return chr(int(next(filter(None, code.groups())), 16)), code.end()
    if not sign or sign.isalnum():
        _refuse(pattern, at)
    return sign, behind


def _class(pattern, at):
    """The ranges of a class in brackets, and the place behind it."""
    start, at = at, at + 1
    negated = pattern[at : at + 1] == "^"
    at += negated
    found, first = [], True
    while first or pattern[at : at + 1] != "]":
        first = False
        if at >= len(pattern) or pattern.startswith(("&&", "[:"), at):
            _refuse(pattern, start)
        if pattern[at] == "[":
            inner, at = _class(pattern, at)
            found += inner
            continue
        one, at = _escape(pattern, at) if pattern[at] == "\\" else (pattern[at], at + 1)
        if isinstance(one, list):
            found += one
            continue
        end = one
        if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in ("]", ""):
            end, at = (
                _escape(pattern, at + 1) if pattern[at + 1] == "\\" else (pattern[at + 1], at + 2)
            )
        if isinstance(end, list) or end < one:
            _refuse(pattern, start)
        found.append((ord(one), ord(end)))
    return complement(found) if negated else union(found), at + 1


def _refuse(pattern, at):
    rest = pattern[at : at + 12]
    raise ValueError(f"the pattern {pattern!r} is not understood from {rest!r} on")
