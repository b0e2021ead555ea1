"""What an encoder is examined in: classes of texts, tags of words, answers in a passage.

An exam brings a head for an encoder's body (`on`), a step's batch (`batch`), its loss, a score on
its test side, and the score of a rule that only counts tokens or words (`counting`): what a model
has to beat before it is said to have read. start.py fills them.
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.data.packing import pad
from llmbook.experiments.families import answers
from llmbook.experiments.families.family import Special
from llmbook.losses import IGNORED
from llmbook.models.bert import BertForQuestionAnswering, BertForTokenClassification

BATCH = 32


class Mean(nn.Module):
    """A class for a text, from the mean of an encoder's states: (batch, classes)."""

    reads_source = False

    def __init__(self, body, classes):
        super().__init__()
        self.body, self.output = body, nn.Linear(body.config.d_model, classes)

    def forward(self, ids, mask):
        """ids, mask (batch, tokens)."""
        weight = mask[..., None].to(self.output.weight.dtype)
        return self.output((self.body(ids, mask) * weight).sum(1) / weight.sum(1))


@dataclass(frozen=True)
class Texts:
    """Texts with one class each.

    train, test: [(ids, class)], ids without [CLS] and [SEP].
    """

    train: list
    test: list
    classes: int
    special: Special

    def on(self, encoder):
        """The model that learns it, on an encoder's body."""
        return Mean(encoder.body, self.classes)

    def batch(self, seed, step):
        """(ids, mask, targets) of a step."""
        return self._tensors(_drawn(self.train, seed, step))

    def _tensors(self, pairs):
        rows = [[self.special.cls, *ids, self.special.sep] for ids, _ in pairs]
        return *pad(rows, self.special.pad), torch.tensor([label for _, label in pairs])

    def loss(self, model, ids, mask, targets):
        """Mean cross-entropy."""
        return F.cross_entropy(model(ids, mask), targets)

    def score(self, model):
        """The share of right classes."""
        right = []
        for i in range(0, len(self.test), 100):
            ids, mask, targets = self._tensors(self.test[i : i + 100])
            right.append(model(ids, mask).argmax(-1) == targets)
        return torch.cat(right).double().mean().item()

    def counting(self):
        """The share right of naive Bayes: a class by how often each token stands in its texts."""
        counts = [Counter() for _ in range(self.classes)]
        for ids, label in self.train:
            counts[label].update(ids)
        known = len({token for count in counts for token in count})
        sizes = [sum(count.values()) + known for count in counts]
        texts = Counter(label for _, label in self.train)

        def weight(ids, label):
            return math.log(texts[label]) + sum(
                math.log((counts[label][t] + 1) / sizes[label]) for t in ids
            )

        said = [max(texts, key=lambda c: weight(ids, c)) for ids, _ in self.test]
        return sum(a == b for a, (_, b) in zip(said, self.test, strict=True)) / len(self.test)


@dataclass(frozen=True)
class Tags:
    """Texts with a tag for each word, at its first token.

    train, test: [(ids, tags, words)], tags as long as ids, IGNORED where no word begins; names: of
    the tags, the first one being "nothing". Where names begin with B- and I-, what is counted is
    whole names.
    """

    train: list
    test: list
    names: tuple
    special: Special

    def on(self, encoder):
        """The model that learns it, on an encoder's body."""
        return BertForTokenClassification.on(encoder, labels=self.names)

    def batch(self, seed, step):
        """(ids, mask, targets) of a step."""
        return self._tensors(_drawn(self.train, seed, step))

    def _tensors(self, rows):
        s = self.special
        ids, mask = pad([[s.cls, *ids, s.sep] for ids, _, _ in rows], s.pad)
        return ids, mask, pad([[IGNORED, *tags, IGNORED] for _, tags, _ in rows], IGNORED)[0]

    def loss(self, model, ids, mask, targets):
        """Mean cross-entropy over words."""
        return F.cross_entropy(
            model(ids, mask).flatten(0, 1), targets.flatten(), ignore_index=IGNORED
        )

    def score(self, model):
        """F1."""
        said = []
        for i in range(0, len(self.test), 100):
            ids, mask, targets = self._tensors(self.test[i : i + 100])
            for best, asked in zip(model(ids, mask).argmax(-1), targets >= 0, strict=True):
                said.append([self.names[t] for t in best[asked].tolist()])
        return f1(said, self._right())

    def counting(self):
        """F1 of giving each word the tag that it had most often."""
        seen = defaultdict(Counter)
        for _, tags, words in self.train:
            for tag, word in zip((t for t in tags if t != IGNORED), words, strict=True):
                seen[word.lower()][tag] += 1
        best = {word: self.names[count.most_common(1)[0][0]] for word, count in seen.items()}
        said = [[best.get(word.lower(), self.names[0]) for word in row[2]] for row in self.test]
        return f1(said, self._right())

    def _right(self):
        return [[self.names[t] for t in tags if t != IGNORED] for _, tags, _ in self.test]


@dataclass(frozen=True)
class Passages:
    """Questions of one kind of answers.py: new passages each step, unseen pairs in the test."""

    kind: str
    tokenizer: object
    special: Special

    loss = staticmethod(answers.span_loss)

    def on(self, encoder):
        """The model that learns it, on an encoder's body."""
        return BertForQuestionAnswering.on(encoder)

    def _made(self, n, **how):
        return answers.make_questions(n, self.kind, self.tokenizer, self.special, **how)

    def batch(self, seed, step):
        """What `answers.span_loss` takes."""
        made = self._made(BATCH, unseen=False, seed=f"{seed}/{step}")
        return answers.question_batch(made, self.special)

    def score(self, model):
        """The share of answers found exactly, of 600."""
        asked = self._made(600, unseen=True, seed=0)
        return answers.evaluate(model, asked, self.special)["exact match"]

    def counting(self):
        """The share right of saying the right words of any fact."""
        return 1 / 3


def _drawn(rows, seed, step):
    # not seeds.generator: the recorded exams were drawn so
    g = torch.Generator().manual_seed(1_000_003 * seed + step)
    return [rows[i] for i in torch.randint(len(rows), (BATCH,), generator=g).tolist()]


# --- names


def found_names(tags):
    """Names as (first word, last word, kind), from B-/I-/O tags."""
    out, start = set(), None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and not (tag == "I-" + start[1]):
            out.add((start[0], i - 1, start[1]))
            start = None
        if tag.startswith("B-"):
            start = (i, tag[2:])
    return out


def f1(predicted, right):
    """F1 over exact names of all posts, from pairs of tag lists.

    A prediction may be shorter than its post, where that didn't fit into the window: no name is
    found there, and those that are there are missed.
    """
    predicted, gold = ([found_names(tags) for tags in side] for side in (predicted, right))
    true_positives = sum(len(p & g) for p, g in zip(predicted, gold, strict=True))
    return 2 * true_positives / max(1, sum(map(len, predicted)) + sum(map(len, gold)))
