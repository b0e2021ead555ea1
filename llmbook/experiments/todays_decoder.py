"""From GPT's block to today's, one change at a time: what each is worth, trained small.

    GPT → RMSNorm → no biases → rotary → SwiGLU → QK-norm → grouped queries

    steps    on the way: a step keeps all before it and adds what its name says
    without  from the end: today's block with one change taken back, the others kept; one rate

Arms share text, batches, steps, rate and seed, and differ in what their name says; the gated
network is as large as the one that it replaces. Two rates: a change may help at one that is too
high for the others. Tokens are bytes of documentation. `python -m llmbook record todays_decoder`
records five seeds.
"""

import functools
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.checks import one_of
from llmbook.experiments.record import RECORDED, recorded
from llmbook.experiments.scaling import read_text
from llmbook.layers import FeedForward, GatedFeedForward, LayerNorm, Residual, RMSNorm
from llmbook.models.qwen import NormedRotary
from llmbook.multihead import MultiHeadAttention
from llmbook.positions import LearnedPositions, Rotary
from llmbook.training.schedules import linear

OUT, GOES_ON = RECORDED / "todays_decoder_runs.json", True
SEEDS = (1, 2, 3, 4, 5)
WIDTH, LAYERS, HEADS, CONTEXT = 64, 2, 4, 64
STEPS, BATCH, RATES, EXAMS = 150, 16, (3e-3, 3e-2), 256
VOCABULARY = 256


@dataclass(frozen=True)
class Recipe:
    """What of today's block a decoder has; GPT's without any."""

    rms: bool = False
    biases: bool = True
    rotary: bool = False
    gated: bool = False
    qk_norm: bool = False
    kv_heads: int = HEADS


CHANGES = {  # in the order in which they are made
    "GPT": {},
    "RMSNorm": {"rms": True},
    "no biases": {"biases": False},
    "rotary": {"rotary": True},
    "SwiGLU": {"gated": True},
    "QK-norm": {"qk_norm": True},
    "grouped queries": {"kv_heads": 2},
}


TODAY = list(CHANGES)[-1]


def recipe_at(step):
    """The recipe that has this change and all before it."""
    one_of("step", step, CHANGES)
    found = Recipe()
    for name, change in CHANGES.items():
        found = replace(found, **change)
        if name == step:
            break
    return found


def recipe_without(step):
    """Today's recipe with this change taken back."""
    one_of("step", step, list(CHANGES)[1:])
    back = {name: getattr(Recipe(), name) for name in CHANGES[step]}
    return replace(recipe_at(TODAY), **back)


class Decoder(nn.Module):
    """A causal language model over bytes after a recipe, the output tied to the embedding."""

    def __init__(self, recipe):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = None if recipe.rotary else LearnedPositions(CONTEXT, WIDTH)
        self.layers = nn.ModuleList(nn.ModuleList(_block(recipe)) for _ in range(LAYERS))
        self.norm = _norm(recipe)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.05)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, MultiHeadAttention):
                module.init_normal(0.05)

    def forward(self, ids):
        """Logits of the next byte: (batch, tokens) → (batch, tokens, 256)."""
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions(ids.shape[1])
        for attend, transform in self.layers:
            x = transform(attend(x, causal=True))
        return self.norm(x) @ self.tokens.weight.T


def _norm(recipe, d=WIDTH):
    return RMSNorm(d) if recipe.rms else LayerNorm(d, bias=recipe.biases)


def _block(recipe):
    rotate, head_dim = None, WIDTH // HEADS
    if recipe.rotary:
        rotate = Rotary(head_dim)
    if recipe.qk_norm:
        still = rotate or (lambda q, k, positions: (q, k))
        rotate = NormedRotary(head_dim, 1e-6, still)
    attention = MultiHeadAttention(
        WIDTH, HEADS, n_kv_heads=recipe.kv_heads, bias=recipe.biases, rotate=rotate
    )
    if recipe.gated:  # 8/3 of the width, rounded: three matrices of 171 for two of 256
        ffn = GatedFeedForward(WIDTH, round(8 * WIDTH / 3), bias=recipe.biases)
    else:
        ffn = FeedForward(WIDTH, activation="gelu_tanh", bias=recipe.biases)
    return Residual(attention, _norm(recipe)), Residual(ffn, _norm(recipe))


@functools.cache
def text():
    """The documentation that a small run reads, in bytes."""
    return read_text("quick")


def windows(stream, n, seed):
    """n windows of CONTEXT + 1 bytes from random places: (n, CONTEXT + 1)."""
    g = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(stream) - CONTEXT, (n, 1), generator=g)
    return stream[starts + torch.arange(CONTEXT + 1)].long()


def trained(recipe, rate, seed, steps=STEPS):
    """{"loss" on held-out text, nats a byte, "parameters"} after AdamW, warm-up, linear fall."""
    torch.manual_seed(seed)
    model = Decoder(recipe)
    adam = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.95), fused=True)
    moves = torch.optim.lr_scheduler.LambdaLR(adam, lambda at: linear(at, steps, steps // 10))
    for batch in windows(text().train, steps * BATCH, seed).split(BATCH):
        loss = F.cross_entropy(model(batch[:, :-1]).mT, batch[:, 1:])
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        moves.step()
    exam = windows(text().validation, EXAMS, 0)
    with torch.no_grad():
        loss = F.cross_entropy(model(exam[:, :-1]).mT, exam[:, 1:]).item()
    size = sum(p.numel() for p in model.parameters())
    return {"loss": round(loss, 4), "parameters": size}


def page_names(state):
    """The state_dict of a `Llama` or `Qwen3` under the names of the chapter's own class."""
    found = {}
    for name, value in state.items():
        name = name.replace("norm1.weight", "norm1").replace("norm2.weight", "norm2")
        name = name.replace("ffn.", "").replace("tokens.weight", "table.weight")
        name = "norm" if name == "norm.weight" else name.replace("out_proj", "o")
        name = name.replace("attention.", "")
        if name == "head.weight":  # the table again
            continue
        if name.endswith("in_proj_weight"):
            d = value.shape[1]
            kv = (len(value) - d) // 2
            for letter, part in zip("qkv", value.split([d, kv, kv]), strict=True):
                found[name.replace("in_proj_weight", f"{letter}.weight")] = part
        elif "rotate." in name:
            prefix, _, which = name.partition("rotate.")
            pair = found.setdefault(f"{prefix}gains", [None, None])
            pair[which.startswith("k")] = value
        else:
            found[name] = value
    return {k: torch.stack(v) if isinstance(v, list) else v for k, v in found.items()}


def points():
    """(part, key, (function, arguments…)) of every run."""
    for seed in SEEDS:
        for rate in RATES:
            for step in CHANGES:
                yield "steps", f"{step}/{rate:g}/{seed}", (trained, recipe_at(step), rate, seed)
        for step in list(CHANGES)[1:-1]:  # without the last step is the step before it
            recipe, rate = recipe_without(step), RATES[0]
            yield "without", f"{step}/{rate:g}/{seed}", (trained, recipe, rate, seed)


def losses(part, step, rate=RATES[0]):
    """The recorded losses of "steps" or "without" a step, at one rate: in order of the seeds.

    "without" is there at the first rate.
    """
    if part == "without" and step == TODAY:
        part, step = "steps", list(CHANGES)[-2]
    runs = recorded(OUT)[part]
    return [runs[f"{step}/{rate:g}/{seed}"]["loss"] for seed in SEEDS]


def mixes():
    """The recorded losses of every mix: {"010010": {rate: [loss of each seed]}}.

    One digit a change, in their order, 1 where it is made.
    """
    found = {}
    names = list(CHANGES)[1:]
    for n in range(len(CHANGES)):
        key = "1" * n + "0" * (len(names) - n)
        found[key] = {rate: losses("steps", list(CHANGES)[n], rate) for rate in RATES}
    for n, name in enumerate(names[:-1]):
        key = "1" * n + "0" + "1" * (len(names) - n - 1)
        found[key] = {RATES[0]: losses("without", name)}
    return found


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    record.make_missing(points())
