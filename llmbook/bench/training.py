"""The training race: one update by our loop against one by a compact GPT trainer.

The peer is nanoGPT, from a folder that you name (`git clone` it; it isn't part of this package),
or, without one, a GPT put together from torch.nn's own layers and trained in the plainest way. Both
start from the same weights and read the same batches; an update is batch, forward, backward,
clipping, AdamW, gradients cleared. The gate: over some updates on one batch the loss falls as in a
float64 run of the formulas; a wrong gradient or a wrong optimiser falls otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import sys
from pathlib import Path

import torch
from torch import nn

from llmbook.bench.race import check_results, positive, relative_error, run_pair
from llmbook.data.packing import Windows
from llmbook.device import choose_dtype
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.training import TrainConfig, Update

# layers, heads, width, context, batch: the sizes that nanoGPT's README trains on characters
SIZES = {
    "tiny": (1, 2, 8, 8, 2),
    "cpu": (4, 4, 128, 64, 12),
    "gpu": (6, 6, 384, 256, 64),
    "gpt2": (12, 12, 768, 1024, 12),
}
TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 0.1, torch.float16: 0.1}  # of the loss's fall
GATE_UPDATES = 8


def add_arguments(parser) -> None:
    """The options of this race."""
    add = parser.add_argument
    add("--nanogpt", type=Path, metavar="PATH", help="folder with nanoGPT's model.py")
    add("--size", choices=list(SIZES), help="default: cpu, or gpu on a GPU; quick: tiny")
    add("--vocab-size", type=positive, default=65, help="default 65, Shakespeare's characters")
    add("--batch", type=positive, help="sequences in an update (default: the size's)")
    add("--dropout", type=float, default=0.0, help="default 0, as the gate needs")
    add("--compile", action="store_true", help="torch.compile both")


def run(options, report) -> None:
    """Race one size; `report` prints and records."""
    gpu = options.device.type == "cuda"
    name = options.size or ("tiny" if options.quick else "gpu" if gpu else "cpu")
    layers, heads, width, length, batch = SIZES[name]
    batch = options.batch or batch
    config = GPTConfig(vocab_size=options.vocab_size, max_len=length, d_model=width,
                       n_layers=layers, n_heads=heads, dropout=options.dropout,
                       activation="gelu")  # fmt: skip
    case = f"GPT {layers}/{heads}/{width} T={length} batch={batch}"
    report(case, lambda: [_race(case, config, batch, options)])


def _race(case: str, config: GPTConfig, batch: int, options):
    torch.manual_seed(options.seed)
    if options.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    model = GPT(config)
    ids = torch.randint(config.vocab_size, (100 * config.max_len,))
    windows = Windows(ids, config.max_len, options.seed)
    settings = TrainConfig(steps=10**9, schedule="constant", warmup=0, batch_size=batch, lr=1e-3,
                           compile=options.compile)  # fmt: skip
    name = "torch.nn" if options.nanogpt is None else "nanoGPT"
    contestants = {
        "ours": _ours(model, settings, options.device),
        name: _peer(model, settings, options),
    }
    errors = _gate(model, settings, windows, contestants, options)

    def endless(update):
        state = {"step": GATE_UPDATES}

        def once():
            state["step"] += 1
            update(windows.batch(state["step"], batch))

        return once

    outcome = run_pair(
        case,
        {name: endless(update) for name, update in contestants.items()},
        errors,
        tolerance=TOLERANCE[choose_dtype(options.device)[0]],
        device=options.device,
        repeats=options.repeats,
        warmup=options.warmup,
    )
    _tell_mfu(config, batch, outcome, options.device)
    return outcome


def _gate(model, settings, windows, contestants, options):
    """Each contestant's distance from a float64 run, in units of the loss's fall."""
    if options.dropout:
        return dict.fromkeys(contestants, 0.0)  # each drops its own units: nothing to compare
    config = dataclasses.replace(settings, optimizer="adamw_reference", precision="float32",
                                 compile=False)  # fmt: skip
    exact = Update(_copy(model).double(), config)
    batch = windows.batch(0, settings.batch_size)
    truth = torch.stack([exact(batch)[0] for _ in range(GATE_UPDATES)])
    errors = {}
    for name, update in contestants.items():
        losses = torch.stack([update(batch).detach().cpu() for _ in range(GATE_UPDATES)])
        errors[name] = relative_error([losses - truth[0]], [truth - truth[0]])
    check_results(errors, TOLERANCE[choose_dtype(options.device)[0]])
    return errors


def _copy(model):
    copy = GPT(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


def _ours(model, settings, device):
    update = Update(_copy(model).to(device).train(), settings)
    return lambda batch: update(batch)[0]


def _peer(model, settings, options):
    """An update of the peer, with our weights, trained as its own script does it."""
    device = options.device
    if options.nanogpt is None:
        peer = PlainGPT(model).to(device)
        matrices = [p for p in peer.parameters() if p.ndim >= 2]
        vectors = [p for p in peer.parameters() if p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=settings.lr,
            betas=(settings.beta1, settings.beta2), weight_decay=settings.weight_decay,
        )  # fmt: skip
    else:
        peer = _nanogpt(model, options.nanogpt).to(device)
        with contextlib.redirect_stdout(None):
            optimizer = peer.configure_optimizers(
                settings.weight_decay, settings.lr, (settings.beta1, settings.beta2), device.type
            )
    peer.train()
    dtype = choose_dtype(device)[0]
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
        return loss.detach()

    return update


def _nanogpt(model, folder: Path):
    """nanoGPT's GPT from its folder's model.py, with our weights."""
    file = folder / "model.py"
    if not file.is_file():
        raise SystemExit(f"--nanogpt must name a folder with nanoGPT's model.py: got {folder}")
    spec = importlib.util.spec_from_file_location("nanogpt_model", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    c = model.config
    with contextlib.redirect_stdout(None):
        peer = module.GPT(module.GPTConfig(
            block_size=c.max_len, vocab_size=c.vocab_size, n_layer=c.n_layers, n_head=c.n_heads,
            n_embd=c.d_model, dropout=c.dropout, bias=True))  # fmt: skip
    theirs = {
        "transformer.wte.weight": "tokens.weight", "transformer.wpe.weight": "positions.weight",
        "transformer.ln_f": "norm", "lm_head.weight": "tokens.weight",
    }  # fmt: skip
    for i in range(c.n_layers):
        for a, b in (("ln_1", "norm1"), ("attn.c_attn", "attention.in_proj"),
                     ("attn.c_proj", "attention.out_proj"), ("ln_2", "norm2"),
                     ("mlp.c_fc", "ffn.up"), ("mlp.c_proj", "ffn.down")):  # fmt: skip
            theirs[f"transformer.h.{i}.{a}"] = f"blocks.{i}.{b}"
    _fill(peer, model, theirs)
    return peer


class PlainGPT(nn.Module):
    """The same GPT from torch.nn's layers, `(input_ids, targets) → (logits, loss)`."""

    def __init__(self, model):
        super().__init__()
        c = model.config
        self.tokens = nn.Embedding(c.vocab_size, c.d_model)
        self.positions = nn.Embedding(c.max_len, c.d_model)
        layer = nn.TransformerEncoderLayer(c.d_model, c.n_heads, 4 * c.d_model, c.dropout, "gelu",
                                           batch_first=True, norm_first=True)  # fmt: skip
        self.blocks = nn.TransformerEncoder(layer, c.n_layers, nn.LayerNorm(c.d_model),
                                            enable_nested_tensor=False)  # fmt: skip
        mask = nn.Transformer.generate_square_subsequent_mask(c.max_len)
        self.register_buffer("mask", mask, persistent=False)
        ours = {"tokens.weight": "tokens.weight", "positions.weight": "positions.weight",
                "blocks.norm": "norm"}  # fmt: skip
        for i in range(c.n_layers):
            for a, b in (("norm1", "norm1"), ("self_attn.in_proj", "attention.in_proj"),
                         ("self_attn.out_proj", "attention.out_proj"), ("norm2", "norm2"),
                         ("linear1", "ffn.up"), ("linear2", "ffn.down")):  # fmt: skip
                ours[f"blocks.layers.{i}.{a}"] = f"blocks.{i}.{b}"
        _fill(self, model, ours)

    def forward(self, input_ids, targets):
        """Logits (batch, tokens, vocab_size) and the mean cross-entropy."""
        length = input_ids.shape[1]
        x = self.tokens(input_ids) + self.positions.weight[:length]
        x = self.blocks(x, mask=self.mask[:length, :length], is_causal=True)
        logits = x @ self.tokens.weight.T
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _fill(peer, model, names):
    """Copy our weights into the peer's; names: theirs → ours, with or without the leaf."""
    source, filled = model.state_dict(), {}
    for theirs in peer.state_dict():
        cut = max(theirs.rfind("."), theirs.rfind("_"))  # before "weight" or "bias"
        leaf = theirs[cut + 1 :]
        ours = names.get(theirs) or names[theirs[:cut]]
        candidates = (ours, f"{ours}.{leaf}", f"{ours}_{leaf}")
        filled[theirs] = next(source[name] for name in candidates if name in source)
    peer.load_state_dict(filled)


def _tell_mfu(config, batch, outcome, device):
    """On a GPU: the share of its arithmetic that each update used."""
    if device.type != "cuda":
        return
    from llmbook.training.accounting import mfu, update_flops

    flops = update_flops(GPT(config), batch, config.max_len)
    for name, spread in outcome.milliseconds.items():
        share = mfu(flops, spread.median / 1000, device)
        print(f"  {name}: MFU {share:.1%}" if share else f"  {name}: MFU unknown on this device")
