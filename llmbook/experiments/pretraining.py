"""Pretraining in small: one text, one small GPT, and what changes when one thing is changed.

    writer     the plain recipe, and AdamW in Muon's place; the loss on unread text, look by look
    precision  the same run with its weights kept in float32 or bfloat16
    lost       of the float32 run: which updates a 16-bit weight would not have noticed
    copies     passages that stand in the text 0 to 64 times, and the same text without the copies
    order      one tenth of chosen text, read evenly or kept for the end
    parallel   one step cut over two real processes, in five ways: parallel.py

Every run is a function of its key, so that a killed recording goes on with the next key.
`python -m llmbook record pretraining` records all of it.
"""

import functools
from dataclasses import dataclass, replace

import torch

from llmbook.data import documentation
from llmbook.data.packing import Windows, pack
from llmbook.experiments import parallel, precision
from llmbook.experiments.record import RECORDED, by_seed, recorded
from llmbook.losses import log_probs
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.seeds import generator
from llmbook.tokenization import BPETokenizer
from llmbook.training.config import TrainConfig
from llmbook.training.evaluate import validation_loss
from llmbook.training.log import Log
from llmbook.training.loop import train

OUT, GOES_ON = RECORDED / "pretraining_runs.json", True
SEEDS = (1, 2, 3, 4, 5)
VOCAB, LENGTH, BATCH = 512, 64, 8
WIDTH, LAYERS, STEPS = 64, 2, 200
HELD_OUT = 128  # windows of unread text
LOOKS = 6
# AdamW's rate: the best of 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004 and 0.006 at seeds 11, 12.
WRITERS = {  # arm: what it changes in the recipe
    "recipe": {},
    "AdamW": {"optimizer": "adamw", "lr": 2e-3},
    "AdamW, twice the steps": {"optimizer": "adamw", "lr": 2e-3, "steps": 2 * STEPS},
}
PRECISION_STEPS = 80  # bfloat16 is slow on many CPUs
ORDER_STEPS = 180
RECIPE = TrainConfig(
    steps=STEPS,
    batch_size=BATCH,
    optimizer="muon",  # of the matrices inside the blocks; AdamW for the rest
    lr=6e-3,
    warmup=20,
    final_lr=0.05,
    precision="float32",
    evaluate_every=0,
)

# --- text and model


@dataclass(frozen=True)
class Text:
    """Documents as ids, the training side as one stream, and the side that judges."""

    documents: list
    names: list
    train: torch.Tensor
    validation: torch.Tensor
    tokenizer: BPETokenizer


@functools.cache
def read_text(size="quick", vocab_size=VOCAB):
    """The documentation, cut by a tokenizer that has read its training side alone."""
    sides = [documentation(split, size) for split in ("train", "validation")]
    tokenizer = BPETokenizer.train((document.text for document in sides[0]), vocab_size)
    edge = tokenizer.special_tokens["<|endoftext|>"]
    coded = [[tokenizer.encode(document.text) for document in side] for side in sides]
    names = [document.name for document in sides[0]]
    return Text(coded[0], names, *(pack(one, edge) for one in coded), tokenizer)


def build(seed, width=WIDTH, layers=LAYERS, vocab_size=VOCAB, length=LENGTH):
    """A small GPT with fresh weights, heads of 32."""
    torch.manual_seed(seed)
    return GPT(GPTConfig(vocab_size, length, width, layers, width // 32))


@torch.no_grad()
def held_out(model, stream, windows=HELD_OUT):
    """Loss on unread text, always the same windows: nats a token."""
    model.eval()
    return validation_loss(model, stream, LENGTH, windows=windows, batch_size=64)


def fit(stream, seed, **changed):
    """Train a fresh model on a stream by the recipe; the model, and the history of its run."""
    config, model = replace(RECIPE, seed=seed, **changed), build(seed)
    windows = Windows(stream, LENGTH, seed)
    history = train(
        model, lambda step: windows.batch(step, config.batch_size), config, log=Log(progress=False)
    )
    return model, history


def writer_run(arm, seed, **changed):
    """An arm of WRITERS: loss on unread text before, on the way and at the end: [[step, nats], …].

    changed: fields of the recipe.
    """
    text, model = read_text(), build(seed)
    config = replace(RECIPE, seed=seed, **{**WRITERS[arm], **changed})
    windows = Windows(text.train, LENGTH, seed)
    config = replace(config, evaluate_every=-(-config.steps // LOOKS))
    history = train(
        model,
        lambda step: windows.batch(step, config.batch_size),
        config,
        evaluate=lambda model: held_out(model, text.validation),
        log=Log(progress=False),
    )
    curve = [[step, round(loss, 4)] for step, loss in history.validation]
    return {"curve": curve, "tokens": history.tokens, "seconds": round(history.seconds, 1)}


def precision_run(arm, seed, steps=PRECISION_STEPS):
    """The recipe, its weights and means kept as `precision.STORED` says: loss, updates lost."""
    text, config = read_text(), replace(RECIPE, seed=seed, steps=steps)
    model, seen = precision.train_in(arm, build(seed), text.train, config)
    return {"loss": round(held_out(model, text.validation), 4), **seen}


# --- copies

TIMES, EACH, PASSAGE, PROMPT = (0, 1, 4, 16, 64), 5, 48, 16


def passages(text, seed):
    """Beginnings of documents, PASSAGE tokens each, dealt to TIMES; and the other documents."""
    long = [i for i, ids in enumerate(text.documents) if len(ids) >= 2 * PASSAGE]
    order = torch.randperm(len(long), generator=generator(seed, "passages"))
    chosen = [long[i] for i in order[: EACH * len(TIMES)].tolist()]
    taken = [text.documents[i][:PASSAGE] for i in chosen]
    dealt = {n: taken[k * EACH : (k + 1) * EACH] for k, n in enumerate(TIMES)}
    return dealt, [ids for i, ids in enumerate(text.documents) if i not in set(chosen)]


@torch.no_grad()
def remembered(model, ids, edge):
    """Of a passage behind its first PROMPT tokens: nats a token, and whether greedy writes it."""
    row = torch.tensor([[edge, *ids]])
    logits = model(row[:, :-1])
    nats = -log_probs(logits, row[:, 1:])[0, PROMPT:].mean().item()
    # Greedy decoding writes a text just where each token is the likeliest after those before it.
    return nats, bool((logits[0, PROMPT:].argmax(-1) == row[0, PROMPT + 1 :]).all())


def copies_run(arm, seed, steps=STEPS):
    """Train on text with copies, or with each passage once; what is known of the passages."""
    text = read_text()
    edge = text.tokenizer.special_tokens["<|endoftext|>"]
    dealt, others = passages(text, seed)
    often = {n: n if arm == "copies" else min(n, 1) for n in TIMES}
    extra = [ids for n, part in dealt.items() for ids in part for _ in range(often[n])]
    room, kept = steps * BATCH * LENGTH, []  # as much text as the steps read, once
    room -= sum(len(ids) + 1 for ids in extra)
    mixed = torch.randperm(len(others), generator=generator(seed, "others")).tolist()
    for i in mixed:
        if room <= 0:
            break
        kept.append(others[i])
        room -= len(others[i]) + 1
    every = kept + extra
    order = torch.randperm(len(every), generator=generator(seed, "order")).tolist()
    model, _ = fit(pack([every[i] for i in order], edge), seed, steps=steps)
    model.eval()
    known = {str(n): [remembered(model, ids, edge) for ids in part] for n, part in dealt.items()}
    return {
        "nats": {n: round(sum(a for a, _ in part) / EACH, 4) for n, part in known.items()},
        "verbatim": {n: sum(b for _, b in part) / EACH for n, part in known.items()},
        "loss": round(held_out(model, text.validation), 4),
        "copied tokens": sum(len(ids) for ids in extra) - sum(map(len, sum(dealt.values(), []))),
    }


# --- order

ORDERS = {  # arm: whether the chosen text is kept for the end
    "mixed evenly": False,
    "most at the end": True,
}


def annealed_order(order, is_target, draw, last=0.2):
    """The same entries in another order: nine tenths of the targets in the last share of it."""
    target, other = order[is_target[order]], order[~is_target[order]]
    late, begin = int(0.9 * len(target)), int((1 - last) * len(order))
    late = min(late, len(order) - begin)
    early = torch.randperm(begin, generator=draw)[: len(target) - late]
    tail = torch.randperm(len(order) - begin, generator=draw)[:late]
    there = torch.zeros(len(order), dtype=torch.bool)
    there[early] = there[begin + tail] = True
    out = torch.empty_like(order)
    out[there], out[~there] = target, other
    return out


def order_run(arm, seed, steps=ORDER_STEPS):
    """Loss on unread manual and on unread docstrings; a tenth of what is read is manual."""
    anneal, text = ORDERS[arm], read_text()
    edge = text.tokenizer.special_tokens["<|endoftext|>"]
    sides = [
        Windows(
            pack(
                [
                    ids
                    for ids, name in zip(text.documents, text.names, strict=True)
                    if name.startswith("pydoc_data.topics.") == wanted
                ],
                edge,
            ),
            LENGTH,
            seed,
        )
        for wanted in (True, False)
    ]
    n, room = steps * BATCH, 96
    few = min(n // 10, len(sides[0]) - room)
    x, y = (torch.cat(pair) for pair in zip(sides[0].batch(0, few), sides[1].batch(0, n - few)))
    draw = generator(seed, "anneal")
    order = torch.randperm(n, generator=draw)
    if anneal:
        order = annealed_order(order, torch.arange(n) < few, draw)
    rows, model = order.view(steps, BATCH), build(seed)
    config = replace(RECIPE, steps=steps, warmup=10, schedule="trapezoid", final_lr=0.4, seed=seed)
    train(model, lambda step: (x[rows[step]], y[rows[step]]), config, log=Log(progress=False))
    model.eval()
    unread = [
        torch.stack([side.ids[s : s + LENGTH + 1].long() for s in side.starts(0)[-room:]])
        for side in sides
    ]
    with torch.no_grad():
        return [round(model.loss(w[:, :-1], w[:, 1:]).item(), 4) for w in unread]


# --- the record


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


def over_seeds(part, arm):
    """What was recorded of one arm, a value a seed."""
    return by_seed(OUT, part, arm)


def points():
    """Every run of the record: (part, key, (function, *arguments)), seed after seed."""
    yield "parallel", "two processes", (parallel.in_two_processes,)
    for seed in SEEDS:
        for arm in WRITERS:
            yield "writer", f"{arm}/{seed}", (writer_run, arm, seed)
        for arm in precision.STORED:
            yield "precision", f"{arm}/{seed}", (precision_run, arm, seed)
        for arm in ("copies", "without copies"):
            yield "copies", f"{arm}/{seed}", (copies_run, arm, seed)
        for arm in ORDERS:
            yield "order", f"{arm}/{seed}", (order_run, arm, seed)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    record.make_missing(points(), tell=lambda found: str(found)[:90])
