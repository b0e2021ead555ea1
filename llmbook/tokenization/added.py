"""Added tokens: texts that get an id of their own, cut out before anything else is done.

Those that are looked for in the text as it stands (`normalized=False`: special tokens, as a rule)
come first, then those that are looked for in what lies between, once it is normalized. Of several
that begin at one place the longest counts.
"""

import re
from dataclasses import asdict, dataclass

from llmbook.tokenization.character_classes import matcher


@dataclass(frozen=True)
class AddedToken:
    """A text with an id of its own, and how it is looked for.

    special: may be left out when ids are decoded, and called by name only where that is allowed.
    lstrip, rstrip: takes the white space before or behind it with it. single_word: does not count
    where a letter, digit or underscore touches it. normalized: looked for in normalized text.
    """

    content: str
    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False

    def __post_init__(self):
        if not isinstance(self.content, str) or not self.content:
            raise ValueError(f"an added token must have a content: got {self.content!r}")
        if isinstance(self.id, bool) or not isinstance(self.id, int) or self.id < 0:
            raise ValueError(f"added token {self.content!r} has id {self.id!r}")

    def to_dict(self):
        """As a `tokenizer.json` lists it."""
        values = asdict(self)
        order = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
        return {name: values[name] for name in order}


class AddedTokens:
    """Several added tokens, and the search for them.

    tokens: a collection of `AddedToken`; normalize: text -> text, or None.
    """

    def __init__(self, tokens=(), normalize=None):
        self.tokens = tuple(tokens)
        self.normalize = normalize
        self._searches = {}

    def names(self):
        """dict from id to what a token is in text: as it is looked for, normalized or not."""
        return {token.id: self._looked_for(token) for token in self.tokens}

    def _looked_for(self, token):
        return (
            self.normalize(token.content) if token.normalized and self.normalize else token.content
        )

    def cut(self, text, allowed=None):
        """A text as a list: an id where an added token was found, else normalized text.

        allowed: the contents of the special tokens that are looked for; None for all of them.
        """
        as_is, normalized = self._search(allowed)
        parts = []
        for part in as_is(text):
            if isinstance(part, int):
                parts.append(part)
            else:
                parts += normalized(self.normalize(part) if self.normalize else part)
        return parts

    def _search(self, allowed):
        key = None if allowed is None else frozenset(allowed)
        if key not in self._searches:
            tokens = [t for t in self.tokens if key is None or not t.special or t.content in key]
            tokens.sort(key=lambda token: not token.special)  # of two equals, the special one
            if len(self._searches) > 16:
                self._searches.clear()
            found = {}, {}
            for token in tokens:
                found[token.normalized].setdefault(self._looked_for(token), token)
            self._searches[key] = tuple(map(_search_for, found))
        return self._searches[key]


def _search_for(tokens):
    """The function text -> list of str and int for a dict from text to `AddedToken`."""
    texts = sorted(filter(None, tokens), key=len, reverse=True)
    if not texts:
        return lambda text: [text] if text else []
    pattern = re.compile("|".join(map(re.escape, texts)))
    word = matcher("word")
    before, behind = re.compile(matcher("space", "*").pattern + r"\Z"), matcher("space", "*")

    def run(text):
        parts, done = [], 0
        for match in pattern.finditer(text):
            token, (start, end) = tokens[match[0]], match.span()
            if token.single_word:
                touched = start > 0 and word.match(text[start - 1])
                if touched or (end < len(text) and word.match(text[end])):
                    continue
            if token.lstrip:  # what an earlier token has taken is not taken again
                start = max(before.search(text, 0, start).start(), done)
            if token.rstrip:
                end = behind.match(text, end).end()
            if done < start:
                parts.append(text[done:start])
            parts.append(token.id)
            done = end
        if done < len(text):
            parts.append(text[done:])
        return parts

    return run
