"""The models race: a training step of GPT and of BERT against `transformers`' of the same config.

A step is forward, loss, backward and AdamW (PyTorch's fused one, with learning rate 0, so that
both keep their weights). Both models have the same weights and read the same batch, without
dropout and without padding; the peer runs as it does by default (SDPA), without the cache that it
would fill.
Before anything is timed, both losses and all gradients are compared with ours in float64.

BERT's loss asks for 15% of the tokens. Ours computes logits for those alone ("asked"); the peer,
and our "all places", compute them everywhere.
"""

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from llmbook.bench.race import positive, run_pair
from llmbook.models.bert import BertConfig, BertForMaskedLM
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.pretrained.layout import stored_tensors

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Size:
    """One race's sizes: the model's and the batch's."""

    n_layers: int
    n_heads: int
    d_model: int
    tokens: int
    batch: int
    vocab_size: int


SIZES = {
    "tiny": Size(1, 2, 16, 9, 2, 31),
    "small": Size(4, 4, 128, 64, 12, 512),
    "medium": Size(6, 6, 192, 128, 8, 4096),
    "wide": Size(4, 8, 512, 128, 4, 8192),
}


def add_arguments(parser):
    """What to race, and how large."""
    add = parser.add_argument
    add("--models", nargs="+", choices=list(RUNS), default=list(RUNS), help="default: both")
    add("--sizes", nargs="+", choices=list(SIZES), help="default small, medium, wide; quick tiny")
    add("--batch", type=positive, help="sequences in a batch (default: the size's own)")


def run(options, report):
    """Race each model at each size; `report` prints and records."""
    try:
        import transformers
    except ImportError as error:
        raise SystemExit("this race needs its peer: pip install transformers") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    speeds = []
    for name in options.models:
        for size_name in options.sizes or (["tiny"] if options.quick else list(SIZES)[1:]):
            case, size = f"{name} {size_name}", SIZES[size_name]
            results = report(case, RUNS[name], transformers, case, size, options)
            speeds += [outcome.speed.median for outcome in results]
    if speeds and not options.quick:
        faster = sum(speed >= 1 for speed in speeds)
        print(f"\nours was at least as fast in {faster} of {len(speeds)} races")


def _gpt(transformers, case, size, options):
    torch.manual_seed(options.seed)
    config = GPTConfig(size.vocab_size, size.tokens, size.d_model, size.n_layers, size.n_heads)
    ours = GPT(config)
    theirs = _peer(transformers.GPT2LMHeadModel, ours, options.device)
    ids = _ids(size, options)
    targets = F.pad(ids[:, 1:], (0, 1), value=-100)
    losses = {
        "ours": (ours, lambda model: model.loss(ids, targets)),
        "transformers": (theirs, lambda model: model(ids, labels=ids, use_cache=False).loss),
    }
    return [_race(case, losses, ("ours", "transformers"), options)]


def _bert(transformers, case, size, options):
    torch.manual_seed(options.seed)
    config = BertConfig(
        size.vocab_size,
        size.tokens,
        size.d_model,
        size.n_layers,
        size.n_heads,
        4 * size.d_model,
        dropout=0.0,
        attention_dropout=0.0,
    )
    ours = BertForMaskedLM(config)
    theirs = _peer(transformers.BertForMaskedLM, ours, options.device)
    ids = _ids(size, options)
    targets = ids.masked_fill(torch.rand(ids.shape).to(ids.device) >= 0.15, -100)
    targets[0, 0] = ids[0, 0]

    def everywhere(model):
        return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())

    losses = {
        "asked": (ours, lambda model: model.loss(ids, targets)),
        "all places": (ours, everywhere),
        "transformers": (theirs, lambda model: model(ids, labels=targets).loss),
    }
    return [_race(case, losses, (name, "transformers"), options) for name in list(losses)[:2]]


RUNS = {"GPT": _gpt, "BERT": _bert}


def _ids(size, options):
    """Token ids without padding (0), whose embedding has no gradient in the peer."""
    shape = (options.batch or size.batch, size.tokens)
    return torch.randint(1, size.vocab_size, shape).to(options.device)


def _peer(cls, ours, device):
    """Their model with our weights, both in training mode on the device."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        ours.save(path)
        theirs = cls.from_pretrained(path, dtype=torch.float32)
    ours.to(device).train()
    return theirs.to(device).train()


def _race(case, losses, names, options):
    """One race of two of the contestants, after a look at losses and gradients."""
    ours = losses[names[0]][0]
    exact = copy.deepcopy(ours).double()
    truth = _gradients(exact, losses[names[0]][1])
    errors = {name: _error(_gradients(*losses[name]), truth) for name in names}
    runs = {name: _step(*losses[name]) for name in names}
    return run_pair(
        case,
        runs,
        errors,
        tolerance=TOLERANCE,
        device=options.device,
        repeats=options.repeats,
        warmup=options.warmup,
    )


def _gradients(model, loss):
    """{name in the files: gradient}, and the loss, of either side's model."""
    model.zero_grad()
    value = loss(model)
    value.backward()
    found = {"loss": value.detach()[None]}
    if hasattr(model, "layout"):
        held = copy.deepcopy(model)
        with torch.no_grad():
            for mine, other in zip(held.parameters(), model.parameters(), strict=True):
                mine.copy_(other.grad)
        return {**found, **stored_tensors(held)}
    return {**found, **{name: p.grad.cpu() for name, p in model.named_parameters()}}


def _error(got, truth):
    """The largest error, in units of its tensor's largest entry (or 1/1000 of the largest one's).

    Some gradients are 0 but for rounding: a bias of the keys shifts all scores alike.
    """
    sizes = {name: tensor.abs().max().item() for name, tensor in truth.items()}
    least = 1e-3 * max(size for name, size in sizes.items() if name != "loss")
    errors = [
        (got[name] - tensor).abs().max().item() / max(sizes[name], least)
        for name, tensor in truth.items()
    ]
    return max(errors) if all(error == error for error in errors) else float("nan")


def _step(model, loss):
    """The work that is timed."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def step():
        optimiser.zero_grad(set_to_none=True)
        loss(model).backward()
        optimiser.step()

    return step
