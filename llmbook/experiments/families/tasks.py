"""Three tasks for three families: understand, write, transform; each a pair (source, target).

    library      32 tokens of a docstring   → which library it documents      exact match
    signature    nothing                    → a Python signature, sampled      parses, and is new
    camel        add_done_callback          → AddDoneCallback                 exact match

How each family is asked and answers: family.py. `python -m llmbook record families_table` measures
all of it.
"""

import ast
import hashlib
import random
import re
from collections import Counter
from dataclasses import dataclass

import torch

from llmbook.checks import one_of
from llmbook.data import documentation
from llmbook.training.config import TrainConfig
from llmbook.training.log import Log
from llmbook.training.loop import train

LIBRARIES = ("asyncio", "email", "importlib", "logging", "tkinter", "turtle", "unittest", "xml")
TASKS = ("library", "signature", "camel")
_PIECE = 32  # tokens of a docstring that a library is told by
_LONGEST = 20  # tokens of a target


@dataclass(frozen=True)
class Task:
    """Pairs (source, target) of token ids, and how an answer is judged.

    train, test: lists of (source, target), lists of ids; canvas: places that the longest target
    and its end need. sampled: whether answers are drawn rather than the likeliest.
    """

    name: str
    train: list
    test: list
    canvas: int
    sampled: bool = False

    def score(self, answers, tokenizer):
        """The share of right answers: lists of ids without their end."""
        if self.name != "signature":
            right = [a == target for a, (_, target) in zip(answers, self.test, strict=True)]
            return sum(right) / len(right)
        known = {tokenizer.decode(target) for _, target in self.train}
        written = [tokenizer.decode(a) for a in answers]
        return sum(is_signature(text) and text not in known for text in written) / len(written)


def is_signature(text):
    """Whether a text is a function's name and its parameters, at least one, as Python has them."""
    try:
        found = ast.parse(f"def {text}: pass").body
    except (SyntaxError, ValueError):
        return False
    if len(found) != 1 or not isinstance(found[0], ast.FunctionDef) or "\n" in text:
        return False
    a = found[0].args
    return bool(a.posonlyargs or a.args or a.kwonlyargs or a.vararg or a.kwarg)


def make_task(name, tokenizer, seed=0):
    """One of the three tasks, from the documentation; the same for the same seed and versions."""
    makers = {"library": _library, "signature": _signature, "camel": _camel}
    return makers[one_of("name", name, TASKS)](tokenizer, seed)


def _held_out(name):
    """About a fifth of all names, the same on every machine."""
    return int(hashlib.sha256(f"task/{name}".encode()).hexdigest(), 16) % 5 == 0


def _library(tokenizer, seed):
    sides = {True: [], False: []}
    for document in documentation("train"):
        label = document.name.split(".")[0]
        if label not in LIBRARIES:
            continue
        ids = tokenizer.encode(document.text, ())
        target = tokenizer.encode(" " + label)
        for start in range(0, min(len(ids), 4 * _PIECE) - _PIECE // 2, _PIECE):
            sides[_held_out(document.name)].append((ids[start : start + _PIECE], target))
    return _task("library", sides[False], sides[True], seed)


def _signature(tokenizer, seed):
    texts = {
        document.name.split(".")[-1] + document.signature
        for document in documentation("train")
        if document.signature
    }
    encoded = [tokenizer.encode(text, ()) for text in sorted(texts) if is_signature(text)]
    pairs = [([], ids) for ids in encoded if len(ids) < _LONGEST]
    return _task("signature", pairs, [([], [])] * 200, seed, sampled=True)


def _camel(tokenizer, seed):
    counts = Counter()
    for document in documentation("train"):
        counts.update(re.findall(r"[a-z]{3,8}", document.name.split(".")[-1].lower()))
    words = [word for word, _ in counts.most_common(200)]
    rng = random.Random(seed)
    names = list(
        dict.fromkeys(tuple(rng.choices(words, k=rng.choice((2, 2, 3)))) for _ in range(8000))
    )
    sides = {True: [], False: []}
    for name in names:
        source = tokenizer.encode("_".join(name), ())
        target = tokenizer.encode("".join(word.capitalize() for word in name), ())
        if len(target) < _LONGEST:
            sides[_held_out("_".join(name))].append((source, target))
    return _task("camel", sides[False], sides[True], seed)


def _task(name, train, test, seed, sampled=False):
    rng = random.Random(seed)
    rng.shuffle(train)
    if not sampled:
        rng.shuffle(test)
    canvas = 1 + max(len(target) for _, target in train)
    return Task(name, train, test[:400], canvas, sampled)


# --- fine-tuning


def quick_config(steps, seed, lr=1e-3, batch_size=32):
    """How everything here is fine-tuned: AdamW, a short warm-up, then a straight line to 0."""
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        schedule="linear",
        final_lr=0.0,
        warmup=min(20, max(1, steps // 5)),
        weight_decay=0.01,
        precision="float32",
        log_every=max(1, steps // 10),
        evaluate_every=0,
        checkpoint_every=0,
        seed=seed,
    )


def finetune(model, family, task, *, steps, batch_size=32, lr=1e-3, seed=0):
    """Train a model of a `Family` on a task, in place; returns the `History`."""
    draw = torch.Generator().manual_seed(seed)
    places = torch.randint(len(task.train), (steps, batch_size), generator=draw).tolist()

    def batch_at(step):
        pairs = [task.train[i] for i in places[step]]
        # not seeds.generator: the recorded table was drawn so, though step 1000 of seed 0 and
        # step 0 of seed 1 hide the same places
        draw = torch.Generator().manual_seed(1000 * seed + step)
        return family.task_batch(pairs, task.canvas, draw)

    config = quick_config(steps, seed, lr, batch_size)
    return train(model, batch_at, config, log=Log(progress=False))


def evaluate(model, family, task, tokenizer, seed=0):
    """The model's score on a task, and its first answers as text."""
    sources = [source for source, _ in task.test]
    answers = family.answer(model, sources, task.canvas, sampled=task.sampled, seed=seed)
    return task.score(answers, tokenizer), [tokenizer.decode(a) for a in answers[:6]]
