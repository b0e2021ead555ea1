"""English to German: `python -m llmbook record multi30k` trains and measures a `Transformer`.

Captions of photographs in subword pieces, label smoothing, warm-up; then the BLEU of greedy and of
beam search on the Flickr test set of 2016. What is measured is written as JSON, with examples,
loss curves, hardware, versions, command and commit. A run that was stopped goes on with --resume.
Sources: Elliott et al. 2016 (the captions), Vaswani et al. 2017 (the model), Post 2018 (BLEU).
"""

import dataclasses
import time
from pathlib import Path

import torch

from llmbook.data import multi30k
from llmbook.data.packing import pad
from llmbook.decoding import generate
from llmbook.experiments.record import RECORDED
from llmbook.losses import IGNORED, count_targets
from llmbook.models.transformer import Transformer, TransformerConfig
from llmbook.tokenization import BPETokenizer
from llmbook.training.checkpoint import check_there_is_a_run
from llmbook.training.config import TrainConfig
from llmbook.training.log import Log
from llmbook.training.loop import train

PAD, START, END = 0, 1, 2
SPECIAL = 3  # ids below it; the tokenizer's begin there
SEARCHES = {"greedy": {}, "beam 4": dict(beams=4, length_penalty=0.6)}
LONGEST = 60  # tokens of a translation
CPU = TrainConfig(
    steps=2000,
    batch_size=64,
    optimizer="muon",
    lr=0.01,
    weight_decay=0.01,
    schedule="linear",
    warmup=200,
    final_lr=0.0,
    evaluate_every=250,
    checkpoint_every=100,
    precision="float32",
)
GPU = dataclasses.replace(CPU, steps=6000, batch_size=128, warmup=600, precision="auto")
RUNS = {  # by the kind of device: less than an hour of one CPU core; more on a GPU
    "cpu": (CPU, dict(pieces=4000, d_model=192, layers=3, dropout=0.1)),
    "cuda": (GPU, dict(pieces=8000, d_model=256, layers=3, dropout=0.3)),
}
OUT = RECORDED / "multi30k.json"


def run_for(device):
    """(config, sizes) for `train_translator`: what a CPU core can do, or more on a GPU."""
    return RUNS["cuda" if torch.device(device).type == "cuda" else "cpu"]


class Captions:
    """Pairs of captions as tokens, and the batch of each step.

    pairs: [(english, german), …]. `batch(step)`: source ids, targets, source mask. Rows of similar
    length stand together, so that there is little padding; each epoch is shuffled anew, tied to
    seed and epoch alone.
    """

    def __init__(self, pairs, tokenizer, size, seed=0):
        self.rows = [tuple(encode(tokenizer, text) for text in pair) for pair in pairs]
        self.size, self.seed, self._epoch, self._batches = size, seed, None, []

    def __call__(self, step):
        epoch, at = divmod(step, -(-len(self.rows) // self.size))
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._cut(epoch)
        return collate([self.rows[i] for i in self._batches[at]])

    def _cut(self, epoch):
        # not seeds.generator: the recorded run was drawn so
        draw = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        order = torch.randperm(len(self.rows), generator=draw).tolist()
        for at in range(0, len(order), 40 * self.size):
            pool = slice(at, at + 40 * self.size)
            order[pool] = sorted(order[pool], key=lambda i: len(self.rows[i][0]))
        batches = [order[at : at + self.size] for at in range(0, len(order), self.size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=draw).tolist()]


def encode(tokenizer, text):
    """A caption's token ids, with the end behind."""
    return [SPECIAL + i for i in tokenizer.encode(text)] + [END]


def collate(rows):
    """[(source, target), …] → source (rows, tokens), targets (rows, tokens), source mask."""
    source, mask = pad([source for source, _ in rows], PAD)
    target, _ = pad([target for _, target in rows], IGNORED)
    return source, target, mask


def smoothed_loss(model, source, target, mask, smoothing=0.1):
    """The model's loss on a batch, with smoothed labels: a scalar in nats a token."""
    return model.loss(source, target, mask, smoothing=smoothing)


def translate(model, tokenizer, texts, size=100, **search):
    """German for English texts: a list of strings. `search`: what `generate` takes."""
    device, out = next(model.parameters()).device, []
    for at in range(0, len(texts), size):
        rows = [(encode(tokenizer, text), [END]) for text in texts[at : at + size]]
        source, _, mask = (t.to(device) for t in collate(rows))
        translated = generate(model, source, mask, max_new_tokens=LONGEST, **search)
        out += [
            tokenizer.decode([t - SPECIAL for t in row if t >= SPECIAL])
            for row in translated[:, 1:].tolist()
        ]
    return out


def train_translator(
    config,
    *,
    pieces,
    d_model,
    layers,
    dropout,
    limit=None,
    device="cpu",
    folder=None,
    resume=False,
    log=None,
):
    """Train on Multi30k and measure: {"BLEU": {search: score}, "parameters": …, …}.

    config: a `TrainConfig`. pieces: entries of the tokenizer that both languages share. d_model,
    layers, dropout: of each stack, with four heads. limit: pairs to read, all when None. folder,
    resume: as in `train`. Raises ModuleNotFoundError without sacrebleu and DownloadFailed without
    the captions, before anything is trained.
    """
    import sacrebleu

    pairs, unseen, tests = (multi30k(s)[:limit] for s in ("train", "validation", "test"))
    tokenizer = BPETokenizer.train_fast([text for pair in pairs for text in pair], pieces)
    torch.manual_seed(config.seed)
    model = Transformer(
        TransformerConfig(
            SPECIAL + len(tokenizer),
            d_model,
            4,
            n_encoder_layers=layers,
            n_decoder_layers=layers,
            placement="pre",
            dropout=dropout,
            pad_id=PAD,
            bos_id=START,
            eos_id=END,
        )
    ).to(device)
    held_out = Captions(unseen, tokenizer, 100)

    def evaluate(model):
        """Nats a token on the validation captions, labels as they are."""
        total = terms = 0
        for step in range(-(-len(unseen) // 100)):
            batch = [t.to(device) for t in held_out(step)]
            n = int(count_targets(batch[1]))
            total += n * float(smoothed_loss(model, *batch, smoothing=0.0))
            terms += n
        return total / terms

    history = train(
        model,
        Captions(pairs, tokenizer, config.batch_size, config.seed),
        config,
        loss=smoothed_loss,
        count=lambda source, target, mask: count_targets(target),
        evaluate=evaluate,
        log=log,
        folder=folder,
        resume=resume,
        fingerprint=[len(pairs), len(tokenizer), d_model, layers, dropout],
    )
    found = {
        "BLEU": {},
        "parameters": model.n_parameters,
        "pairs": len(pairs),
        "epochs": round(config.steps * config.batch_size / len(pairs), 2),
        "validation": [[at, round(nats, 4)] for at, nats in history.validation],
    }
    english, german = zip(*tests, strict=True)
    for name, search in SEARCHES.items():
        began = time.monotonic()
        translated = translate(model, tokenizer, english, **search)
        bleu = sacrebleu.BLEU()
        found["BLEU"][name] = round(bleu.corpus_score(translated, [german]).score, 2)
        found["sacrebleu"] = str(bleu.get_signature())
        print(f"{name}: BLEU {found['BLEU'][name]}, {time.monotonic() - began:.0f} s", flush=True)
        found["examples"] = list(zip(english, translated, german, strict=True))[:5]
    return found


# --- python -m llmbook record multi30k


def add_arguments(parser):
    """What is left out is decided by the device."""
    add = parser.add_argument
    for name in ("steps", "batch_size", "pieces", "d_model", "layers"):
        add(f"--{name.replace('_', '-')}", type=int, help="instead of the device's own")
    add("--seed", type=int, default=0, help="of weights and order")
    add("--device", default="cpu", help="cpu or cuda")
    add("--lr", type=float, help="at the peak, instead of the device's own")
    add("--dropout", type=float, help="instead of the device's own")
    add("--limit", type=int, help="pairs to read, all when left out")
    add("--folder", type=Path, default=Path("runs/multi30k"), help="for log and checkpoints")
    add("--resume", action="store_true", help="go on from the last checkpoint")


def run(options, record):
    """Train, evaluate, and write the record."""
    if options.resume:
        check_there_is_a_run(options.folder)
    config, sizes = run_for(options.device)
    given = {name: value for name, value in vars(options).items() if value is not None}
    own = {name: given[name] for name in ("steps", "batch_size", "lr", "seed") if name in given}
    config = dataclasses.replace(config, **own, warmup=own.get("steps", config.steps) // 10)
    sizes = {name: given.get(name, value) for name, value in sizes.items()}
    found = train_translator(
        config,
        **sizes,
        limit=options.limit,
        device=options.device,
        folder=options.folder,
        resume=options.resume,
        log=Log(options.folder),
    )
    record.write_whole(found, training=dataclasses.asdict(config), sizes=sizes)
