"""BPE over characters with bytes to fall back on: Llama 2's, Mistral's and Gemma's tokenizers.

Where byte-level BPE begins with bytes, this begins with characters, and has tokens for single
bytes, such as "<0xE7>", for characters that it lacks. A space is written "▁".

Source: Kudo and Richardson 2018, "SentencePiece"; Touvron et al. 2023, "Llama 2", section 2.2.
"""

import re

from llmbook.tokenization.merging import Merges, Remembered
from llmbook.tokenization.starts import Unknown, start_ids

KEPT_WORDS = 2**17  # words whose ids are remembered
_MARK = "▁"


class TextBPE:
    """Pieces to ids. vocab: dict from text to id; merges: list of (text, text), the first first.

    unknown: what becomes of other characters. ignore_merges: a piece that is a token is that one.
    Raises ValueError for a merge whose parts or result the vocabulary lacks.
    """

    def __init__(self, vocab, merges, unknown=None, ignore_merges=False):
        self.vocab, self.merges = dict(vocab), [tuple(pair) for pair in merges]
        self.unknown, self.ignore_merges = unknown or Unknown(), ignore_merges
        self.names = {i: token for token, i in self.vocab.items()}
        for a, b in self.merges:
            for token in (a, b, a + b):
                if token not in self.vocab:
                    raise ValueError(f"merge {a!r} + {b!r} needs {token!r}, which is not in vocab")
        if self.unknown.unk_token is not None and self.unknown.unk_token not in self.vocab:
            raise ValueError(f"vocab must hold the unknown token {self.unknown.unk_token!r}")
        ids = self.vocab
        self._merges = Merges([(ids[a], ids[b], ids[a + b]) for a, b in self.merges])
        # where no token goes on with a mark, no merge reaches across it: text falls into words
        goes_on = re.compile(f"[^{_MARK}]{_MARK}")
        self._apart = _MARK in ids and not any(goes_on.search(a + b) for a, b in self.merges)
        self._words = Remembered(self._merged)

    def ids_of(self, piece):
        """Ids of one piece, however long."""
        if self.ignore_merges and piece in self.vocab:
            return [self.vocab[piece]]
        if not self._apart:
            return self._merged(piece)
        if len(self._words) > KEPT_WORDS:
            self._words.clear()
        found = []
        for word in re.findall(f"{_MARK}+[^{_MARK}]*|[^{_MARK}]+", piece):
            found += self._words[word]
        return found

    def _merged(self, text):
        return self._merges.apply(start_ids(text, self.vocab, self.unknown))

    def to_dict(self):
        """As a `tokenizer.json` has it."""
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": self.unknown.unk_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": self.unknown.fuse_unk,
            "byte_fallback": self.unknown.byte_fallback,
            "ignore_merges": self.ignore_merges,
            "vocab": self.vocab,
            "merges": [list(pair) for pair in self.merges],
        }
