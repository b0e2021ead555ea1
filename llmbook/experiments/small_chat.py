"""The small model that follows instructions: `small`, tuned on 22 kinds of them.

OUT/model is what lies in the package as weights/small-chat: config.json, model.safetensors in
float16, tokenizer.json with the template's special tokens, and card.json. The 16 seen kinds and
the first two levels of the six graded ones, as many of each, and more of what is hard; a loss on
the answers alone.
"""

from pathlib import Path

import torch

from llmbook.alignment import chat, sft
from llmbook.data.folders import write_json
from llmbook.data.verifiable import GRADED, LEVELS, SEEN, TRAINED_LEVELS, UNSEEN, mixture
from llmbook.evaluation import base_nats, base_text, examine, questions
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer
from llmbook.training import TrainConfig, train
from llmbook.training.checkpoint import check_there_is_a_run
from llmbook.training.log import Log, thinned

OUT = Path("runs/small_chat")
EXAMPLES, BATCH, ROW = 160_000, 64, 128  # in all; a step; tokens of a packed row
HARD = ("sum", "sum", "lookup", "backwards", "count")  # take more examples than the others
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
    from dataclasses import replace

    config = CONFIG if options.steps is None else replace(CONFIG, steps=options.steps)
    if options.resume:
        check_there_is_a_run(options.out)
    torch.manual_seed(config.seed)
    model, tokenizer = start(config.seed)
    examples = mixture(
        (*SEEN, *GRADED, *HARD), min(EXAMPLES, config.steps * BATCH), seed=config.seed
    )
    batches = sft.Conversations(
        sft.encode_examples(tokenizer, examples, max_len=ROW), BATCH, length=ROW, seed=config.seed
    )
    history = train(
        model,
        batches,
        config,
        loss=sft.sft_loss,
        count=sft.count_answer_tokens,
        folder=options.out,
        resume=options.resume,
        log=Log(options.out, progress=True),
        fingerprint=[example.prompt for example in examples[:8]],
    )
    folder = options.out / "model"
    model.save(folder, dtype=torch.float16)
    tokenizer.save(folder)
    card = {
        "model": f"GPT, {model.n_parameters:,} parameters, tuned from small",
        "parameters": model.n_parameters,
        "base": "small",
        "template": chat.TEMPLATE,
        "recipe": {**vars(config), "examples": len(examples), "row": ROW},
        "data": {"kinds": [*SEEN, *GRADED, *HARD], "levels of the graded": TRAINED_LEVELS},
        **record.about(),
        "tokens": history.tokens,
        "loss_curve": thinned(zip(history.steps, history.losses, strict=True)),
        "quality": quality(load(folder), tokenizer),
    }
    write_json(folder / "card.json", card)
    print(card["quality"])


def quality(model, tokenizer):
    """What the card says: exact answers by kind on held-out inputs, and forgetting."""
    seen = examine(model, tokenizer, questions(SEEN))
    other = examine(model, tokenizer, questions(UNSEEN))
    levels = {
        str(level): examine(model, tokenizer, questions(GRADED, level=level)).by_kind()
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
