"""What alignment is measured by, defined once: exact answers by kind, form, forgetting, intervals.

    exact       share of held-out instructions whose greedy reply is the answer, and ended
    form        share of replies that are not even of the answer's form, or did not end
    forgetting  nats a token on the base model's own validation text

Every model is asked the same held-out questions, so two models are compared question by question:
the interval of a difference is that of the paired differences. A share over questions says how
sure one is of this model; over seeds, how sure one is of the recipe.
"""

import math
import statistics
from dataclasses import dataclass

import torch

from llmbook import checks
from llmbook.alignment.chat import encode, reply
from llmbook.alignment.sft import collate
from llmbook.data.corpus import documentation
from llmbook.data.packing import pack
from llmbook.data.verifiable import SEEN, Example, examples
from llmbook.losses import answer_log_probs
from llmbook.training.evaluate import stream_nats

EXAMINED = 64  # held-out questions a kind, unless said
Z95 = 1.959964  # two-sided 95% of the normal distribution


# --- exact answers


@dataclass(frozen=True)
class Answered:
    """A question with the reply that a model gave."""

    example: Example
    text: str
    ended: bool

    @property
    def exact(self):
        """Is it the answer, and did it end there?"""
        return self.ended and self.example.check(self.text)

    @property
    def well_formed(self):
        """Did it end, and look like an answer to this kind of question?"""
        return self.ended and self.example.well_formed(self.text)


@dataclass(frozen=True)
class Report:
    """All replies of one examination: a list of `Answered`."""

    answers: list

    def exact(self, kind=None):
        """Share of exact answers, of a kind or of all: 0 to 1."""
        return statistics.fmean(a.exact for a in self.of(kind))

    def errors_of_form(self, kind=None):
        """Share of replies that are not of the answer's form, or did not end."""
        return statistics.fmean(not a.well_formed for a in self.of(kind))

    def of(self, kind):
        """The answers of a kind, or all."""
        found = [a for a in self.answers if kind in (None, a.example.kind)]
        if not found:
            raise ValueError(f"kind must be one that was examined: got {kind!r}")
        return found

    @property
    def kinds(self):
        """Kinds in the order in which they were examined."""
        return list(dict.fromkeys(a.example.kind for a in self.answers))

    def by_kind(self):
        """{kind: share of exact answers}."""
        return {kind: self.exact(kind) for kind in self.kinds}

    def interval(self, kind=None):
        """Share of exact answers with its 95% interval by Wilson: (share, low, high)."""
        found = self.of(kind)
        return wilson(sum(a.exact for a in found), len(found))


def questions(kinds=SEEN, n=EXAMINED, *, level=None, wording=None, seed=0):
    """The held-out questions of some kinds: n each, the same ones for every model."""
    return [
        example
        for kind in kinds
        for example in examples(kind, n, seed=seed, side="held-out", level=level, wording=wording)
    ]


def evaluate(model, tokenizer, asked, *, before=(), **settings):
    """Ask a model questions, `Example`s, and keep the replies: a `Report`.

    before: messages that stand before each question, a system's words or worked examples.
    settings: `reply`'s; greedy when none is given.
    """
    conversations = [[*before, *example.messages[:-1]] for example in asked]
    replies = reply(model, tokenizer, conversations, **settings)
    return Report([Answered(e, r.text, r.ended) for e, r in zip(asked, replies)])


# --- how sure


def wilson(right, n):
    """Share right / n with its 95% interval by Wilson's score: (share, low, high).

    Holds near 0 and 1, where share ± 2 standard errors leaves the range. Source: Wilson 1927.
    """
    checks.whole("n", n, least=1)
    checks.whole("right", right, least=0, most=n)
    p, z2 = right / n, Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return p, max(0.0, middle - half), min(1.0, middle + half)


def paired_difference(a, b):
    """How much better b is than a on the same questions: (difference, low, high), 95%.

    a, b: `Report`s of the same questions in the same order, or lists of numbers, such as one score
    a seed. The interval is that of the mean of the differences, by Student's t: what varies from
    question to question alike for both cancels. Raises ValueError for other questions, or one.
    """
    if isinstance(a, Report) and isinstance(b, Report):
        if [x.example for x in a.answers] != [x.example for x in b.answers]:
            raise ValueError("a and b must be reports of the same questions in the same order")
        a, b = ([float(x.exact) for x in report.answers] for report in (a, b))
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"a and b must be two or more pairs: got {len(a)} and {len(b)}")
    differences = [y - x for x, y in zip(a, b)]
    mean = statistics.fmean(differences)
    half = student_t95(len(differences) - 1) * statistics.stdev(differences)
    half /= math.sqrt(len(differences))
    return mean, mean - half, mean + half


def student_t95(freedom):
    """The two-sided 95% quantile of Student's t, by the series in 1/freedom; exact for 1 and 2.

    Within 0.2% from 3 degrees of freedom on. Source: Abramowitz and Stegun 26.7.5.
    """
    checks.whole("freedom", freedom, least=1)
    if freedom < 3:
        return (12.7062, 4.30265)[freedom - 1]
    z, n = Z95, freedom
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / n**power for power, term in enumerate(terms))


# --- by likelihood, in place of generation


@torch.no_grad()
def choice_rank(model, tokenizer, prompt, choices, *, mean=True):
    """Rank of the first of several answers by its likelihood, from 1: the best.

    prompt: a text that a user writes; choices: texts, the right one first. mean: of −log p a
    token, as a sum favours short answers. A model can rank what it cannot write.
    """
    if len(choices) < 2:
        raise ValueError(f"choices must be two or more: got {len(choices)}")
    asked = [{"role": "user", "content": prompt}]
    batch = [
        encode(tokenizer, [*asked, {"role": "assistant", "content": choice}]) for choice in choices
    ]
    ids, targets, documents = collate(batch)
    scores = answer_log_probs(model, ids, targets, documents > 0)
    if mean:
        scores = scores / (targets >= 0).sum(-1)
    return 1 + int((scores > scores[0]).sum())


# --- forgetting, contamination


def base_text(tokenizer, tokens=20_000):
    """Tokens of the base model's own validation text: a stream, int32 (tokens,).

    The documentation that is on every machine, the part read at `quick`, with the base model's
    ids: the same for a tokenizer that grew by special tokens. Of a document the beginning, so that
    no long list counts as much as a hundred functions.
    """
    documents = [document.text for document in documentation("validation", "quick")]
    end = tokenizer.special_tokens["<|endoftext|>"]
    return pack((tokenizer.encode(text, ())[:300] for text in documents), end)[:tokens]


def base_nats(model, stream, *, length=256):
    """Nats a token on the base model's text: what forgetting raises."""
    return stream_nats(model, stream, min(length, model.max_len or length))


def contaminated(asked, trained, *, n=12):
    """Which of the questions asked share n characters in a row of their input with training data.

    asked, trained: `Example`s. Returns those examples of `asked`. Inputs shorter than n characters
    are compared whole. White space and case don't count. Finds planted copies, and copies with
    another wording; not a paraphrase.
    """
    checks.whole("n", n, least=1)
    seen = set()
    for example in trained:
        text = _plain(example.input)
        seen.add((example.kind, text))
        seen.update((example.kind, text[i : i + n]) for i in range(len(text) - n + 1))
    found = []
    for example in asked:
        text = _plain(example.input)
        parts = [text] if len(text) < n else [text[i : i + n] for i in range(len(text) - n + 1)]
        if any((example.kind, part) in seen for part in parts):
            found.append(example)
    return found


def _plain(text):
    return "".join(text.lower().split())
