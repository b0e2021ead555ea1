"""The training race: one update by our loop against one by a compact GPT trainer.

The peer is nanoGPT, from a checkout that you name (it isn't part of this package), or, without
one, a GPT put together from torch.nn's own layers and trained in the plainest way. Both start from
the same weights and read the same batches; an update is batch, forward, backward, clipping, AdamW,
gradients cleared.

The gate: some updates of each from the same weights, without dropout, and the same in float64 by
the formulas. For every tensor of weights the *change* must be that of the formulas:

    error = max over tensors of |Δ − Δ*| / |Δ*|      Δ: weights after − weights before

`--memory` tells the peak of each side's memory instead, at GPT-2's smallest shape.

Losses alone would not do: a loss hardly tells two learning rates apart after a few updates, the
changes of the weights differ by as much as the rates. This is asked in float32 and, as far as 16
bits can tell, in the precision that is raced.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from llmbook.bench import memory
from llmbook.bench.race import check_results, positive, run_pair
from llmbook.data.packing import Windows
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.training import TrainConfig, Update
from llmbook.training.precision import Precision

# layers, heads, width, context, batch: what nanoGPT's README trains on characters, and one between
SIZES = {
    "tiny": (1, 2, 8, 8, 2),
    "cpu": (4, 4, 128, 64, 12),
    "cpu-large": (6, 6, 192, 128, 16),
    "gpu": (6, 6, 384, 256, 64),
    "gpt2": (12, 12, 768, 1024, 12),
}
# Measured on a CPU: 3e-5 in float32, 5e-2 in bfloat16, 1e-2 in float16. What it is to catch (a
# rate off by 5%, β₂ = 0.99, no clipping, decay of the vectors) measures 1e-2 to 0.4 in float32.
TOLERANCE = {torch.float32: 3e-4, torch.bfloat16: 0.2, torch.float16: 0.2}
GATE_UPDATES = 8
GET_NANOGPT = "git clone https://github.com/karpathy/nanoGPT"


def checkout(text):
    """An argparse type: a folder with nanoGPT's model.py."""
    folder = Path(text).expanduser()
    if not (folder / "model.py").is_file():
        raise argparse.ArgumentTypeError(
            f"must be a folder with nanoGPT's model.py: got {text}. Get it with: {GET_NANOGPT}"
        )
    return folder


def add_arguments(parser):
    """What to race, and how large."""
    add = parser.add_argument
    add(
        "--nanogpt",
        type=checkout,
        metavar="PATH",
        help=f"checkout of nanoGPT to race against ({GET_NANOGPT}); default: torch.nn's layers",
    )
    add("--size", choices=list(SIZES), help="default: cpu, or gpu on a GPU; quick: tiny")
    add("--vocab-size", type=positive, default=65, help="default 65, Shakespeare's characters")
    add("--batch", type=positive, help="sequences in an update (default: the size's)")
    add("--dropout", type=float, default=0.0, help="default 0; the gate is always without")
    add("--compile", action="store_true", help="torch.compile both")
    add(
        "--memory",
        action="store_true",
        help="no race: peak memory of two updates, each side in a process of its own, at GPT-2's "
        "smallest shape on the CPU, --batch texts (default 4); Linux",
    )


def run(options, report):
    """Race one size; `report` prints and records."""
    if options.nanogpt is None:
        print(f"the peer is torch.nn's; to race nanoGPT: {GET_NANOGPT}, then --nanogpt nanoGPT\n")
    if options.memory:
        _tell_memory(options)
        return
    gpu = options.device.type == "cuda"
    name = options.size or ("tiny" if options.quick else "gpu" if gpu else "cpu")
    layers, heads, width, length, batch = SIZES[name]
    batch = options.batch or batch
    config = GPTConfig(
        vocab_size=options.vocab_size,
        max_len=length,
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        dropout=options.dropout,
        activation="gelu",
    )
    case = f"GPT {layers}/{heads}/{width} T={length} batch={batch}"
    report(case, lambda: [_race(case, config, batch, options)])


def _race(case, config, batch, options):
    torch.manual_seed(options.seed)
    windows = Windows(
        torch.randint(config.vocab_size, (100 * config.max_len,)), config.max_len, options.seed
    )
    # eps: a key's bias has no gradient but rounding; with 1e-8 AdamW makes full steps of that.
    settings = TrainConfig(
        steps=10**9,
        schedule="constant",
        warmup=0,
        batch_size=batch,
        lr=1e-3,
        eps=1e-6,
        compile=options.compile,
    )
    dtype = Precision.choose(options.device).dtype
    errors = _gate(config, settings, windows, options, dtype)

    def endless(contestant):
        state = {"step": 0}

        def once():
            state["step"] += 1
            contestant.update(windows.batch(state["step"], batch))

        return once

    with _tf32():
        outcome = run_pair(
            case,
            {c.name: endless(c) for c in _contestants(GPT(config), settings, options)},
            errors,
            tolerance=TOLERANCE[dtype],
            device=options.device,
            repeats=options.repeats,
            warmup=options.warmup,
        )
    _tell_mfu(config, batch, outcome, options.device)
    return outcome


@contextlib.contextmanager
def _tf32():
    """TensorFloat-32 for what stays in float32 on a GPU, as nanoGPT's script has it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


# --- the gate


def _gate(config, settings, windows, options, dtype):
    """Each contestant's error in the precision that is raced, after the same look in float32."""
    model = GPT(dataclasses.replace(config, dropout=0.0))
    batches = [windows.batch(step, settings.batch_size) for step in range(GATE_UPDATES)]
    plain = dataclasses.replace(
        settings, optimizer="adamw_reference", precision="float32", compile=False
    )
    truth = _changes(_ours(_copy(model).to(options.device).double(), plain), batches)
    for precision in dict.fromkeys((torch.float32, dtype)):
        named = dataclasses.replace(settings, precision=str(precision).removeprefix("torch."))
        errors = {
            contestant.name: _error(_changes(contestant, batches), truth)
            for contestant in _contestants(model, named, options)
        }
        check_results(errors, TOLERANCE[precision])
    return errors


def _changes(contestant, batches):
    """What the updates on some batches add to each tensor of weights, in float64, by our names."""
    before = {name: p.detach().clone().double() for name, p in contestant.weights.items()}
    for batch in batches:
        contestant.update(batch)
    return {name: p.detach().double() - before[name] for name, p in contestant.weights.items()}


def _error(changes, truth):
    """The largest |Δ − Δ*| / |Δ*| of a tensor; nan where one is."""
    errors = torch.stack(
        [(changes[name] - expected).norm() / expected.norm() for name, expected in truth.items()]
    )
    return errors.max().item()


# --- the contestants


@dataclass(frozen=True)
class Contestant:
    """A model in training. update(batch) makes one update; weights: the tensors, by our names."""

    name: str
    update: Callable[[tuple], object]
    weights: dict[str, torch.Tensor]


def _contestants(model, settings, options):
    """Ours and the peer, both with the model's weights, on the device."""
    return [_ours(_copy(model).to(options.device), settings), _peer(model, settings, options)]


def _copy(model):
    copy = GPT(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


def _ours(model, settings):
    return Contestant("ours", Update(model.train(), settings), dict(model.named_parameters()))


def _peer(model, settings, options):
    """The peer with our weights, updated the way that nanoGPT's script does it."""
    device, betas = options.device, (settings.beta1, settings.beta2)
    if options.nanogpt is None:
        peer, names = PlainGPT(model.config), _plain_names(model.config.n_layers)
    else:
        peer, names = _nanogpt(model.config, options.nanogpt)
    weights = _fill(peer.to(device).train(), model, names)
    with contextlib.redirect_stdout(None):
        optimizer = peer.configure_optimizers(
            settings.weight_decay, settings.lr, betas, device.type
        )
    for group in optimizer.param_groups:
        group["eps"] = settings.eps
    dtype = Precision.choose(device, settings.precision).dtype
    half = dtype != torch.float32
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    forward = torch.compile(peer) if settings.compile else peer

    def update(batch):
        inputs, targets = (t.contiguous().to(device, non_blocking=True) for t in batch)
        with torch.autocast(device.type, dtype=dtype if half else None, enabled=half):
            _, loss = forward(inputs, targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(peer.parameters(), settings.clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return Contestant("torch.nn" if options.nanogpt is None else "nanoGPT", update, weights)


def _fill(peer, model, names):
    """Copy our weights into the peer's parameters; returns the latter by our names.

    names: modules of the peer → ours; the last part of a parameter's name ("weight",
    "in_proj_bias") is the same on both sides.
    """
    source, weights = dict(model.named_parameters()), {}
    for theirs, p in peer.named_parameters():
        module, _, leaf = theirs.rpartition(".")
        ours = f"{names.get(module, module)}.{leaf}"
        weights[ours.replace("in_proj.", "in_proj_")] = p
    if weights.keys() != source.keys():
        odd = sorted(weights.keys() ^ source.keys())
        raise ValueError(f"the peer has other weights than ours: {', '.join(odd)}")
    with torch.no_grad():
        for name, p in weights.items():
            p.copy_(source[name])
    return weights


def _block_names(n_layers, blocks, pairs):
    return {
        f"{blocks}.{i}.{theirs}": f"blocks.{i}.{ours}"
        for i in range(n_layers)
        for theirs, ours in pairs
    }


def _nanogpt(config, folder):
    """nanoGPT's GPT from its checkout's model.py, and its modules' names → ours."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    c = config
    with contextlib.redirect_stdout(None):
        peer = module.GPT(
            module.GPTConfig(
                block_size=c.max_len,
                vocab_size=c.vocab_size,
                n_layer=c.n_layers,
                n_head=c.n_heads,
                n_embd=c.d_model,
                dropout=c.dropout,
                bias=True,
            )
        )
    names = _block_names(
        c.n_layers,
        "transformer.h",
        [
            ("ln_1", "norm1"),
            ("attn.c_attn", "attention.in_proj"),
            ("attn.c_proj", "attention.out_proj"),
            ("ln_2", "norm2"),
            ("mlp.c_fc", "ffn.up"),
            ("mlp.c_proj", "ffn.down"),
        ],
    )
    return peer, {
        "transformer.wte": "tokens",
        "transformer.wpe": "positions",
        "transformer.ln_f": "norm",
        **names,
    }


def _plain_names(n_layers):
    """Modules of a `PlainGPT` → ours."""
    names = _block_names(
        n_layers,
        "blocks.layers",
        [
            ("norm1", "norm1"),
            ("self_attn", "attention"),
            ("norm2", "norm2"),
            ("self_attn.out_proj", "attention.out_proj"),
            ("linear1", "ffn.up"),
            ("linear2", "ffn.down"),
        ],
    )
    return {"tokens": "tokens", "positions": "positions", "blocks.norm": "norm", **names}


class PlainGPT(nn.Module):
    """The same GPT from torch.nn's layers, `(input_ids, targets) → (logits, loss)`."""

    def __init__(self, config):
        super().__init__()
        c = config
        self.tokens = nn.Embedding(c.vocab_size, c.d_model)
        self.positions = nn.Embedding(c.max_len, c.d_model)
        self.dropout = nn.Dropout(c.dropout)
        layer = nn.TransformerEncoderLayer(
            c.d_model,
            c.n_heads,
            4 * c.d_model,
            c.dropout,
            "gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            layer, c.n_layers, nn.LayerNorm(c.d_model), enable_nested_tensor=False
        )
        mask = nn.Transformer.generate_square_subsequent_mask(c.max_len)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input_ids, targets):
        """Logits (batch, tokens, vocab_size) and the mean cross-entropy in nats."""
        length = input_ids.shape[1]
        x = self.dropout(self.tokens(input_ids) + self.positions.weight[:length])
        x = self.blocks(x, mask=self.mask[:length, :length], is_causal=True)
        logits = x @ self.tokens.weight.T
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self, weight_decay, lr, betas, device_type):
        """torch.optim.AdamW, whose decay spares the vectors."""
        matrices = [p for p in self.parameters() if p.ndim >= 2]
        vectors = [p for p in self.parameters() if p.ndim < 2]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay)


def _tell_mfu(config, batch, outcome, device):
    """On a GPU: the share of its arithmetic that each update used."""
    if device.type != "cuda":
        return
    from llmbook.training.accounting import mfu, update_flops

    flops = update_flops(GPT(config), batch, config.max_len)
    for name, spread in outcome.milliseconds.items():
        share = mfu(flops, spread.median / 1000, device)
        print(f"  {name}: MFU {share:.1%}" if share else f"  {name}: MFU unknown on this device")


# --- memory


def measured(side, nanogpt, shape, batch):
    """Bytes by which two updates raise a process's peak; to be called in a fresh process.

    Above what it held with the model built: gradients, AdamW's state and what the pass keeps.
    shape: vocab_size, max_len, d_model, n_layers and n_heads of a GPT.
    """
    torch.set_num_threads(1)
    folder = None if nanogpt is None else Path(nanogpt)
    options = argparse.Namespace(nanogpt=folder, device=torch.device("cpu"))
    settings = TrainConfig(steps=10**9, schedule="constant", warmup=0, batch_size=batch)

    def updates(vocab_size, length, *sizes):
        model = GPT(GPTConfig(vocab_size, length, *sizes, activation="gelu"))
        ours = side == "ours"
        contestant = _ours(model, settings) if ours else _peer(model, settings, options)
        ids = torch.arange(batch * (length + 1)).remainder(vocab_size).view(batch, -1)

        def run():
            for _ in range(2):
                contestant.update((ids[:, :-1], ids[:, 1:]))

        return run

    updates(16, 8, 8, 1, 1)()  # what is imported on first use
    run = updates(*shape)
    with memory.Peak() as peak:
        run()
    return peak.bytes


def _tell_memory(options):
    """Print both sides' peaks, and ours in units of the peer's."""
    if not memory.is_told():
        raise SystemExit("this system does not tell a process's peak of memory: Linux does")
    layers, heads, width, length, _ = SIZES["tiny" if options.quick else "gpt2"]
    shape = (64 if options.quick else 50257, length, width, layers, heads)
    folder = None if options.nanogpt is None else str(options.nanogpt)
    batch = options.batch or (1 if options.quick else 4)
    found = {
        side: memory.in_fresh_process(measured, side, folder, shape, batch)
        for side in ("ours", "torch.nn" if folder is None else "nanoGPT")
    }
    told = ", ".join(f"{side} {size / 2**20:.0f} MB" for side, size in found.items())
    ours, theirs = found.values()
    ratio = f", ours {ours / theirs:.2f} of it" if theirs else ""
    print(
        f"peak memory of an update, GPT {layers}/{heads}/{width} T={length} batch={batch}: "
        f"{told}{ratio}"
    )
