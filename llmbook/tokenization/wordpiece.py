"""WordPiece: the vocabulary alone decides, the longest piece that fits first.

BERT's tokenizer. Training joins the pair with the highest count(ab) / (count(a) · count(b)): not
what is frequent, but what is surprisingly often together. Using it needs no merges: take the
longest piece of the vocabulary that the word begins with, and go on behind it. A piece inside a
word is written with "##" in front. A word that cannot be finished is unknown as a whole.

Source: Schuster and Nakajima 2012, "Japanese and Korean Voice Search"; Devlin et al. 2019, BERT.
Google's training code was not published, and libraries differ; the score is the one usually given.
"""

from collections import Counter

from llmbook.tokenization.trainer import merge

INSIDE = "##"


class WordPiece:
    """Words to pieces by greedy longest match. vocab: dict from piece to id, with `unknown` in it.

    longest: characters beyond which a word is unknown unread; inside: what a piece inside a word
    begins with. Raises ValueError without `unknown`.
    """

    def __init__(self, vocab, unknown="[UNK]", longest=100, inside=INSIDE):
        if unknown not in vocab:
            raise ValueError(f"vocab must hold the unknown token {unknown!r}")
        self.vocab, self.unknown, self.longest = dict(vocab), unknown, longest
        self.inside = inside
        self._widest = max(map(len, self.vocab))

    @classmethod
    def train(cls, words, vocab_size, unknown="[UNK]", *, min_count=1):
        """Learn pieces from a dict of words and their counts until there are `vocab_size`.

        score(a, b) = count(ab) / (count(a) · count(b)); of equals, the first in dictionary order.
        min_count: pairs below do not compete; without it the score prefers what is rarest.
        Every merge counts all words again: for small texts. Raises ValueError when `vocab_size`
        does not hold the single characters.
        """
        cut = {w: [w[0], *(INSIDE + c for c in w[1:])] for w in words if w}
        vocab = [unknown, *sorted({piece for pieces in cut.values() for piece in pieces})]
        if vocab_size < len(vocab):
            raise ValueError(
                f"vocab_size must be at least {len(vocab)}, the single characters and {unknown}: "
                f"got {vocab_size}"
            )
        while len(vocab) < vocab_size:
            pieces, pairs = Counter(), Counter()
            for word, parts in cut.items():
                for piece in parts:
                    pieces[piece] += words[word]
                for pair in zip(parts, parts[1:]):
                    pairs[pair] += words[word]
            pairs = {pair: n for pair, n in pairs.items() if n >= min_count}
            if not pairs:
                break
            best = min(pairs, key=lambda p: (-pairs[p] / (pieces[p[0]] * pieces[p[1]]), p))
            new = best[0] + best[1].removeprefix(INSIDE)
            cut = {
                w: merge(parts, best, new) if best[0] in parts else parts
                for w, parts in cut.items()
            }
            if new not in vocab:
                vocab.append(new)
        return cls({piece: i for i, piece in enumerate(vocab)}, unknown)

    def tokenize(self, word):
        """The pieces of one word, or `[unknown]` where none fits on the way."""
        pieces, start = [], 0
        while start < len(word) and len(word) <= self.longest:
            mark = self.inside if start else ""
            for end in range(min(len(word), start + self._widest), start, -1):
                if mark + word[start:end] in self.vocab:
                    pieces.append(mark + word[start:end])
                    start = end
                    break
            else:
                return [self.unknown]
        return pieces if len(word) <= self.longest else [self.unknown]

    def ids_of(self, word):
        """Ids of one word."""
        return [self.vocab[piece] for piece in self.tokenize(word)]

    @property
    def names(self):
        """dict from id to piece."""
        return {i: piece for piece, i in self.vocab.items()}

    def to_dict(self):
        """As a `tokenizer.json` has it."""
        return {
            "type": "WordPiece",
            "unk_token": self.unknown,
            "continuing_subword_prefix": self.inside,
            "max_input_chars_per_word": self.longest,
            "vocab": self.vocab,
        }

    @classmethod
    def from_dict(cls, model):
        """From a `tokenizer.json`'s model. Raises ValueError for a part that is damaged."""
        unknown, inside = (
            model.get("unk_token", "[UNK]"),
            model.get("continuing_subword_prefix", INSIDE),
        )
        longest = model.get("max_input_chars_per_word", 100)
        whole = isinstance(longest, int) and not isinstance(longest, bool)
        if not isinstance(unknown, str) or not isinstance(inside, str) or not whole:
            raise ValueError(
                f"damaged: model has unk_token {unknown!r}, continuing_subword_prefix {inside!r}, "
                f"max_input_chars_per_word {longest!r}"
            )
        return cls(model["vocab"], unknown, longest, inside)

    def encode(self, text):
        """Ids of a text's words, which white space separates: list of int. Spaces are lost."""
        return [i for word in text.split() for i in self.ids_of(word)]
