"""Small models in many sizes: the sweep behind the chapter on scaling laws.

    rates    each size at four learning rates, on 0.5 M bytes: the best one is used from then on
    sweep    each size on 0.5 to 2 M bytes of documentation, the smallest on 4 M too; each run has
             a schedule of its own
    ngram    the model to beat: Kneser–Ney, counted on the same bytes
    seeds    one point of the sweep with other seeds: what a difference means
    widths   widths 16 to 64 at several rates, with standard and with maximal-update rules
    repeat   some sizes for 0.25 M bytes: twenty times over 12,500, or once over all
    students a small model taught by the text, and by the book's own model on the same text
    sums     widths 2 to 8 on sums of six digits without carry: one task, three measures
    public   published scores of base models by compute, summed up (where the tables are at hand)
    again    the cheaper points of the sweep with four more seeds

A token is a byte. In 384 subwords these models stay at the statistics of pairs of tokens, at 3.5
nats, until they have read a million, and on the way from there to longer contexts their loss
follows no power law; in bytes the way is smooth from half a million on.

Every run is a function of its key, so that a killed recording goes on with the next key.
`python -m llmbook record scaling` records all of it;
`--minutes` stops it after the run in which they are over, and the next call goes on.
"""

import json
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from llmbook.data import available, documentation
from llmbook.data.packing import Windows, pack
from llmbook.experiments.emergence import SUM_WIDTHS, public_scores, run_sums
from llmbook.experiments.record import RECORDED
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.pretrained import SHIPPED, load
from llmbook.ngram import KneserNey
from llmbook.tokenization import BPETokenizer
from llmbook.training.config import TrainConfig
from llmbook.training.evaluate import validation_loss
from llmbook.training.log import Log
from llmbook.training.loop import train

OUT, GOES_ON = RECORDED / "scaling_runs.json", True
CONTEXT, BATCH = 32, 32  # tokens of a window, windows of a batch
# width: layers; heads of 16 throughout
SIZES = {16: 1, 24: 1, 32: 2, 48: 2, 64: 3, 96: 3}
TOKENS = (500_000, 1_000_000, 2_000_000, 4_000_000)
LONG, LONG_UP_TO = 4_000_000, 24  # the longest texts are read by sizes up to this width
AGAIN, AGAIN_UP_TO = (1, 2, 3, 4), (48, 1_000_000)  # seeds; largest width and tokens repeated
RATES = (0.01, 0.02, 0.04, 0.08)
TUNED_ON = 500_000  # tokens on which the rates are compared
SEEDS = (1, 2, 3, 4, 5)
SEEDS_AT = (24, 500_000)
WIDTHS = (16, 32, 64)
WIDTH_RATES = tuple(2.0**k for k in range(-9, -4))
WIDTH_TOKENS = 100_000
ORDERS = (3, 6)
REPEATED = (12_500, 250_000)  # tokens of the texts that `repeat` reads
REPEAT_SIZES = (24, 32, 48)
REPEAT_TOKENS = 250_000
STUDENT_TOKENS = 50_000
STUDENT_RATE = 0.02
WARMUP = 0.05  # share of the steps
HELD_OUT = 4096  # windows of held-out text


@dataclass(frozen=True)
class Text:
    """The corpus as ids: two streams, the vocabulary's size, and what a record says of it."""

    train: torch.Tensor
    validation: torch.Tensor
    vocab_size: int
    about: dict


def read_text(size="full"):
    """The documentation in bytes, a zero before and after each document."""
    sides = [documentation(split, size) for split in ("train", "validation")]
    streams = [
        pack((np.frombuffer(document.text.encode(), np.uint8) for document in side), 0)
        for side in sides
    ]
    about = {"train": sides[0].card(), "validation": sides[1].card(), "tokens": len(streams[0])}
    return Text(*streams, 256, about)


def read_subwords(size="quick"):
    """The documentation in the small model's 384 subwords: what it can teach."""
    tokenizer = BPETokenizer.load(SHIPPED / "small")
    sides = [documentation(split, size) for split in ("train", "validation")]
    streams = [pack(tokenizer.encode(document.text, ()) for document in side) for side in sides]
    about = {"train": sides[0].card(), "validation": sides[1].card(), "tokens": len(streams[0])}
    return Text(*streams, len(tokenizer), about)


def build(width, layers, vocab_size, seed=0, tied=False):
    """A GPT of heads of 16, with fresh weights."""
    torch.manual_seed(seed)
    config = GPTConfig(vocab_size, CONTEXT, width, layers, max(1, width // 16), tied=tied)
    return GPT(config)


def parameters(model):
    """Parameters by what they are for: those of the blocks, and those of tables and head."""
    blocks = sum(p.numel() for p in model.blocks.parameters())
    return {"blocks": blocks, "embeddings": model.n_parameters - blocks}


def config_of(tokens, lr, seed=0):
    """How one run trains: one pass over `tokens`, the rate rising for 5% and falling to zero."""
    steps = max(1, tokens // (CONTEXT * BATCH))
    return TrainConfig(
        steps=steps,
        batch_size=BATCH,
        optimizer="muon",
        lr=lr,
        schedule="linear",
        warmup=max(1, round(WARMUP * steps)),
        final_lr=0.0,
        precision="float32",
        log_every=max(1, steps // 4),
        evaluate_every=0,
        checkpoint_every=0,
        seed=seed,
    )


def run_point(text, width, layers, tokens, lr, seed=0, source=None):
    """Train one model and measure it: the loss on held-out text, in nats a token."""
    model = build(width, layers, text.vocab_size, seed)
    windows = Windows(text.train if source is None else source, CONTEXT, seed)
    config = config_of(tokens, lr, seed)
    history = train(
        model, lambda step: windows.batch(step, BATCH), config, log=Log(progress=False)
    )
    tail = history.losses[-max(1, len(history.losses) // 20) :]
    return {
        "width": width,
        "layers": layers,
        "tokens": config.steps * BATCH * CONTEXT,
        "lr": lr,
        "seed": seed,
        **parameters(model),
        "loss": round(held_out(model, text), 5),
        **exact_matches(model, text),
        "train_loss": round(sum(tail) / len(tail), 5),
        "seconds": round(history.seconds, 1),
    }


def run_student(text, distilled, seed=0, tokens=STUDENT_TOKENS, width=48):
    """One run of `students`: its targets are the text's tokens, or the small model's softmax.

    loss = −Σ_v q(v) log p(v), mean over places; q is 1 at the next token, or the teacher's. All
    else is equal. Source: Hinton et al. 2015, at temperature 1.
    """
    teacher = load("small") if distilled else None

    def taught(model, input_ids, targets):
        with torch.no_grad():
            q = teacher(input_ids).softmax(-1)
        return -(q * model(input_ids).log_softmax(-1)).sum(-1).mean()

    model = build(width, SIZES[width], text.vocab_size, seed)
    windows, config = Windows(text.train, CONTEXT, seed), config_of(tokens, STUDENT_RATE, seed)
    train(
        model,
        lambda step: windows.batch(step, BATCH),
        config,
        loss=taught if distilled else None,
        log=Log(progress=False),
    )
    loss = round(held_out(model, text), 5)
    return {"taught by": "the model" if distilled else "the text", "seed": seed, "loss": loss}


def run_ngram(text, order, tokens):
    """Kneser–Ney on the first `tokens` of the text: nats a token on the windows' held-out text.

    entries: the n-grams it stores, of all lengths. It reads on from window to window, so that its
    context is never cut.
    """
    model = KneserNey(text.train[:tokens].numpy(), text.vocab_size, order)
    loss = model.nats(text.validation[: HELD_OUT * CONTEXT].numpy())
    entries = sum(len(level.keys) for level in model.levels)
    return {"order": order, "tokens": tokens, "entries": entries, "loss": round(loss, 5)}


def held_out(model, text):
    """Loss on 4,096 windows spread over the validation text, always the same: nats a token."""
    model.eval()
    return validation_loss(model, text.validation, CONTEXT, windows=HELD_OUT, batch_size=128)


@torch.no_grad()
def exact_matches(model, text):
    """Share of places in held-out text where the next 1, 2, 4, 8 tokens are all the likeliest.

    The same windows as in `held_out`, so that a smooth measure and sharp ones tell of the
    same predictions: "match_1" is the accuracy a token.
    """
    available = (len(text.validation) - 1) // CONTEXT
    count = min(HELD_OUT, available)
    starts = torch.arange(count) * available // count * CONTEXT
    windows = text.validation[starts[:, None] + torch.arange(CONTEXT + 1)].long()
    parts = [model(rows[:, :-1]).argmax(-1) == rows[:, 1:] for rows in windows.split(128)]
    right = torch.cat(parts).double()
    spans = {k: right.unfold(1, k, 1).prod(-1).mean().item() for k in (1, 2, 4, 8)}
    return {f"match_{k}": round(share, 5) for k, share in spans.items()}


# --- the maximal-update rules


def width_groups(model, lr, base=WIDTHS[0], maximal=True):
    """AdamW's parameter groups; with maximal-update rules, weights are started anew for them.

    With the width multiplier m = width / base, a hidden matrix starts with deviation ∝ 1/√width
    and learns at lr / m; the output matrix starts at zero and learns at lr / m; tables, norms and
    biases as at the base width. With standard rules every tensor learns at lr and every matrix
    starts with deviation 0.02. Source: Yang et al. 2022, table 8.
    """
    if not maximal:
        return [{"params": list(model.parameters()), "lr": lr}]
    multiplier = model.config.d_model / base
    hidden = [p for p in model.blocks.parameters() if p.ndim == 2]
    with torch.no_grad():
        for matrix in hidden:
            matrix.mul_(1 / math.sqrt(multiplier))  # 0.02 at the base width
        nn.init.zeros_(model.head.weight)
    slow = [*hidden, model.head.weight]
    ids = {id(p) for p in slow}
    rest = [p for p in model.parameters() if id(p) not in ids]
    return [{"params": slow, "lr": lr / multiplier}, {"params": rest, "lr": lr}]


def run_width(text, width, lr, maximal, tokens=WIDTH_TOKENS, seed=0):
    """One run of `widths`: two layers, an output matrix of its own; NaN where it diverged."""
    model = build(width, 2, text.vocab_size, seed)
    optimizer = torch.optim.AdamW(
        width_groups(model, lr, maximal=maximal), betas=(0.9, 0.95), weight_decay=0.0
    )
    windows, config = Windows(text.train, CONTEXT, seed), config_of(tokens, lr, seed)
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(config.steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * config.factor(step)
        loss = model.loss(*windows.batch(step, BATCH))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    loss = held_out(model, text)
    return {
        "width": width,
        "rules": "maximal update" if maximal else "standard",
        "lr": lr,
        "loss": round(loss, 5) if math.isfinite(loss) else None,
    }


# --- all of it


def best_rates(rates):
    """{width: the learning rate with the lowest loss}, from the runs of `rates`."""
    best = {}
    for run in rates:
        if run["width"] not in best or run["loss"] < best[run["width"]]["loss"]:
            best[run["width"]] = run
    return {width: run["lr"] for width, run in best.items()}


class OutOfTimeError(Exception):
    """The minutes of a recording are over; what it made so far is kept."""


def record(done, save, text=None, subwords=None, say=print, until=math.inf):
    """Make what is missing of every part; `done` {part: {key: run}} is filled, `save()` keeps it.

    text, subwords: `read_text()` and `read_subwords()` when None. until: `time.monotonic()` after
    which no further run begins. At the end `done` holds what was asked for, in this order; runs
    of another key (a rate that was the best of fewer) are dropped. Raises OutOfTimeError.
    """
    text = read_text() if text is None else text
    subwords = read_subwords() if subwords is None else subwords
    asked = {}

    def make(part, key, function, *args, **options):
        runs = done.setdefault(part, {})
        if key not in runs:
            if time.monotonic() > until:
                raise OutOfTimeError(f"{part} {key} is next")
            runs[key] = function(*args, **options)
            save()
            say(f"{part} {key}: {runs[key].get('loss', 'done')}")
        asked.setdefault(part, {})[key] = runs[key]

    for width, layers in SIZES.items():
        for lr in RATES:
            make("rates", f"{width}/{lr}", run_point, text, width, layers, TUNED_ON, lr)
    rates = best_rates(asked["rates"].values())
    for tokens in TOKENS:
        for width, layers in SIZES.items():
            if tokens >= LONG and width > LONG_UP_TO:
                continue
            key = f"{width}/{tokens}/{rates[width]}"
            make("sweep", key, run_point, text, width, layers, tokens, rates[width])
    for tokens in TOKENS:
        for order in ORDERS:
            make("ngram", f"{order}/{tokens}", run_ngram, text, order, tokens)
    width, tokens = SEEDS_AT
    for seed in SEEDS:
        where = (width, SIZES[width], tokens, rates[width])
        make("seeds", f"{seed}/{rates[width]}", run_point, text, *where, seed)
    for width in WIDTHS:
        for maximal in (False, True):
            for lr in WIDTH_RATES:
                key = f"{width}/{lr}/{'maximal' if maximal else 'standard'}"
                make("widths", key, run_width, text, width, lr, maximal)
    for length in REPEATED:
        for width in REPEAT_SIZES:
            where = (width, SIZES[width], REPEAT_TOKENS, rates[width])
            key = f"{width}/{length}/{rates[width]}"
            make("repeat", key, run_point, text, *where, source=text.train[:length])
    for seed in SEEDS:
        for distilled in (False, True):
            key = f"{seed}/{'model' if distilled else 'text'}"
            make("students", key, run_student, subwords, distilled, seed)
    for width in SUM_WIDTHS:
        for seed in SEEDS:
            make("sums", f"{width}/{seed}", run_sums, width, seed)
    if available("emergence"):
        make("public", "base models", public_scores)
    for tokens in TOKENS:
        for width, layers in SIZES.items():
            if width > AGAIN_UP_TO[0] or tokens > AGAIN_UP_TO[1]:
                continue
            for seed in AGAIN:
                key = f"{width}/{tokens}/{rates[width]}/{seed}"
                make("again", key, run_point, text, width, layers, tokens, rates[width], seed)
    if any(list(done[part]) != list(asked[part]) for part in asked):
        done.update(asked)
        save()


def add_arguments(parser):
    """The options of `python -m llmbook record scaling`."""
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after them")


def run(options, recording):
    """Record all of it, going on where the file stops."""
    until = time.monotonic() + 60 * options.minutes
    try:
        record(recording.content, recording.save, until=until)
    except OutOfTimeError as stop:
        print(f"{options.minutes:g} minutes are over: {stop}")


def recorded():
    """What the book has: {part: [runs]}, and `_run`, how it was made."""
    content = json.loads(OUT.read_text("utf-8"))
    about = content.pop("_run")
    return {part: list(runs.values()) for part, runs in content.items()} | {"_run": about}
