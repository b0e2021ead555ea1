"""Data from outside: functions with their summaries, and a public set of 1,100 tasks."""

import random
import statistics

import torch

from llmbook.alignment import sft
from llmbook.alignment.chat import encode, from_triplet
from llmbook.data import instructions, question_answers
from llmbook.evaluation import choice_rank
from llmbook.experiments.sft.recipe import fit
from llmbook.experiments.small_chat import start
from llmbook.seeds import number

CHOICES = 20  # summaries that the right one is ranked among
LONGEST = 220  # characters of a question with its summary
HELD_OUT = 100  # of the instructions


def pairs(split):
    """Questions about functions with their one-line summaries, the shorter ones: (text, text)."""
    found = [(q, a) for _, q, a in question_answers(split, "quick")]
    return [(q, a) for q, a in found if len(q) + len(a) < LONGEST]


def ranks(model, tokenizer, n=40):
    """The rank of a function's own summary among CHOICES by its likelihood, for n functions."""
    shown, found = pairs("validation")[: n + CHOICES], []
    for i, (question, own) in enumerate(shown[:n]):
        others = [answer for _, answer in shown[i + 1 :] + shown[:i]][: CHOICES - 1]
        found.append(choice_rank(model, tokenizer, question, [own, *others]))
    return found


def pairs_run(seed, steps=60):
    """Tune on pairs of the training side: ranks on the other side."""
    model, tokenizer = start(seed)
    shown = pairs("train")
    random.Random(number(seed, "pairs")).shuffle(shown)
    talks = [from_triplet(question, "", answer) for question, answer in shown[: steps * 16]]
    encoded = [encode(tokenizer, talk) for talk in talks]
    loss = fit(model, encoded, steps, seed, batch=16, row=model.max_len)
    return {"loss": loss, "ranks": ranks(model, tokenizer)}


def untuned():
    """The base model's ranks, in the template, before any tuning."""
    model, tokenizer = start(0)
    return {"ranks": ranks(model.eval(), tokenizer)}


@torch.no_grad()
def _nats(model, encoded):
    """Nats a token of the answers of some conversations."""
    parts = [encoded[i : i + 20] for i in range(0, len(encoded), 20)]
    return statistics.fmean(sft.sft_loss(model, *sft.collate(part)).item() for part in parts)


def tasks_run(seed, steps=60):
    """Tune on a public set of tasks with answers: nats a token of held-out answers."""
    model, tokenizer = start(seed)
    talks = [from_triplet(e["instruction"], e["input"], e["output"]) for e in instructions()]
    encoded = [encode(tokenizer, talk) for talk in talks]
    fits = [e for e in encoded if len(e.ids) <= model.max_len]
    random.Random(number(0, "people")).shuffle(fits)  # the same held-out ones for every seed
    held, train = fits[:HELD_OUT], fits[HELD_OUT:]
    before = _nats(model.eval(), held)
    fit(model, train, steps, seed, batch=16, row=model.max_len)
    return {
        "conversations": len(talks),
        "within the context": len(fits),
        "tokens": statistics.fmean(len(e.ids) for e in encoded),
        "nats before": before,
        "nats after": _nats(model, held),
    }
