"""Three small models, one corpus, three objectives: `python -m llmbook.experiments.families.models`.

    encoder           BERT   [CLS] text [SEP], 40% of the tokens hidden  → the hidden ones
    decoder           GPT    text                                       → each next token
    encoder_decoder   T5     text with spans cut out                     → the spans

All three have the same number of parameters within 2%, the same tokenizer, and read the same
windows of the same text in the same order; only what they are asked differs. OUT/<family>/ gets
config.json, model.safetensors (float16), tokenizer.json and card.json.
"""

import argparse
import dataclasses
import datetime
import hashlib
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import llmbook
from llmbook.data import documentation
from llmbook.data.corruption import masked_batch, span_batch
from llmbook.data.folders import write_atomically
from llmbook.data.packing import Windows, pack
from llmbook.models import load
from llmbook.models.bert import BertConfig, BertForMaskedLM
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.t5 import T5, T5Config
from llmbook.positions import sinusoidal
from llmbook.tokenization import END_OF_TEXT, BPETokenizer
from llmbook.training.config import TrainConfig
from llmbook.training.log import Log
from llmbook.training.loop import train

FAMILIES = ("encoder", "decoder", "encoder_decoder")
OBJECTIVES = {
    "encoder": "masked tokens, 40% (80% [MASK], 10% any token, 10% kept); no next sentence",
    "decoder": "next token",
    "encoder_decoder": "span corruption, 15% in spans of mean length 3",
}
LENGTH = 128  # tokens of text in a window
# The encoder first reads its windows in pieces of 32 tokens: attention has fewer places to choose
# from before it meets all 130. BERT did likewise:
# 90% of its steps had 128 tokens, the rest 512.
SHORT, SHORT_STEPS = 32, 600
# Of the encoder's tokens, hidden: a short run gets more questions than with BERT's 15%. Wettig et
# al. (2023) found 40% better for models of BERT-large's size; for this one, nobody compared.
MASKED = 0.4
VOCABULARY = 1280
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(16))
SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", END_OF_TEXT, *SENTINELS)
RECIPE = TrainConfig(
    steps=900,
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
    if not 1 <= n <= 0.8 * RECIPE.steps:
        raise ValueError(f"n must be from 1 to {0.8 * RECIPE.steps:.0f}: got {n}")
    return dataclasses.replace(RECIPE, steps=n, schedule="constant", evaluate_every=0, **changes)


@dataclass(frozen=True)
class Special:
    """Ids of a tokenizer's special tokens."""

    pad: int
    cls: int
    sep: int
    mask: int
    end: int
    sentinels: tuple

    @classmethod
    def of(cls, tokenizer):
        """Those of a tokenizer. Raises ValueError when it lacks one."""
        lacking = [name for name in SPECIAL_TOKENS if name not in tokenizer.special_tokens]
        if lacking:
            raise ValueError(f"the tokenizer must have the special token {lacking[0]}")
        first, sentinels = SPECIAL_TOKENS[:5], SENTINELS
        ids = tokenizer.special_tokens
        return cls(*(ids[name] for name in first), tuple(ids[name] for name in sentinels))


def build(family, vocab_size, special, max_len=LENGTH):
    """A model of a family with fresh weights, of about 0.98 million parameters.

    What one spends on a head or on cross-attention, it saves in the feed-forward networks.
    """
    if family == "encoder":
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=vocab_size,
                max_len=max_len + 2,
                d_model=128,
                n_layers=4,
                n_heads=4,
                d_ff=496,
                dropout=0.0,
                attention_dropout=0.0,
                pad_id=special.pad,
                init_std=0.06,
            )
        )
        table = model.body.positions.weight  # learned, from a start in which near ones are alike
        table.data.copy_(0.08 * sinusoidal(torch.arange(len(table)), table.shape[1]))
        return model
    if family == "decoder":
        return GPT(
            GPTConfig(
                vocab_size=vocab_size,
                max_len=max_len,
                d_model=128,
                n_layers=4,
                n_heads=4,
                d_ff=512,
                eos_id=special.end,
            )
        )
    if family == "encoder_decoder":
        return T5(
            T5Config(
                vocab_size=vocab_size,
                d_model=128,
                n_heads=4,
                head_dim=32,
                d_ff=416,
                n_encoder_layers=2,
                n_decoder_layers=2,
                dropout=0.0,
                pad_id=special.pad,
                start_id=special.pad,
                eos_id=special.end,
            )
        )
    raise ValueError(f"family must be one of {', '.join(FAMILIES)}: got {family!r}")


def ask(family, text, targets, special, vocab_size, generator):
    """A family's batch from windows of text: the tensors that its loss takes, a tuple.

    text, targets: int64 (batch, tokens), the targets being the next tokens.
    """
    if family == "decoder":
        return text, targets
    rows = text.tolist()
    if family == "encoder":
        batch = masked_batch(
            [[special.cls, *row, special.sep] for row in rows],
            mask_id=special.mask,
            pad_id=special.pad,
            vocab_size=vocab_size,
            special_ids=(special.cls, special.sep),
            share=MASKED,
            generator=generator,
        )
    else:
        batch = span_batch(
            rows,
            sentinels=special.sentinels,
            pad_id=special.pad,
            eos_id=special.end,
            generator=generator,
        )
    return batch["input_ids"], batch["targets"]


def own_loss(model, input_ids, targets):
    """The loss of any of the three, in nats for each token that is asked for."""
    return model.loss(input_ids, targets)


class Questions:
    """What a family is asked at each step: `questions(step) → (input_ids, targets)`.

    ids: a stream of tokens. The windows depend on (seed, step) alone, the damage on these and the
    family's own draw: the three read the same text in the same order.
    """

    def __init__(self, family, ids, special, vocab_size, batch_size=16, seed=0, length=LENGTH):
        self.family, self.special, self.vocab_size = family, special, vocab_size
        self.windows, self.batch_size, self.seed = Windows(ids, length, seed), batch_size, seed
        self.short_until = 0

    def __call__(self, step):
        text, targets = self.windows.batch(step, self.batch_size)
        if step < self.short_until:
            text = text.reshape(-1, SHORT)
        digest = hashlib.sha256(f"{self.seed}/{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return ask(self.family, text, targets, self.special, self.vocab_size, generator)


@torch.no_grad()
def held_out_loss(model, questions, batches=12):
    """Mean loss over the first batches of some questions, always the same ones: nats a token."""
    losses = [own_loss(model, *_moved(questions(step), model)) for step in range(batches)]
    return float(sum(losses) / batches)


def _moved(batch, model):
    device = next(model.parameters()).device
    return tuple(tensor.to(device) for tensor in batch)


def read_corpus(tokenizer=None, size="quick"):
    """The corpus as tokens: (training ids, validation ids, tokenizer, what a card says of it).

    The tokenizer is learned from the training side when None. <|endoftext|> stands between texts.
    """
    sides = [documentation(split, size) for split in ("train", "validation")]
    texts = [[document.text for document in side] for side in sides]
    if tokenizer is None:
        tokenizer = BPETokenizer.train_fast(texts[0], VOCABULARY, SPECIAL_TOKENS)
    end = tokenizer.special_tokens[END_OF_TEXT]
    streams = [pack((tokenizer.encode(t, ()) for t in side), end) for side in texts]
    card = {
        "train": sides[0].card(),
        "validation": sides[1].card(),
        "train_tokens": len(streams[0]),
        "validation_tokens": len(streams[1]),
    }
    return *streams, tokenizer, card


def pretrain(
    family, train_ids, validation_ids, tokenizer, config=RECIPE, *, device="cpu", log=None
):
    """Train one family from fresh weights: (model in evaluation mode, `History`)."""
    special, vocab_size = Special.of(tokenizer), len(tokenizer)
    questions = Questions(family, train_ids, special, vocab_size, config.batch_size, config.seed)
    if family == "encoder":
        questions.short_until = SHORT_STEPS
    torch.manual_seed(config.seed)
    model = build(family, vocab_size, special).to(device)
    evaluate = None
    if validation_ids is not None and config.evaluate_every:
        held_out = Questions(family, validation_ids, special, vocab_size, seed=1)

        def evaluate(model):
            return held_out_loss(model, held_out)

    log = Log(progress=False) if log is None else log
    history = train(model, questions, config, loss=own_loss, evaluate=evaluate, log=log)
    return model, history


def write(folder, family, model, tokenizer, history, data, config, command):
    """A family's folder: weights in float16, config, tokenizer, and the card; returns the card."""
    from llmbook.provenance import machine

    folder = Path(folder) / family
    model.save(folder, dtype="float16")
    tokenizer.save(folder)
    device = next(model.parameters()).device
    card = {
        "model": f"{type(model).__name__}, {model.n_parameters:,} parameters",
        "family": family,
        "objective": OBJECTIVES[family],
        "parameters": model.n_parameters,
        "recipe": dataclasses.asdict(config),
        "length": LENGTH,
        "tokens": config.steps * config.batch_size * LENGTH,
        "data": data,
        **machine(device),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "llmbook": llmbook.__version__,
        "command": command,
        "seconds": round(history.seconds, 1),
        "first_losses": [round(loss, 4) for loss in history.losses[:_EXACT]],
        "loss_curve": thinned(history.steps, history.losses),
        "validation_curve": [[step, round(loss, 4)] for step, loss in history.validation],
        "licence": "Apache-2.0; trained on documentation under the licences of Python's",
    }
    write_atomically(folder / "card.json", (json.dumps(card, indent=1) + "\n").encode())
    return card


def thinned(steps, losses, points=100):
    """A curve of at most so many points: means over equal stretches, at each stretch's end."""
    size = max(1, -(-len(losses) // points))
    return [
        [
            steps[min(i + size, len(losses)) - 1],
            round(sum(losses[i : i + size]) / len(losses[i : i + size]), 4),
        ]
        for i in range(0, len(losses), size)
    ]


def shipped_folder(family):
    """Where a family's folder lies in the package."""
    return Path(llmbook.__file__).parent / "weights" / family


def trio(device="cpu"):
    """The models that come with the book: ({family: model}, tokenizer, {family: card})."""
    models = {family: load(family, device=device) for family in FAMILIES}
    cards = {
        family: json.loads((shipped_folder(family) / "card.json").read_text("utf-8"))
        for family in FAMILIES
    }
    return models, BPETokenizer.load(shipped_folder("encoder")), cards


def main(argv=None):
    """Pretrain the three, one after the other, and write their folders."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m llmbook.experiments.families.models", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    parser.add_argument("--only", choices=FAMILIES, help="one of the three")
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--lr", type=float, default=RECIPE.lr)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    config = dataclasses.replace(RECIPE, steps=options.steps, lr=options.lr, seed=options.seed)
    command = shlex.join(["python", "-m", "llmbook.experiments.families.models", *argv])
    train_ids, validation_ids, tokenizer, data = read_corpus()
    for family in FAMILIES if options.only is None else (options.only,):
        model, history = pretrain(
            family, train_ids, validation_ids, tokenizer, config, device=options.device, log=Log()
        )
        card = write(options.out, family, model, tokenizer, history, data, config, command)
        print(
            f"{family}: {card['model']}, {card['seconds']:.0f} s, validation "
            f"{card['validation_curve'][-1][1]}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
