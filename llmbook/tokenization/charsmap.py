"""A precompiled table of replacements: how T5's and mT5's files normalize text.

The table is a trie over bytes in the double-array form, packed into 32-bit units, and behind it
the replacements, each ended by a zero byte. A grapheme (a character with the marks that belong to
it) of fewer than six bytes is looked up first as a whole, and then each of its characters; of
several beginnings that the trie holds the shortest counts, and the rest of what was looked up goes
with it: so the library has it, and the models were trained on that.

Sources: Aoe 1989, "An Efficient Digital Search Algorithm by Using a Double-Array Structure"; Kudo
and Richardson 2018, "SentencePiece"; the Unicode Standard, annex 29 (graphemes).
"""

import base64
import binascii
import re

import numpy as np

from llmbook.tokenization.character_classes import bracketed, ranges

_LONGEST = 5  # bytes of a grapheme that is looked up as a whole


class CharacterMap:
    """text -> text by a table. units: (n,) uint32, the trie; replacements: bytes.

    Raises ValueError for a table that is cut short.
    """

    def __init__(self, units, replacements):
        self.units, self.replacements = units.tolist(), replacements
        if not self.units:
            raise ValueError("the table is empty")
        self._known = {}
        joins, starts = bracketed(ranges("joins")), bracketed(ranges("prepends"))
        breaks = bracketed(ranges("breaks"))[1:-1] + "\r\n"
        # what may not stand alone: a line's end, and a character with what belongs to it
        base = f"[^{breaks}]"
        several = f"(?:{starts}+{base}|{base}){joins}+|{starts}+{base}"
        self._several = re.compile(f"\r\n|{several}")

    @classmethod
    def from_base64(cls, text):
        """The table as it stands in a file. Raises ValueError for anything else."""
        try:
            data = base64.b64decode(text, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise ValueError(f"must be base64 text, got {str(text)[:40]!r}") from None
        size = int.from_bytes(data[:4], "little")
        if len(data) < 8 or size % 4 or 4 + size > len(data):
            raise ValueError(f"is cut short: {len(data)} bytes, the trie alone should have {size}")
        return cls(np.frombuffer(data[4 : 4 + size], "<u4"), data[4 + size :])

    def __call__(self, text):
        if text.isascii() and "\r\n" not in text:
            return self._one_by_one(text)
        out, at = [], 0
        for match in self._several.finditer(text):
            grapheme = match[0]
            if len(grapheme.encode()) > _LONGEST:
                continue  # its characters are looked up one by one, as the rest
            found = self._replacement(grapheme)
            if found is not None:
                out += [self._one_by_one(text[at : match.start()]), found]
                at = match.end()
        return "".join(out) + self._one_by_one(text[at:])

    def _one_by_one(self, text):
        known = self._known
        for character in set(text).difference(known):
            found = self._replacement(character)
            known[character] = character if found is None else found
        return "".join(map(known.__getitem__, text))

    def _replacement(self, text):
        """What replaces a text: that of its shortest beginning in the trie, or None."""
        units = self.units
        at = _offset(units[0])
        for byte in text.encode():
            at ^= byte
            if byte == 0 or at >= len(units):
                return None
            unit = units[at]
            if unit & (1 << 31 | 0xFF) != byte:
                return None
            at ^= _offset(unit)
            if unit >> 8 & 1:  # something ends here
                start = units[at] & ~(1 << 31)
                end = self.replacements.find(b"\0", start)
                end = len(self.replacements) if end < 0 else end
                return self.replacements[start:end].decode("utf-8", "replace")
        return None


def _offset(unit):
    return unit >> 10 << ((unit & 1 << 9) >> 6)
