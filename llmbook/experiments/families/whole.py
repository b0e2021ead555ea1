"""The encoder with whole windows from the start: `python -m llmbook record families_whole`.

The shipped encoder reads its first 600 steps in pieces of 32 tokens. This is the same run without
them, as far as `--steps`: is it the pieces that make its loss wait?
"""

import dataclasses

from llmbook.experiments.families.models import (
    RECIPE,
    first_steps,
    pretrain,
    read_corpus,
    shipped_families,
)
from llmbook.experiments.record import RECORDED

OUT = RECORDED / "families_whole.json"
EXACT = 20  # first steps whose loss is kept one by one


def curves(steps, seed=0):
    """{"validation": [[step, nats a token asked for], …], "first": losses of the first steps}."""
    train_ids, validation_ids, tokenizer, _ = read_corpus(shipped_families()[1])
    config = dataclasses.replace(
        first_steps(steps, seed=seed), evaluate_every=RECIPE.evaluate_every
    )
    texts = train_ids, validation_ids, tokenizer
    _, history = pretrain("encoder", *texts, config, whole_windows=True)
    return {
        "validation": [[step, round(loss, 4)] for step, loss in history.validation],
        "first": [round(loss, 4) for loss in history.losses[:EXACT]],
    }


# --- python -m llmbook record families_whole


def add_arguments(parser):
    """How far, and from which start."""
    parser.add_argument("--steps", type=int, default=1500, help="updates")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")


def run(options, record):
    """Train, and write both curves."""
    record.write_whole(curves(options.steps, options.seed))
