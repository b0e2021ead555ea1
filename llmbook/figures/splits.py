"""Interactive: the reader's own text, cut by four tokenizers side by side."""

import traitlets

from llmbook import checks
from llmbook.experiments.relatives import from_merges, named, pieces
from llmbook.tokenization.byte_names import BYTE_ORDER

from .interactive import _HERE, Interactive

LONGEST = 400


class TokenizerSplits(Interactive):
    """A text as bytes, in byte-pair encoding, in WordPiece and in Unigram, as it is typed.

    cuts: the three trained tokenizers, with `bpe`, `wordpiece` and `unigram`
    (`llmbook.experiments.relatives.cuts()`). `text`: what is cut first, at most 400 characters;
    `merges`: how many of BPE's merges are used (None: all).

    Under each stand the number of tokens, and whether the text can be got back from them: not
    where a word is unknown, and not where white space is lost.
    Raises ValueError for a text that is too long or a number of merges out of range.
    """

    script = "splits.js"
    alt = traitlets.Unicode(
        "A field for a text, and below it the same text four times: as bytes, and cut by "
        "byte-pair encoding, WordPiece and Unigram, each with its number of tokens; a slider sets "
        "how many merges byte-pair encoding has learned."
    ).tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    merges = traitlets.Int(0).tag(sync=True)
    bpe = traitlets.List().tag(sync=True)
    byte_order = traitlets.List().tag(sync=True)
    wordpiece = traitlets.List().tag(sync=True)
    unigram = traitlets.List().tag(sync=True)

    def __init__(self, cuts, text="", merges=None, **kwargs):
        checks.text("text", text, least=0, most=LONGEST)
        learned = cuts.bpe.merges
        merges = len(learned) if merges is None else merges
        merges = checks.whole("merges", merges, least=0, most=len(learned))
        place = {byte: i for i, byte in enumerate(BYTE_ORDER)}
        ids = {bytes([byte]): i for byte, i in place.items()}
        triples = []
        for a, b in learned:
            ids.setdefault(a + b, len(ids))
            triples.append([ids[a], ids[b], ids[a + b]])
        super().__init__(
            text=text,
            merges=merges,
            bpe=triples,
            byte_order=list(BYTE_ORDER),
            wordpiece=list(cuts.wordpiece.vocab),
            unigram=[[piece, score] for piece, score in cuts.unigram.scores.items()],
            **kwargs,
        )
        self._cuts = cuts

    def reading(self, text=None, merges=None):
        """{name: tokens as they are shown} of a text: the present one, with the present merges."""
        text = self.text if text is None else text
        merges = self.merges if merges is None else merges
        cuts = self._cuts._replace(bpe=from_merges(self._cuts.bpe.merges[:merges]))
        return {"bytes": [named(bytes([b])) for b in text.encode()], **pieces(text, cuts)}


TokenizerSplits._esm = (_HERE / "language.js").read_text("utf-8") + TokenizerSplits._esm
