"""Extractive question answering on a made set: the answer is a span of the passage.

    passage   first empty turtle in last block. key in open new line. single file in base.
    which     "which turtle?"      → first empty turtle     the span around the word asked about
    where     "where is turtle?"   → last block             the span beside it

An encoder reads `[CLS] question [SEP] passage [SEP]`, and a linear head gives each token two
scores: that the answer starts there, and that it ends there. Source: Devlin et al. 2019.
"""

import hashlib
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from llmbook.data.packing import pad

THINGS = tuple(
    "turtle key file message string list tuple value object class method argument module number "
    "instance option command event widget element dictionary sequence path version name thread "
    "error socket process handler".split()
)
PLACES = tuple("block frame line directory stream code source pattern address base".split())
KINDS = tuple("new empty open first last current single other".split())
LONGEST = 3  # words of an answer: none, one or two kinds, and a noun
ASKS = {"which": "which {}?", "where": "where is {}?"}


@dataclass(frozen=True)
class Question:
    """One passage and one question about it.

    facts: (words of a thing, words of its place), as they stand in the passage; asked: which fact
    is meant. ids, segments: the input and its two texts, lists of equal length; start, end: the
    answer's first and last place in ids; passage: the passage's first and last place in ids.
    """

    facts: tuple
    asked: int
    ids: list
    segments: list
    start: int
    end: int
    passage: tuple


def held_out(thing, words):
    """About a fifth of all pairs of a thing and words about it, the same on every machine."""
    text = f"qa/{thing}/{' '.join(words)}"
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 5 == 0


def make_questions(n, kind, tokenizer, special, *, unseen, facts=3, seed=0):
    """n `Question`s of a kind of ASKS, with so many facts each; the same for the same seed.

    unseen: every fact of a passage, not only the one asked for, joins its thing to kinds and to a
    place that `held_out` keeps for the test; otherwise none does.
    """
    rng = random.Random(f"{kind}/{unseen}/{facts}/{seed}")
    return [_question(rng, kind, tokenizer, special, unseen, facts) for _ in range(n)]


def _words(rng, noun):
    return (*rng.sample(KINDS, rng.randrange(LONGEST)), noun)


def _question(rng, kind, tokenizer, special, unseen, n_facts):
    facts = []
    for thing in rng.sample(THINGS, n_facts):
        named = where = None
        while named is None or held_out(thing, named) != unseen:
            named = _words(rng, thing)
        while where is None or held_out(thing, where) != unseen:
            where = _words(rng, rng.choice(PLACES))
        facts.append((named, where))
    asked = rng.randrange(n_facts)
    question = ASKS[kind].format(facts[asked][0][-1])
    ids = [special.cls, *tokenizer.encode(" " + question, ()), special.sep]
    first = len(ids)
    for i, (named, where) in enumerate(facts):
        for part, words in (("which", named), ("in", ("in",)), ("where", where)):
            piece = tokenizer.encode(" " + " ".join(words), ())
            if i == asked and part == kind:
                span = len(ids), len(ids) + len(piece) - 1
            ids += piece
        ids += tokenizer.encode(".", ())
    ids.append(special.sep)
    segments = [0] * first + [1] * (len(ids) - first)
    return Question(tuple(facts), asked, ids, segments, *span, (first, len(ids) - 2))


def question_batch(questions, special):
    """(ids, mask, segments, allowed), each (batch, tokens), and the answers (batch, 2).

    allowed: True on the tokens of the passage, where an answer may start and end.
    """
    ids, mask = pad([q.ids for q in questions], special.pad)
    segments, _ = pad([q.segments for q in questions], 0)
    at = torch.arange(ids.shape[1])
    first, last = torch.tensor([q.passage for q in questions]).T[..., None]
    answers = torch.tensor([(q.start, q.end) for q in questions])
    return ids, mask, segments, (at >= first) & (at <= last), answers


def span_loss(model, ids, mask, segments, allowed, answers):
    """Mean cross-entropy of the right start and the right end among the passage's tokens."""
    scores = model(ids, mask, segment_ids=segments).masked_fill(~allowed[..., None], -torch.inf)
    return F.cross_entropy(scores, answers)


def best_spans(scores, allowed, longest=LONGEST):
    """The spans (batch, 2) with the largest sum of their two scores.

    scores (batch, tokens, 2): starts, ends; allowed (batch, tokens). A span ends where it starts
    or later, and has at most `longest` tokens.
    """
    n = scores.shape[1]
    scores = scores.masked_fill(~allowed[..., None], -torch.inf)
    pairs = scores[:, :, None, 0] + scores[:, None, :, 1]  # (batch, starts, ends)
    window = torch.ones(n, n, dtype=torch.bool, device=scores.device).triu().tril(longest - 1)
    best = pairs.masked_fill(~window, -torch.inf).flatten(1).argmax(1)
    return torch.stack([best // n, best % n], 1)


def span_scores(predicted, answers):
    """{"exact match", "F1"} of spans (batch, 2), first and last token, both included.

    A span counts by its place in the passage: the same words elsewhere are no match. F1 is the
    mean, over questions, of that of the tokens that both spans have.
    """
    exact = (predicted == answers).all(1)
    shared = (
        torch.minimum(predicted[:, 1], answers[:, 1])
        + 1
        - torch.maximum(predicted[:, 0], answers[:, 0])
    ).clamp(min=0)
    lengths = (predicted[:, 1] - predicted[:, 0]) + (answers[:, 1] - answers[:, 0]) + 2
    return {
        "exact match": exact.double().mean().item(),
        "F1": (2 * shared / lengths).double().mean().item(),
    }


@torch.no_grad()
def evaluate(model, questions, special):
    """`span_scores` of the model's best spans."""
    ids, mask, segments, allowed, answers = question_batch(questions, special)
    model.eval()
    return span_scores(best_spans(model(ids, mask, segment_ids=segments), allowed), answers)
