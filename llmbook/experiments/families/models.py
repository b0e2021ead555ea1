"""Three small models, one corpus, three objectives: `python -m llmbook record families`.

All three have the same number of parameters within 2%, the same tokenizer, and read the same
windows of the same text in the same order. Network and question differ (family.py), and the
encoder's table of positions starts as sinusoids.
OUT/<family>/ gets config.json, model.safetensors (float16), tokenizer.json and card.json.
"""

import dataclasses
import datetime
import json
from pathlib import Path

import torch

from llmbook.checks import whole
from llmbook.data.folders import write_json
from llmbook.data.packing import Windows
from llmbook.experiments.families.family import FAMILIES, LENGTH, SPECIAL_TOKENS, family_named
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.seeds import generator
from llmbook.tokenization import BPETokenizer
from llmbook.training.config import DataConfig, TrainConfig
from llmbook.training.log import Log, thinned
from llmbook.training.loop import train
from llmbook.training.text import documents_of, packed_text

OUT = Path("runs/families")
VOCABULARY = 1280
RECIPE = TrainConfig(
    steps=3700,
    batch_size=16,
    optimizer="muon",
    lr=3e-3,
    schedule="trapezoid",
    warmup=50,
    final_lr=0.0,
    weight_decay=0.1,
    precision="float32",
    log_every=25,
    evaluate_every=150,
    checkpoint_every=0,
)
_EXACT = 120  # first steps whose loss a card keeps one by one


def first_steps(n, **changes):
    """The recipe's first n steps, exactly: its schedule is flat between warm-up and decay."""
    whole("n", n, least=1, most=round(0.8 * RECIPE.steps))
    return dataclasses.replace(RECIPE, steps=n, schedule="constant", evaluate_every=0, **changes)


class PretrainingBatches:
    """What a family is asked at each step: `batches(step) → (input_ids, targets)`.

    ids: a stream of tokens. The windows depend on (seed, step) alone, the damage on these and the
    family's own draw: the three read the same text in the same order.
    """

    def __init__(self, family, ids, batch_size=16, seed=0, length=LENGTH):
        self.family, self.batch_size, self.seed = family, batch_size, seed
        self.windows = Windows(ids, length, seed)

    def __call__(self, step):
        text, targets = self.windows.batch(step, self.batch_size)
        return self.family.pretraining_batch(text, targets, generator(self.seed, step))


@torch.no_grad()
def held_out_loss(model, batch_at, batches=12):
    """Mean loss over the first batches, always the same ones: nats for each token asked for."""
    device = next(model.parameters()).device
    losses = [model.loss(*(t.to(device) for t in batch_at(step))) for step in range(batches)]
    return float(sum(losses) / batches)


def read_corpus(tokenizer=None, size="quick"):
    """The corpus as tokens: (training ids, validation ids, tokenizer, what a card says of it).

    The tokenizer is learned from the training side when None. <|endoftext|> stands between texts.
    """
    train_texts, validation_texts, card = documents_of(DataConfig(size=size))
    if tokenizer is None:
        tokenizer = BPETokenizer.train_fast(train_texts, VOCABULARY, SPECIAL_TOKENS)
    text = packed_text(train_texts, validation_texts, tokenizer, card)
    kept = ("train", "validation", "train_tokens", "validation_tokens")
    return text.train, text.validation, tokenizer, {name: text.card[name] for name in kept}


def pretrain(
    name,
    train_ids,
    validation_ids,
    tokenizer,
    config=RECIPE,
    *,
    device="cpu",
    log=None,
    folder=None,
):
    """Train one family from fresh weights: (model in evaluation mode, `History`).

    folder: for checkpoints, from the newest of which the run goes on.
    """
    family = family_named(name, tokenizer)
    batches = PretrainingBatches(family, train_ids, config.batch_size, config.seed)
    torch.manual_seed(config.seed)
    model = family.build().to(device)
    evaluate = None
    if validation_ids is not None and config.evaluate_every:
        held_out = PretrainingBatches(family, validation_ids, seed=1)

        def evaluate(model):
            return held_out_loss(model, held_out)

    log = Log(progress=False) if log is None else log
    data = f"{name}, {len(train_ids)} tokens"
    where = {} if folder is None else {"folder": folder, "resume": True, "fingerprint": data}
    return model, train(model, batches, config, evaluate=evaluate, log=log, **where)


def write(folder, model, tokenizer, card):
    """A family's folder: weights in float16, config, tokenizer, and the card."""
    model.save(folder, dtype="float16")
    tokenizer.save(folder)
    write_json(folder / "card.json", card)


def card_of(name, model, history, data, config, about):
    """What a family's card says. about: where, when and how, from the recording."""
    return {
        "model": f"{type(model).__name__}, {model.n_parameters:,} parameters",
        "family": name,
        "objective": FAMILIES[name].objective,
        "parameters": model.n_parameters,
        "recipe": dataclasses.asdict(config),
        "length": LENGTH,
        "tokens": config.steps * config.batch_size * LENGTH,
        "data": data,
        **about,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(history.seconds, 1),
        "first_losses": [round(loss, 4) for loss in history.losses[:_EXACT]],
        "loss_curve": thinned(zip(history.steps, history.losses, strict=True), points=100),
        "validation_curve": [[step, round(loss, 4)] for step, loss in history.validation],
        "licence": "Apache-2.0; trained on documentation under the licences of Python's",
    }


def shipped_folder(name):
    """Where a family's folder lies in the package."""
    return SHIPPED / name


def shipped_families(device="cpu"):
    """The models that come with the book: ({family: model}, tokenizer, {family: card})."""
    models = {name: load(name, device=device) for name in FAMILIES}
    cards = {
        name: json.loads((shipped_folder(name) / "card.json").read_text("utf-8"))
        for name in FAMILIES
    }
    return models, BPETokenizer.load(shipped_folder("encoder")), cards


# --- python -m llmbook record families


def add_arguments(parser):
    """Which, and how long."""
    parser.add_argument("--only", choices=tuple(FAMILIES), help="one of the three")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--steps", type=int, default=RECIPE.steps, help="updates")
    parser.add_argument("--lr", type=float, default=RECIPE.lr, help="at the peak")
    parser.add_argument("--save-every", type=int, default=100, help="updates between checkpoints")


def run(options, record):
    """Pretrain the three, one after the other, and write their folders.

    Stopped and called again with the same options, it goes on from the last checkpoint.
    """
    config = dataclasses.replace(
        RECIPE,
        steps=options.steps,
        lr=options.lr,
        seed=options.seed,
        checkpoint_every=options.save_every,
    )
    train_ids, validation_ids, tokenizer, data = read_corpus()
    for name in FAMILIES if options.only is None else (options.only,):
        model, history = pretrain(
            name,
            train_ids,
            validation_ids,
            tokenizer,
            config,
            device=options.device,
            log=Log(),
            folder=options.out / name / "run",
        )
        card = card_of(name, model, history, data, config, record.about())
        write(options.out / name, model, tokenizer, card)
        print(
            f"{name}: {card['model']}, {card['seconds']:.0f} s, validation "
            f"{card['validation_curve'][-1][1]}"
        )
