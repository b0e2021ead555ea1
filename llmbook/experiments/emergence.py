"""One task under several measures: sums that small models learn, and published scores.

Where an ability seems to begin depends on the measure. The sums have none of the plateaus that
carries bring; the published table has one task under exact match and under BLEU.
"""

import math

import torch
from torch import nn

from llmbook.data import emergence
from llmbook.losses import IGNORED
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.training.config import TrainConfig
from llmbook.training.log import Log
from llmbook.training.loop import train

SUM_WIDTHS = (2, 3, 4, 5, 6, 8)
SUM_DIGITS, SUM_STEPS = 6, 400


def sums(n, generator):
    """Sums of six digits in which no column carries: ids (n, 3 · SUM_DIGITS), digits 0 to 9.

    Column by column: a₁ b₁ a₂ b₂ …, then the digits of the sum.
    """
    pairs = torch.tensor([(a, b) for a in range(10) for b in range(10 - a)])
    columns = pairs[torch.randint(len(pairs), (n, SUM_DIGITS), generator=generator)]
    return torch.cat([columns.flatten(1), columns.sum(-1)], 1)


def run_sums(width, seed=0, steps=SUM_STEPS):
    """One run of `sums`: a GPT of one block and one head, judged by the same 2,000 answers.

    loss: nats a digit of the answer; digit: share of digits that are the likeliest; match: share
    of answers whose six digits all are.
    """

    # not seeds.generator: the recorded runs were drawn so
    def asked(n, seed):
        ids = sums(n, torch.Generator().manual_seed(seed))
        inputs, targets = ids[:, :-1], ids[:, 1:].clone()
        targets[:, : 2 * SUM_DIGITS - 1] = IGNORED
        return inputs, targets

    torch.manual_seed(seed)
    model = GPT(GPTConfig(10, 3 * SUM_DIGITS, width, 1, 1))
    config = TrainConfig(
        steps=steps,
        batch_size=64,
        optimizer="muon",
        lr=0.02,
        schedule="linear",
        warmup=min(20, steps),
        final_lr=0.0,
        precision="float32",
        evaluate_every=0,
        checkpoint_every=0,
        seed=seed,
    )
    train(model, lambda step: asked(64, 1_000_000 * seed + step), config, log=Log(progress=False))
    model.eval()
    inputs, targets = asked(2000, 10**9)
    targets = targets[:, -SUM_DIGITS:]
    with torch.no_grad():
        logits = model(inputs)[:, -SUM_DIGITS:]
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    right = (logits.argmax(-1) == targets).double()
    return {
        "width": width,
        "seed": seed,
        "parameters": model.n_parameters,
        "loss": round(loss, 5),
        "digit": round(right.mean().item(), 5),
        "match": round(right.prod(-1).mean().item(), 5),
    }


def public_scores():
    """60 base models in half decades of compute: medians under two measures, and a range.

    {"rows": [{"flops": middle of the half decade, "models", "match", "bleu": medians of one task,
    "addition": [least, most]}]}. Needs the set "emergence".
    """
    halves = {}
    for row in emergence():
        halves.setdefault(math.floor(2 * math.log10(row["flops"])), []).append(row)
    rows = []
    for half, models in sorted(halves.items()):
        column = {key: sorted(m[key] for m in models) for key in ("match", "bleu", "addition")}
        medians = {
            key: round(torch.tensor(column[key]).quantile(0.5).item(), 4)
            for key in ("match", "bleu")
        }
        ends = [column["addition"][0], column["addition"][-1]]
        middle = 10 ** (half / 2 + 0.25)
        rows.append({"flops": middle, "models": len(models), **medians, "addition": ends})
    return {"rows": rows}
