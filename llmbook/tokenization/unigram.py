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

    A character that no piece covers becomes `unknown`, neighbours together one.
    Raises ValueError for no pieces and for a score that is not finite.
    """

    def __init__(self, scores, unknown="<unk>"):
        if not scores or not all(map(math.isfinite, scores.values())):
            raise ValueError("scores must hold at least one piece, each with a finite number")
        self.scores, self.unknown = dict(scores), unknown
        self.ids = {piece: i for i, piece in enumerate([unknown, *self.scores])}
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
        """The most probable pieces of one word: Viterbi, from the front.

        best(end) = max over pieces [start, end) of best(start) + log p(piece)
        """
        best = [0.0] + [-math.inf] * len(word)
        back = [None] * (len(word) + 1)
        for start in range(len(word)):
            for end, score, known in self._edges(word, start):
                if best[start] + score > best[end]:
                    best[end], back[end] = best[start] + score, (start, known)
        pieces, end, inside_unknown = [], len(word), False
        while end > 0:
            start, known = back[end]
            if known:
                pieces.append(word[start:end])
            elif not inside_unknown:
                pieces.append(self.unknown)
            inside_unknown, end = not known, start
        return pieces[::-1]

    def encode(self, text):
        """Ids of a text's words, which white space separates: list of int. 0 is unknown."""
        return [self.ids[piece] for word in text.split() for piece in self.tokenize(word)]

    def expected_counts(self, words):
        """How often each piece is used, over all cuts of each word by their probability.

        words: dict from a word to its count. Returns (counts, log-likelihood of the words).
        Forward sums α from the front, backward sums β from the end, in probabilities.
        """
        counts, total = Counter(), 0.0
        for word, n in words.items():
            edges = [
                [(end, math.exp(s)) for end, s, _ in self._edges(word, i)]
                for i in range(len(word))
            ]
            ahead = [1.0] + [0.0] * len(word)
            for start, found in enumerate(edges):
                for end, p in found:
                    ahead[end] += ahead[start] * p
            behind = [0.0] * len(word) + [1.0]
            for start in range(len(word) - 1, -1, -1):
                behind[start] = sum(p * behind[end] for end, p in edges[start])
            for start, found in enumerate(edges):
                for end, p in found:
                    counts[word[start:end]] += n * ahead[start] * p * behind[end] / ahead[-1]
            total += n * math.log(ahead[-1])
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
