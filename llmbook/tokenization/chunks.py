"""Where long text may be cut without a trace: chunks that can be encoded one after the other.

A chunk is ASCII more often than the whole, which takes a shorter way, and only one chunk's pieces
are in memory. The patterns that are published all end a piece before a space that stands between
two letters, whatever comes before or behind; so a chunk ends there.
"""

import re

from llmbook.tokenization.pretokenize import LIBRARY_PATTERNS

CHUNK = 2**15  # characters
_BETWEEN = re.compile("[A-Za-z](?= [A-Za-z])")
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FALL_APART = {
    *LIBRARY_PATTERNS.values(),
    # Qwen: digits one by one
    LIBRARY_PATTERNS["gpt4"].replace(r"\p{N}{1,3}", r"\p{N}"),
    # GPT-4o and gpt-oss: words in small letters apart from words in capitals
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # DeepSeek: three patterns, one after the other
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
}


def falls_apart(part):
    """Whether a file's pre-tokenizer cuts the parts of a text as it cuts the whole."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "Sequence":
        return all(map(falls_apart, part["pretokenizers"]))
    if kind == "Split":
        behaviour = (part.get("behavior"), part.get("invert", False))
        whole = behaviour in (("Isolated", False), ("Removed", True))
        return whole and part["pattern"].get("Regex") in _FALL_APART
    return kind in ("ByteLevel", "Digits", "Punctuation")


def chunks(text, size=CHUNK):
    """The parts of a text, each of `size` characters or somewhat more."""
    at = 0
    while len(text) - at > size:
        edge = _BETWEEN.search(text, at + size)
        if not edge:
            break
        yield text[at : edge.end()]
        at = edge.end()
    if at < len(text):
        yield text[at:]
