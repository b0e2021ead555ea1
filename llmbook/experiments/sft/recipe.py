"""The one recipe of all runs here: short, on packed conversations."""

import statistics

import torch

from llmbook.alignment import sft
from llmbook.data.packing import Windows
from llmbook.training import TrainConfig, train
from llmbook.training.log import Log

SEEDS = (1, 2, 3, 4, 5)
BATCH, ROW = 32, 128
ASKED = 32  # held-out questions a kind


def config_of(steps, seed, optimizer="muon", lr=3e-3, batch=BATCH):
    """Short: a fast rise of the rate, and a straight fall to 0."""
    return TrainConfig(
        steps=steps,
        batch_size=batch,
        optimizer=optimizer,
        lr=lr,
        weight_decay=0.05,
        schedule="linear",
        warmup=20,
        final_lr=0.0,
        log_every=10,
        evaluate_every=0,
        checkpoint_every=0,
        seed=seed,
    )


def fit(model, encoded, steps, seed, *, text=None, share=0.0, batch=BATCH, row=ROW, **config):
    """Train on conversations; the mean loss of the last tenth of the steps.

    text: a stream of old text, of which each step has rows beside its conversations, so that
    `share` of all rows are old text; every token of it counts.
    """
    batches = sft.Conversations(encoded, batch, length=row, seed=seed)
    if share:
        windows = Windows(text, ROW, seed)
        plain, batches = batches, lambda step: _with_text(plain(step), windows, step, share)
    history = train(
        model,
        batches,
        config_of(steps, seed, batch=batch, **config),
        loss=sft.sft_loss,
        log=Log(None, progress=False),
    )
    model.eval()
    last = history.losses[-max(1, len(history.losses) // 10) :]
    return statistics.fmean(last)


def _with_text(batch, windows, step, share):
    ids, targets, documents = batch
    n = max(1, round(len(ids) * share / (1 - share)))
    more, after = windows.batch(step, n)
    return (
        torch.cat([ids, more]),
        torch.cat([targets, after]),
        torch.cat([documents, torch.ones_like(more)]),
    )
