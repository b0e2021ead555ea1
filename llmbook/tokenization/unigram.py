"""Unigram: every piece has a probability, and a word is cut in the most probable way.

    P(word cut into x₁ … xₙ) = Π p(xᵢ)

Training starts from too many pieces and throws away, round by round, those that the text would
miss least: the opposite of BPE. The probabilities come from expectation–maximisation over all
cuts.

Source: Kudo 2018, "Subword Regularization", section 3.2. Where this is simpler: a piece is judged
by its expected count alone, and not by the likelihood that the text would lose.
"""

import math
from collections import Counter

UNKNOWN_PENALTY = 10.0  # below the least probable piece, as in SentencePiece


class Unigram:
    """Words to pieces by the most probable cut. scores: dict from piece to log-probability.

    A character that no piece covers becomes `unknown`, neighbours together one. ids: dict from
    piece to id; as a rule unknown is 0 and the pieces follow. byte_fallback: what is unknown
    becomes its bytes' pieces, "<0xE7>" and the like, where all are there.
    Raises ValueError for no pieces and for a score that is not finite.
    """

    def __init__(self, scores, unknown="<unk>", ids=None, byte_fallback=False):
        if not scores or not all(map(math.isfinite, scores.values())):
            raise ValueError("scores must hold at least one piece, each with a finite number")
        self.scores, self.unknown, self.byte_fallback = dict(scores), unknown, byte_fallback
        numbered = {piece: i for i, piece in enumerate([unknown, *self.scores])}
        self.ids = numbered if ids is None else dict(ids)
        self._widest = max(map(len, self.scores))
        self._unknown_score = min(self.scores.values()) - UNKNOWN_PENALTY

    def _edges(self, word, start):
        """(end, score, known) of everything that may stand at `start`."""
        for end in range(start + 1, min(len(word), start + self._widest) + 1):
            if word[start:end] in self.scores:
                yield end, self.scores[word[start:end]], True
        if word[start] not in self.scores:
            yield start + 1, self._unknown_score, False

    def tokenize(self, word):
        """The most probable pieces of one word; what is unknown as `unknown`."""
        return [piece if known else self.unknown for piece, known in self.cut(word)]

    def cut(self, word):
        """The most probable cut of one word, as (text, whether it is a piece).

        Viterbi, from the front:

        best(end) = max over pieces [start, end) of best(start) + log p(piece)
        """
        best = [0.0] + [-math.inf] * len(word)
        back = [None] * (len(word) + 1)
        for start in range(len(word)):
            for end, score, known in self._edges(word, start):
                if best[start] + score > best[end]:
                    best[end], back[end] = best[start] + score, (start, known)
        pieces, end = [], len(word)
        while end > 0:
            start, known = back[end]
            if not known and pieces and not pieces[-1][1]:
                pieces[-1] = (word[start:end] + pieces[-1][0], False)
            else:
                pieces.append((word[start:end], known))
            end = start
        return pieces[::-1]

    def ids_of(self, word):
        """Ids of one word."""
        found = []
        for piece, known in self.cut(word):
            several = [None]
            if not known and self.byte_fallback:
                several = [self.ids.get(f"<0x{byte:02X}>") for byte in piece.encode()]
            if known or None in several:
                found.append(self.ids[piece if known else self.unknown])
            else:
                found += several
        return found

    def encode(self, text):
        """Ids of a text's words, which white space separates: list of int. 0 is unknown."""
        return [i for word in text.split() for i in self.ids_of(word)]

    @property
    def names(self):
        """dict from id to piece."""
        return {i: piece for piece, i in self.ids.items()}

    def to_dict(self):
        """As a `tokenizer.json` has it."""
        return {
            "type": "Unigram",
            "unk_id": self.ids[self.unknown],
            "vocab": [[p, self.scores.get(p, 0.0)] for p in sorted(self.ids, key=self.ids.get)],
            "byte_fallback": self.byte_fallback,
        }

    @classmethod
    def from_dict(cls, model):
        """From a `tokenizer.json`'s model. Raises ValueError for a part that is damaged."""
        vocab, unknown, fallback = (model.get(k) for k in ("vocab", "unk_id", "byte_fallback"))
        whole = isinstance(unknown, int) and not isinstance(unknown, bool)
        if not isinstance(vocab, list) or not whole or not 0 <= unknown < len(vocab):
            raise ValueError(
                f"damaged: model.unk_id must be a place in model.vocab, got {unknown!r}"
            )
        if fallback not in (None, True, False):
            raise ValueError(f"damaged: model.byte_fallback must be true or false: {fallback!r}")
        ids = {piece: i for i, (piece, _) in enumerate(vocab)}
        if len(ids) < len(vocab):
            raise ValueError("damaged: model.vocab holds a piece twice")
        return cls(dict(vocab), vocab[unknown][0], ids, bool(fallback))

    def expected_counts(self, words):
        """How often each piece is used, over all cuts of each word by their probability.

        words: dict from a word to its count. Returns (counts, log-likelihood of the words).
        Forward sums α from the front, backward sums β from the end, as logarithms:

            log α(end) = logsumexp over pieces [start, end) of log α(start) + log p(piece)
        """
        counts, total = Counter(), 0.0
        for word, n in words.items():
            edges = [[(end, s) for end, s, _ in self._edges(word, i)] for i in range(len(word))]
            into = [[] for _ in range(len(word) + 1)]  # what comes in at each end
            ahead = [0.0] * (len(word) + 1)
            for start, found in enumerate(edges):
                if start:
                    ahead[start] = _log_sum(into[start])
                for end, score in found:
                    into[end].append(ahead[start] + score)
            whole = ahead[-1] = _log_sum(into[-1]) if word else 0.0
            behind = [0.0] * (len(word) + 1)
            for start in range(len(word) - 1, -1, -1):
                behind[start] = _log_sum([score + behind[end] for end, score in edges[start]])
            for start, found in enumerate(edges):
                for end, score in found:
                    share = math.exp(ahead[start] + score + behind[end] - whole)
                    counts[word[start:end]] += n * share
            total += n * whole
        return counts, total

    @classmethod
    def train(cls, words, vocab_size, *, longest=8, keep=0.7, unknown="<unk>"):
        """Learn `vocab_size` pieces from a dict of words and their counts.

        Starts from all substrings of up to `longest` characters that occur twice; each round
        re-estimates twice and keeps the share `keep` of pieces with the largest expected counts.
        Single characters always stay. Raises ValueError when `vocab_size` does not hold them.
        """
        seen = Counter()
        for word, n in words.items():
            for start in range(len(word)):
                for end in range(start + 1, min(len(word), start + longest) + 1):
                    seen[word[start:end]] += n
        letters = {piece for piece in seen if len(piece) == 1}
        if vocab_size < len(letters):
            raise ValueError(
                f"vocab_size must be at least {len(letters)}, the single characters: "
                f"got {vocab_size}"
            )
        counts = {piece: n for piece, n in seen.items() if n > 1 or piece in letters}
        while True:
            model = cls(_log_shares(counts), unknown)
            for _ in range(2):
                counts = model.expected_counts(words)[0]
                counts = {piece: max(counts[piece], 1e-3) for piece in model.scores}
                model = cls(_log_shares(counts), unknown)
            if len(counts) <= vocab_size:
                return model
            room = max(vocab_size, int(keep * len(counts))) - len(letters)
            order = sorted(counts.keys() - letters, key=lambda piece: (-counts[piece], piece))
            counts = {piece: counts[piece] for piece in [*sorted(letters), *order[:room]]}


def _log_shares(counts):
    total = math.fsum(counts.values())
    return {piece: math.log(n / total) for piece, n in counts.items()}


def _log_sum(terms):
    """log Σ exp of numbers, however small; −∞ for none."""
    most = max(terms, default=-math.inf)
    return most if most == -math.inf else most + math.log(sum(math.exp(t - most) for t in terms))
