"""What a state of fixed size can do: small models that differ in one part, on three tasks.

    copying   four symbols among noise, to be repeated in order: selective copying, Gu and Dao 2023
    loops     a phrase of random symbols again and again; recall by the phrase's length
    tones     2,048 samples of noise in which one of two notes sounds, no text: which?

Every model is embedding, blocks, norm, head. A block is Mamba's: a projection to twice the width,
a short convolution, a part that mixes the tokens, a gate, a projection back. The arms differ in
the part that mixes:

    fixed       the scan with Δ, B and C learned but the same for every token: time-invariant
    selective   Mamba's: Δ, B and C made from the token
    delta       the gated delta rule
    attention   causal softmax attention with rotary positions
    s4d         complex, time-invariant, by convolution (tones only)

Every run is a function of its key, so that a killed recording goes on with the next key.
`python -m llmbook record mamba` records all of it.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from llmbook.experiments.fit import fit
from llmbook.experiments.record import RECORDED, recorded
from llmbook.layers import RMSNorm
from llmbook.positions import Rotary
from llmbook.seeds import generator
from llmbook.ssm import S4D, gated_delta_rule, selective_scan

ARMS = ("fixed", "selective", "delta", "attention")
SEEDS = (1, 2, 3, 4, 5)
OUT, GOES_ON = RECORDED / "mamba_runs.json", True

# --- how much a computation does


class Arithmetic(TorchDispatchMode):
    """Counts arithmetic operations as they are done: `with Arithmetic() as done: …; done.count`.

    A product of matrices (n, k) and (k, m) counts 2 n k m; an operation number by number counts
    one for each number of its result, a sum or a softmax one for each that it reads. Copies,
    views, fresh tensors and comparisons count nothing.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("mm", "bmm"):
            self.count += 2 * out.numel() * args[0].shape[-1]
        elif name in ("sum", "_softmax"):
            self.count += args[0].numel()
        elif torch.Tag.pointwise in function.tags and name not in ("clone", "masked_fill"):
            self.count += out.numel() if out.is_floating_point() else 0
        return out


# --- the parts that mix the tokens: (batch, tokens, width) → the same


class Scan(nn.Module):
    """The selective scan; with selective=False Δ, B and C are parameters, not functions of x."""

    def __init__(self, width, d_state=16, selective=True):
        super().__init__()
        self.selective, self.d_state, self.rank = selective, d_state, max(1, width // 16)
        self.frozen = None  # 0, 1 or 2: hold Δ, B or C at its mean, to see what it is worth
        rates = torch.arange(1, d_state + 1).float().log().repeat(width, 1)
        self.A_log, self.D = nn.Parameter(rates), nn.Parameter(torch.ones(width))
        step = torch.exp(torch.rand(width) * math.log(100) + math.log(1e-3))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus gives step
        if selective:
            self.x_proj = nn.Linear(width, self.rank + 2 * d_state, bias=False)
            self.dt_proj = nn.Linear(self.rank, width, bias=False)
            nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        else:
            self.BC = nn.Parameter(torch.randn(2, d_state))

    def terms(self, x):
        """The raw step, B and C for every token."""
        if self.selective:
            dt, B, C = self.x_proj(x).split([self.rank, self.d_state, self.d_state], -1)
            terms = [self.dt_proj(dt), B, C]
            if self.frozen is not None:
                one = terms[self.frozen]
                terms[self.frozen] = one.mean((0, 1), keepdim=True).expand_as(one)
            return terms
        B, C = self.BC[:, None, None].expand(2, *x.shape[:2], -1)
        return torch.zeros_like(x), B, C

    def steps(self, x):
        """Δ of every token and channel: (batch, tokens, width)."""
        return F.softplus(self.terms(x)[0] + self.dt_bias)

    def forward(self, x):
        dt, B, C = self.terms(x)
        A = -self.A_log.exp()
        return selective_scan(
            x, dt, A, B, C, D=self.D, delta_bias=self.dt_bias, delta_softplus=True
        )


class DeltaRule(nn.Module):
    """The gated delta rule with heads of 32."""

    def __init__(self, width, head_dim=32):
        super().__init__()
        self.heads = width // head_dim
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.gates = nn.Linear(width, 2 * self.heads)
        with torch.no_grad():
            self.gates.bias[self.heads :] = -4.0  # at first nearly all is kept

    def forward(self, x):
        q, k, v = rearrange(self.qkv(x), "b t (n h d) -> n b t h d", n=3, h=self.heads)
        write, forget = self.gates(x).chunk(2, -1)
        q, k = F.normalize(F.silu(q), dim=-1), F.normalize(F.silu(k), dim=-1)
        o = gated_delta_rule(q, k, v, write.sigmoid(), -F.softplus(forget))
        return o.flatten(2)


class Attention(nn.Module):
    """Causal softmax attention with heads of 32 and rotary positions."""

    def __init__(self, width, head_dim=32):
        super().__init__()
        self.heads, self.rotary = width // head_dim, Rotary(head_dim, base=1000.0)
        self.qkv = nn.Linear(width, 3 * width, bias=False)

    def forward(self, x):
        q, k, v = rearrange(self.qkv(x), "b t (n h d) -> n b h t d", n=3, h=self.heads)
        q, k = self.rotary(q, k, torch.arange(x.shape[1]))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return rearrange(o, "b h t d -> b t (h d)")


MIXERS = {
    "fixed": lambda width: Scan(width, selective=False),
    "selective": Scan,
    "delta": DeltaRule,
    "attention": Attention,
    "s4d": lambda width: S4D(width, 16),
}


class Block(nn.Module):
    """Mamba's block around any mixer: x + W_out(mix(silu(conv(x_in))) ∘ silu(z))."""

    def __init__(self, d_model, kind):
        super().__init__()
        width = 2 * d_model
        self.norm, self.in_proj = RMSNorm(d_model), nn.Linear(d_model, 2 * width, bias=False)
        self.conv = nn.Conv1d(width, width, 4, groups=width, padding=3)
        self.mix = MIXERS[kind](width)
        self.out_proj = nn.Linear(width, d_model, bias=False)

    def inner(self, x):
        """What the mixer reads, and the gate."""
        x, z = self.in_proj(self.norm(x)).chunk(2, -1)
        x = self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        return F.silu(x), z

    def forward(self, x):
        inner, z = self.inner(x)
        return x + self.out_proj(self.mix(inner) * F.silu(z))


class Model(nn.Module):
    """Embedding (or a projection of samples), one block for each kind, norm, head."""

    def __init__(self, kinds, inputs, outputs, d_model, samples=False):
        super().__init__()
        self.embed = nn.Linear(1, d_model) if samples else nn.Embedding(inputs, d_model)
        self.blocks = nn.ModuleList(Block(d_model, kind) for kind in kinds)
        self.norm, self.head = RMSNorm(d_model), nn.Linear(d_model, outputs)

    def hidden(self, x):
        """The last normalised states: (batch, tokens, d_model)."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, x):
        return self.head(self.hidden(x))


# --- selective copying

SYMBOLS = 4  # kinds of symbols
KEPT, SPREAD = 4, 32  # how many are to be kept, among how many places
COPY_STEPS = 600


def copying(n, gen):
    """Symbols 2 … 5 at random places among noise 0, then KEPT marks 1; the answers in order.

    → inputs (n, SPREAD + KEPT), answers (n, KEPT): which symbol, in the order in which they came.
    """
    symbols = torch.randint(SYMBOLS, (n, KEPT), generator=gen)
    places = torch.rand(n, SPREAD, generator=gen).argsort(-1)[:, :KEPT].sort(-1).values
    x = torch.zeros(n, SPREAD + KEPT, dtype=torch.int64)
    x.scatter_(1, places, symbols + 2)
    x[:, SPREAD:] = 1
    return x, symbols


def copying_model(kind, seed, d_model=32):
    """Two blocks of a kind, fresh."""
    torch.manual_seed(seed)
    return Model([kind, kind], 2 + SYMBOLS, SYMBOLS, d_model)


def copying_run(kind, seed, steps=COPY_STEPS):
    """Train on selective copying: {"accuracy", …} and the model; chance is 1/4."""
    model = copying_model(kind, seed)
    gen = generator(seed, "copying")

    def loss_at(step):
        x, y = copying(32, gen)
        return F.cross_entropy(model(x)[:, -KEPT:].flatten(0, 1), y.flatten())

    seconds = fit(model, loss_at, steps, 5e-3)
    model.eval()
    with torch.no_grad():
        x, y = copying(1000, generator(0, "copying test"))
        found = {"accuracy": (model(x)[:, -KEPT:].argmax(-1) == y).double().mean().item()}
        if kind == "selective":
            found |= selection(model, x, y)
    return {**found, "seconds": seconds}, model


@torch.no_grad()
def selection(model, x, y):
    """What the first block does with a token, and what each selected part is worth.

    written: mean size of Δ_t B_t x_t, all that a token adds to the state, over symbols and over
    noise. accuracy with Δ, B or C of all blocks frozen at its mean over the batch.
    """
    inner, _ = model.blocks[0].inner(model.embed(x))
    mix = model.blocks[0].mix
    B = mix.terms(inner)[1]
    written = (mix.steps(inner) * inner).norm(dim=-1) * B.norm(dim=-1)
    found = {
        "written by symbols": written[x >= 2].mean().item(),
        "written by noise": written[x == 0].mean().item(),
    }
    for i, name in enumerate(("Δ", "B", "C")):
        for block in model.blocks:
            block.mix.frozen = i
        right = model(x)[:, -KEPT:].argmax(-1) == y
        found[f"accuracy, {name} frozen"] = right.double().mean().item()
    for block in model.blocks:
        block.mix.frozen = None
    return found


# --- loops of random symbols

LOOP_SYMBOLS, LOOP_TOKENS, LONGEST = 16, 64, 32
PERIODS = (4, 8, 12, 16, 24, 32)
LOOP_STEPS = 1000
LOOP_MODELS = {
    "fixed": ["fixed", "fixed"],
    "selective": ["selective", "selective"],
    "delta": ["delta", "delta"],
    "attention": ["attention", "attention"],
    "hybrid": ["selective", "attention"],
}


def loops(n, gen, period=None):
    """A phrase of random symbols, repeated: (n, LOOP_TOKENS + 1) ids, (n, 1) lengths.

    Lengths from 4 to LONGEST, evenly in their logarithm: with short ones to begin with, all kinds
    of mixers learn the task.
    """
    low, high = math.log(4), math.log(LONGEST + 1)
    length = torch.exp(torch.rand(n, 1, generator=gen) * (high - low) + low).long()
    length = length.clamp(4, LONGEST)
    if period is not None:
        length.fill_(period)
    phrase = torch.randint(LOOP_SYMBOLS, (n, LONGEST), generator=gen)
    return phrase.gather(1, torch.arange(LOOP_TOKENS + 1) % length), length


def loops_run(name, seed, steps=LOOP_STEPS, d_model=48):
    """Train on loops, a loss at every token; accuracy in the second round and later, by period."""
    torch.manual_seed(seed)
    model = Model(LOOP_MODELS[name], LOOP_SYMBOLS, LOOP_SYMBOLS, d_model)
    gen = generator(seed, "loops")

    def loss_at(step):
        ids = loops(16, gen)[0]
        return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    seconds = fit(model, loss_at, steps, 4e-3)
    weights = sum(p.numel() for p in model.parameters())
    return {"accuracy": loops_accuracy(model), "weights": weights, "seconds": seconds}


@torch.no_grad()
def loops_accuracy(model):
    """Share right in the second round, by the phrase's length: {"4": …, …}."""
    model.eval()
    found = {}
    for period in PERIODS:
        ids, _ = loops(100, generator(0, "loops test", period), period)
        right = model(ids[:, :-1]).argmax(-1) == ids[:, 1:]
        found[str(period)] = right[:, period : 2 * period].double().mean().item()
    return found


# --- a note in noise: a long sequence that is no text

SAMPLES, SOUNDING, NOTES = 2048, 1200, (0.06, 0.11)  # radians a sample: periods of 105 and 57
TONE_STEPS, TONE_BATCH = 100, 8


def tones(n, gen):
    """One of two notes for SOUNDING samples, somewhere in noise: (n, SAMPLES, 1), which (n,)."""
    which = torch.randint(2, (n, 1), generator=gen)
    at = torch.randint(0, SAMPLES - SOUNDING, (n, 1), generator=gen)
    t = torch.arange(SAMPLES)
    turn = 2 * math.pi * torch.rand(n, 1, generator=gen)
    note = torch.sin(torch.tensor(NOTES)[which] * t + turn)
    x = torch.where((t >= at) & (t < at + SOUNDING), note, 0.0)
    return (x + torch.randn(n, SAMPLES, generator=gen))[..., None], which[:, 0]


def tones_run(kind, seed, steps=TONE_STEPS):
    """Train on tones, read from the mean of all states; {"accuracy", …}, chance 1/2."""
    torch.manual_seed(seed)
    model = Model([kind, kind], 1, 2, 16, samples=True)
    gen = generator(seed, "tones")

    def loss_at(step):
        x, y = tones(TONE_BATCH, gen)
        return F.cross_entropy(model(x).mean(1), y)

    seconds = fit(model, loss_at, steps, 1e-2)
    model.eval()
    with torch.no_grad():
        x, y = tones(200, generator(0, "tones test"))
        right = model(x).mean(1).argmax(-1) == y
    return {"accuracy": right.double().mean().item(), "seconds": seconds}


# --- the record


def points():
    """Every run of the record, seed by seed: (part, key, function and arguments)."""
    for seed in SEEDS:
        for kind in ARMS:
            yield "copying", f"{kind}/{seed}", (copying_run, kind, seed)
        for kind in ("s4d", "selective"):
            yield "tones", f"{kind}/{seed}", (tones_run, kind, seed)
    for seed in SEEDS:
        for name in LOOP_MODELS:
            yield "loops", f"{name}/{seed}", (loops_run, name, seed)


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""

    def keep(part, key, found):
        return found[0] if isinstance(found, tuple) else found  # the numbers, without the model

    record.make_missing(points(), keep)
