"""Three tasks for three families: understand, write, transform; each a pair (source, target).

    library      32 tokens of a docstring   → which library it documents      exact match
    signature    nothing                    → a Python signature, sampled      parses, and is new
    camel        add_done_callback          → AddDoneCallback                 exact match

How a family answers: the decoder continues `source [SEP]`, the encoder–decoder writes its target,
and the encoder fills a canvas of [MASK] behind `[CLS] source [SEP]`, place by place.

`python -m llmbook.experiments.families.table` measures all of it.
"""

import ast
import hashlib
import random
import re
from collections import Counter
from dataclasses import dataclass

import torch

from llmbook.data import documentation
from llmbook.data.packing import pad
from llmbook.decoding import generate
from llmbook.losses import IGNORED
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
    if name not in TASKS:
        raise ValueError(f"name must be one of {', '.join(TASKS)}: got {name!r}")
    return {"library": _library, "signature": _signature, "camel": _camel}[name](tokenizer, seed)


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


# --- how each family is asked


def task_batch(family, pairs, special, canvas, generator=None):
    """A family's batch from pairs: the tensors that `task_loss` takes, a tuple."""
    if family == "encoder_decoder":
        inputs, mask = pad([source or [special.cls] for source, _ in pairs], special.pad)
        targets, _ = pad([[*target, special.end] for _, target in pairs], IGNORED)
        return inputs, targets, mask
    if family == "decoder":
        rows = [[*source, special.sep, *target, special.end] for source, target in pairs]
        ids, _ = pad(rows, special.pad)
        targets = ids[:, 1:].clone()
        for i, (source, _) in enumerate(pairs):
            targets[i, : len(source)] = IGNORED
            targets[i, len(rows[i]) - 1 :] = IGNORED
        return ids[:, :-1], targets
    rows, answers = [], []
    for source, target in pairs:
        filled = [*target, special.end] + [special.pad] * (canvas - len(target) - 1)
        hide = torch.rand(canvas, generator=generator) < torch.rand((), generator=generator)
        hide[torch.randint(canvas, (), generator=generator)] = True
        shown = [special.mask if h else t for t, h in zip(filled, hide.tolist(), strict=True)]
        head = [special.cls, *source, special.sep]
        rows.append([*head, *shown])
        asked = [t if h else IGNORED for t, h in zip(filled, hide.tolist(), strict=True)]
        answers.append([IGNORED] * len(head) + asked)
    inputs, mask = pad(rows, special.pad)
    return inputs, pad(answers, IGNORED)[0], mask


def task_loss(model, *batch):
    """The loss of any of the three on a batch of `task_batch`, in nats a token."""
    return model.loss(*batch)


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


def finetune(model, family, task, special, *, steps, batch_size=32, lr=1e-3, seed=0):
    """Teach a model a task, in place; returns the `History`."""
    order = torch.Generator().manual_seed(seed)
    places = torch.randint(len(task.train), (steps, batch_size), generator=order).tolist()

    def batch_at(step):
        g = torch.Generator().manual_seed(1000 * seed + step)
        return task_batch(family, [task.train[i] for i in places[step]], special, task.canvas, g)

    config = quick_config(steps, seed, lr, batch_size)
    return train(model, batch_at, config, loss=task_loss, log=Log(progress=False))


@torch.no_grad()
def answer(model, family, sources, special, canvas, *, sampled=False, seed=0):
    """What a model answers to sources (lists of ids): lists of ids, up to their end."""
    device = next(model.parameters()).device
    how = {
        "temperature": 1.0 if sampled else 0.0,
        "seed": seed,
        "max_new_tokens": canvas,
        "eos_id": special.end,
        "pad_id": special.pad,
    }
    if family == "encoder_decoder":
        ids, mask = pad([source or [special.cls] for source in sources], special.pad)
        rows = generate(model, ids.to(device), mask.to(device), start_id=special.pad, **how)
        rows = rows[:, 1:]
    elif family == "decoder":
        prompts = [[*source, special.sep] for source in sources]
        longest = max(map(len, prompts))
        ids = torch.tensor([[special.pad] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        rows = generate(model, ids.to(device), mask.to(device), **how)[:, longest:]
    else:
        rows = _fill(model, sources, special, canvas, sampled, seed)
    return [_until(row, special.end) for row in rows.tolist()]


def _fill(model, sources, special, canvas, sampled, seed):
    """The encoder's answers: one place of each canvas a pass, drawn, or the surest one."""
    model.eval()
    device = next(model.parameters()).device
    dice = torch.Generator().manual_seed(seed)
    ids, mask = pad(
        [[special.cls, *s, special.sep] + [special.mask] * canvas for s in sources], special.pad
    )
    rows = torch.arange(len(sources))
    at = torch.tensor([[len(s) + 2 + i for i in range(canvas)] for s in sources])
    for _ in range(canvas):
        logits = model(ids.to(device), mask.to(device)).float().cpu()
        p = logits[rows[:, None], at]
        p[..., special.mask] = -torch.inf
        p = p.softmax(-1)
        hidden = ids[rows[:, None], at] == special.mask
        sure = torch.rand(hidden.shape, generator=dice) if sampled else p.max(-1).values
        place = sure.masked_fill(~hidden, -1.0).argmax(1)
        chosen = p[rows, place]
        token = chosen.argmax(-1)
        if sampled:
            token = torch.multinomial(chosen, 1, generator=dice)[:, 0]
        ids[rows, at[rows, place]] = token
    return ids[rows[:, None], at]


def _until(row, end):
    return row[: row.index(end)] if end in row else row


def measure(model, family, task, tokenizer, special, seed=0):
    """The model's score on a task, and its first answers as text."""
    answers = answer(
        model,
        family,
        [source for source, _ in task.test],
        special,
        task.canvas,
        sampled=task.sampled,
        seed=seed,
    )
    return task.score(answers, tokenizer), [tokenizer.decode(a) for a in answers[:6]]
