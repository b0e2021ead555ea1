"""Characters as tokens: one id for each, in sorted order. The simplest tokenizer there is.

Nothing is learned but which characters there are; a text of n characters has n tokens.
"""

import json
import string
from pathlib import Path

from llmbook import checks
from llmbook.data.folders import write_atomically
from llmbook.tokenization.bpe import END_OF_TEXT
from llmbook.tokenization.pipeline import checked_ids

PRINTABLE = "\n" + "".join(sorted(set(string.printable) - set("\t\n\r\x0b\x0c")))
"""The 96 characters of the documentation corpus: printable ASCII and the newline."""


class CharacterTokenizer:
    """One id for each character, in sorted order: id 0 is the least.

    `CharacterTokenizer(text)` takes the characters that occur in `text`; without one, those of the
    documentation corpus, on every machine the same 96. end_of_text: whether <|endoftext|> is the
    id after them. It has the methods of `BPETokenizer`. Raises ValueError for an empty text.
    """

    def __init__(self, text=PRINTABLE, *, end_of_text=False):
        self.characters = "".join(sorted(set(checks.text("text", text))))
        self._ids = {character: i for i, character in enumerate(self.characters)}
        self.special_tokens = {END_OF_TEXT: len(self.characters)} if end_of_text else {}

    def __len__(self):
        return len(self.characters) + len(self.special_tokens)

    def __contains__(self, character):
        return character in self._ids

    def __repr__(self):
        return f"CharacterTokenizer({self.characters!r})"

    def encode(self, text, allowed_special=()):
        """Ids of a text, a list. Raises ValueError for a character that the vocabulary lacks.

        Special tokens are never looked for, whatever is allowed.
        """
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise ValueError(
                f"character {error.args[0]!r} at position {text.index(error.args[0])} is not "
                f"among the {len(self._ids)} of this vocabulary"
            ) from None

    def decode(self, ids):
        """The text of ids: a list, a tensor (tokens,), or one id; raises as `checked_ids` does."""
        names = [*self.characters, *self.special_tokens]
        return "".join(names[i] for i in checked_ids(ids, len(names)))

    def save(self, path):
        """Write tokenizer.json into a folder; the `tokenizers` library loads the same ids."""
        added = [
            {
                "id": i,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name, i in self.special_tokens.items()
        ]
        content = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "vocab": self._ids,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "merges": [],
            },
        }
        write_atomically(Path(path) / "tokenizer.json", json.dumps(content))
