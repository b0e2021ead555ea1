"""The small model that follows instructions: `small`, tuned on 22 kinds of them.

OUT/model is what lies in the package as weights/small-chat: config.json, model.safetensors in
float16, tokenizer.json with the template's special tokens, and card.json. The 16 seen kinds and
the first two levels of the six graded ones, in two stages; a loss on the answers alone.
"""

from dataclasses import replace
from pathlib import Path

import torch

from llmbook.alignment import chat, sft
from llmbook.data.folders import write_json
from llmbook.data.verifiable import GRADED, LEVELS, SEEN, TRAINED_LEVELS, UNSEEN, mixture
from llmbook.evaluation import base_nats, base_text, evaluate, questions
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer
from llmbook.training import TrainConfig, train
from llmbook.training.checkpoint import check_there_is_a_run
from llmbook.training.log import Log, thinned

OUT = Path("runs/small_chat")
BATCH, ROW = 64, 128  # conversations a step; tokens of a packed row
KINDS = (*SEEN, *GRADED)
CONFIG = TrainConfig(
    steps=2500,
    batch_size=BATCH,
    optimizer="muon",
    lr=3e-3,
    weight_decay=0.05,
    schedule="linear",
    warmup=100,
    final_lr=0.0,
    log_every=50,
    evaluate_every=0,
    checkpoint_every=500,
)
# name, config, kinds (one that stands twice has twice the examples): what the first stage leaves
# weak has the larger part of the second.
STAGES = (
    ("all", CONFIG, (*KINDS, "sum", "sum", "lookup", "backwards", "count")),
    (
        "hard",
        replace(CONFIG, steps=600, lr=1.5e-3, seed=1),
        (*KINDS, *("lookup",) * 14, "without"),
    ),
)


def add_arguments(parser):
    """How far, and whether to go on."""
    parser.add_argument("--steps", type=int, help="fewer than the recipe's, to try it out")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def start(seed=0):
    """The base model with room for the template's tokens, and the tokenizer that has them."""
    tokenizer = chat.chat_tokenizer(BPETokenizer.load(SHIPPED / "small"))
    end = tokenizer.special_tokens[chat.END]
    return chat.grow(load("small"), len(tokenizer), eos_id=end, seed=seed), tokenizer


def run(options, record):
    """Train it; the model's card is its record."""
    if options.resume:
        check_there_is_a_run(options.out / STAGES[0][0])
    torch.manual_seed(CONFIG.seed)
    model, tokenizer = start(CONFIG.seed)
    curve, tokens = [], 0
    for name, config, kinds in STAGES:
        config = config if options.steps is None else replace(config, steps=options.steps)
        examples = mixture(kinds, config.steps * BATCH, seed=config.seed)
        encoded = sft.encode_examples(tokenizer, examples, max_len=ROW)
        folder = options.out / name
        history = train(
            model,
            sft.Conversations(encoded, BATCH, length=ROW, seed=config.seed),
            config,
            loss=sft.sft_loss,
            count=sft.count_answer_tokens,
            folder=folder,
            resume=options.resume and (folder / "checkpoints").is_dir(),
            log=Log(folder, progress=True),
            fingerprint=[example.prompt for example in examples[:8]],
        )
        curve += thinned(zip(history.steps, history.losses, strict=True))
        tokens += history.tokens
    folder = options.out / "model"
    model.save(folder, dtype=torch.float16)
    tokenizer.save(folder)
    card = {
        "model": f"GPT, {model.n_parameters:,} parameters, tuned from small",
        "parameters": model.n_parameters,
        "base": "small",
        "template": chat.TEMPLATE,
        "stages": [
            {"name": name, "kinds": kinds, "row": ROW, **vars(config)}
            for name, config, kinds in STAGES
        ],
        "levels of the graded kinds": TRAINED_LEVELS,
        **record.about(),
        "tokens": tokens,
        "loss_curve": curve,
        "quality": quality(load(folder), tokenizer),
    }
    write_json(folder / "card.json", card)
    print(card["quality"])


def quality(model, tokenizer):
    """What the card says: exact answers by kind on held-out inputs, and forgetting."""
    seen = evaluate(model, tokenizer, questions(SEEN))
    other = evaluate(model, tokenizer, questions(UNSEEN))
    levels = {
        str(level): evaluate(model, tokenizer, questions(GRADED, level=level)).by_kind()
        for level in range(1, LEVELS + 1)
    }
    text = base_text(tokenizer)
    return {
        "seen": {"mean": seen.exact(), "by kind": seen.by_kind()},
        "unseen": {"mean": other.exact(), "by kind": other.by_kind()},
        "errors of form": seen.errors_of_form(),
        "graded, by level": levels,
        "nats a token of the base's text": base_nats(model, text),
        "the base's own": base_nats(load("small"), text),
    }
