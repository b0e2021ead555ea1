"""Interactive: byte-pair encoding learns from a short text, one merge at a time."""

import traitlets

from llmbook.checks import whole
from llmbook.tokenization.pretokenize import split
from llmbook.tokenization.tokenizer_json import BYTE_ORDER, printable
from llmbook.tokenization.trainer import learn_merges, merge

from .interactive import Interactive

MOST_BYTES = 600


class MergeSteps(Interactive):
    """BPE merges, one by one: the text in tokens, the pairs that compete, and what it has gained.

    `texts`: a dict from a label to a text of at most 600 bytes. Each is cut into pieces (GPT-2's
    pattern), and up to `steps` merges are learned from it as `BPETokenizer.train` learns them, as
    long as a pair occurs twice.
    `text` (its place in the dict) and `step` (merges made) choose what is shown first.

    Raises ValueError for no text, one that is too long or repeats no pair, and for places out of
    range.
    """

    script = "merges.js"
    alt = traitlets.Unicode(
        "A short text cut into tokens by byte-pair encoding. A slider sets the number of merges; "
        "shown are the tokens, the most frequent pairs, and how many tokens remain."
    ).tag(sync=True)
    labels = traitlets.List().tag(sync=True)
    pieces = traitlets.List().tag(sync=True)
    merges = traitlets.List().tag(sync=True)
    text = traitlets.Int(0).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)

    def __init__(self, texts, steps=60, text=0, step=0, **kwargs):
        if not texts:
            raise ValueError("texts must hold at least one text: got none")
        steps = whole("steps", steps, least=1, most=500)
        cut, learned = [], []
        for label, words in texts.items():
            size = len(words.encode())
            if not 2 <= size <= MOST_BYTES:
                raise ValueError(f"text {label!r} must have 2 to {MOST_BYTES} bytes: got {size}")
            cut.append([printable(piece.encode()) for piece in split(words)])
            learned.append(_learn(cut[-1], steps))
            if not learned[-1]:
                raise ValueError(f"text {label!r} must hold some pair of bytes twice")
        text = whole("text", text, least=0, most=len(cut) - 1)
        step = whole("step", step, least=0, most=len(learned[text]))
        super().__init__(
            labels=list(texts), pieces=cut, merges=learned, text=text, step=step, **kwargs
        )

    def reading(self, text=None, step=None):
        """What is shown: the tokens (stand-ins), their number, and the pair that comes next."""
        text = self.text if text is None else text
        step = self.step if step is None else step
        words = [list(piece) for piece in self.pieces[text]]
        for a, b, _ in self.merges[text][:step]:
            words = [merge(word, (a, b), a + b) for word in words]
        tokens = [token for word in words for token in word]
        after = self.merges[text][step : step + 1]
        return {
            "tokens": tokens,
            "vocabulary": 256 + step,
            "count": len(tokens),
            "next": after[0] if after else None,
        }


def _learn(pieces, steps):
    """[first token, second token, how often] for each merge, tokens as printable stand-ins."""
    place = {printable(bytes([byte])): i for i, byte in enumerate(BYTE_ORDER)}
    words = {}
    for piece in pieces:
        word = tuple(place[c] for c in piece)
        words[word] = words.get(word, 0) + 1
    tokens = [bytes([byte]) for byte in BYTE_ORDER]
    merges, found = learn_merges(words, tokens, 256 + steps), []
    for new, pair in enumerate(merges, 256):
        count = sum(n for word, n in words.items() for two in zip(word, word[1:]) if two == pair)
        if count < 2:
            break
        found.append([*(printable(tokens[i]) for i in pair), count])
        merged = {}
        for word, n in words.items():
            after = tuple(merge(word, pair, new))
            merged[after] = merged.get(after, 0) + n
        words = merged
    return found
