"""Which library does a piece of a docstring document? And how everything here is fine-tuned.

32 tokens of a docstring  → one of eight libraries
"""

import hashlib
import random
from dataclasses import dataclass

from llmbook.data import documentation
from llmbook.training.config import TrainConfig

LIBRARIES = ("asyncio", "email", "importlib", "logging", "tkinter", "turtle", "unittest", "xml")
PIECE = 32  # tokens of a docstring that a library is told by


@dataclass(frozen=True)
class Task:
    """Pairs (source, target): token ids of a piece, and of its library's name; two lists."""

    train: list
    test: list


def _held_out(name):
    """About a fifth of all names, the same on every machine."""
    return int(hashlib.sha256(f"task/{name}".encode()).hexdigest(), 16) % 5 == 0


def library_task(tokenizer, seed=0):
    """Pieces from the beginnings of docstrings; the same for the same seed and versions.

    Test pieces are from documents of their own, all from the corpus's training side.
    """
    sides = {True: [], False: []}
    for document in documentation("train"):
        label = document.name.split(".")[0]
        if label not in LIBRARIES:
            continue
        ids = tokenizer.encode(document.text, ())
        target = tokenizer.encode(" " + label)
        for start in range(0, min(len(ids), 4 * PIECE) - PIECE // 2, PIECE):
            sides[_held_out(document.name)].append((ids[start : start + PIECE], target))
    rng = random.Random(seed)
    rng.shuffle(sides[False])
    rng.shuffle(sides[True])
    return Task(sides[False], sides[True][:400])


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
