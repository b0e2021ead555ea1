"""Trained on 32 tokens, tested on 256: small models that differ in how positions come in, no more.

The data is a second-order Markov source: the next of 8 tokens depends on the last two, so whoever
finds "one back" and "two back" can predict it, and there is nothing else to find. The source knows
its own probabilities; a model's excess is its loss minus the source's, in nats a token.

    python -m llmbook record extrapolation

records every kind and every base of the rotary encoding over five seeds, in about ten minutes of
one core. A seed draws the source, the texts and the weights; arms of one seed share all three.
"""

import json

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.checks import one_of
from llmbook.experiments.record import RECORDED
from llmbook.layers import FeedForward, LayerNorm, Residual
from llmbook.multihead import MultiHeadAttention
from llmbook.positions import LearnedPositions, Rotary, T5RelativeBias, alibi_bias, sinusoidal

OUT = RECORDED / "extrapolation.json"
TOKENS, SHORT, LONG = 8, 32, 256
STEPS, BATCH, RATE, EXAMS = 300, 32, 1e-2, 64
KINDS = ("none", "sinusoidal", "learned", "T5", "ALiBi", "rotary")
BASES = (8, 30, 100, 300, 1_000, 3_000, 10_000, 100_000, 500_000)
SEEDS = (1, 2, 3, 4, 5)
STRETCHES = (("linear", 2.0), ("linear", 8.0), ("ntk", 2.0), ("ntk", 4.0), ("ntk", 8.0))
HEAD_DIM = 8
# positions, counted from 1, at which a bin of the recorded curves ends
ENDS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
SPANS = {"to 32": (0, 32), "33–64": (32, 64), "65–128": (64, 128), "129–256": (128, 256)}


def source(seed):
    """P[a, b, c], the probability of c after a, b: (8, 8, 8)."""
    g = torch.Generator().manual_seed(seed)
    return (2.5 * torch.randn(TOKENS, TOKENS, TOKENS, generator=g)).softmax(-1)


def sample(probabilities, n, length, generator):
    """Texts of the source: int64 (n, length); their first two tokens are drawn evenly."""
    x = torch.empty(n, length, dtype=torch.int64)
    x[:, :2] = torch.randint(TOKENS, (n, 2), generator=generator)
    for t in range(2, length):
        after = probabilities[x[:, t - 2], x[:, t - 1]]
        x[:, t] = torch.multinomial(after, 1, generator=generator)[:, 0]
    return x


def texts(seed, steps=STEPS):
    """(source, lessons (steps · 32, 32), exams (64, 256)) of a seed."""
    probabilities, g = source(seed), torch.Generator().manual_seed(seed + 100)
    lessons = sample(probabilities, steps * BATCH, SHORT, g)
    return probabilities, lessons, sample(probabilities, EXAMS, LONG, g)


class Small(nn.Module):
    """A causal language model of two layers, width 32, four heads, with one kind of positions.

    kind: one of KINDS. rotary: a `Rotary`, or anything that turns queries and keys, for the kind
    "rotary" alone.
    """

    def __init__(self, kind, rotary=None, d_model=32, n_heads=4):
        super().__init__()
        one_of("kind", kind, KINDS)
        self.kind, self.d_model, self.n_heads = kind, d_model, n_heads
        self.embed = nn.Embedding(TOKENS, d_model)
        nn.init.normal_(self.embed.weight, std=d_model**-0.5)
        if kind == "learned":
            self.learned = LearnedPositions(SHORT, d_model)
        if kind == "T5":
            self.relative = T5RelativeBias(
                n_heads, bidirectional=False, n_buckets=16, max_distance=SHORT
            )
            nn.init.zeros_(self.relative.relative_attention_bias.weight)
        turn = (rotary or Rotary(d_model // n_heads)) if kind == "rotary" else None
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    Residual(
                        MultiHeadAttention(d_model, n_heads, rotate=turn), LayerNorm(d_model)
                    ),
                    Residual(FeedForward(d_model, 2 * d_model), LayerNorm(d_model)),
                ]
            )
            for _ in range(2)
        )
        self.norm, self.out = LayerNorm(d_model), nn.Linear(d_model, TOKENS)

    def forward(self, tokens):
        """Logits of the next token: (batch, tokens) → (batch, tokens, 8)."""
        n, bias = tokens.shape[1], None
        x = self.embed(tokens) * self.d_model**0.5
        if self.kind == "sinusoidal":
            x = x + sinusoidal(n, self.d_model).to(x.device)
        if self.kind == "learned":
            x = x + self.learned(n)
        if self.kind == "T5":
            bias = self.relative(n, n)
        if self.kind == "ALiBi":
            bias = alibi_bias(self.n_heads, n, n, device=x.device)
        for attend, transform in self.layers:
            x = transform(attend(x, bias=bias, causal=True))
        return self.out(self.norm(x))

    def turn_by(self, rotary):
        """Exchange the rotation in every layer: the weights stay."""
        for attend, _ in self.layers:
            attend.sublayer.rotate = rotary


def train(kind, seed, lessons, *, rotary=None, device="cpu"):
    """One model, trained once over its lessons; the seed draws its first weights."""
    torch.manual_seed(seed)
    model = Small(kind, rotary).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=len(lessons) // BATCH, pct_start=0.1
    )
    for batch in lessons.to(device).split(BATCH):
        loss = F.cross_entropy(model(batch[:, :-1]).transpose(1, 2), batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def excess(model, probabilities, exams):
    """The model's loss minus the source's, averaged over texts: (positions,), from 3 on."""
    if model.kind == "learned":
        exams = exams[:, :SHORT]  # its table ends where training ended
    exams = exams.to(next(model.parameters()).device)
    logits = model(exams[:, :-1])[:, 1:]
    loss = F.cross_entropy(logits.transpose(1, 2), exams[:, 2:], reduction="none").mean(0).cpu()
    exams = exams.cpu()
    true = probabilities[exams[:, :-2], exams[:, 1:-1]].gather(-1, exams[:, 2:, None])
    return loss + true[..., 0].log().mean(0)


def over(span, extra):
    """Mean excess in a span of positions such as (32, 64): 33 to 64. extra[0] is position 3."""
    low, high = span
    return extra[max(0, low - 2) : high - 2].mean().item()


def rise(extra):
    """By how much more a model loses at positions 33 to 64 than up to 32, in nats a token."""
    return over(SPANS["33–64"], extra) - over(SPANS["to 32"], extra)


def curve(extra):
    """The mean excess in each bin of ENDS that the model reaches, rounded for a record."""
    starts = (0, *ENDS)
    ends = [end for end in ENDS if end <= len(extra) + 2]
    return [round(over((a, b), extra), 4) for a, b in zip(starts, ends, strict=False)]


def train_all(seeds=SEEDS, steps=STEPS, say=print):
    """Train every arm with every seed; {part: {arm: [one curve a seed]}}, JSON-able."""
    kinds = {kind: [] for kind in KINDS if kind != "rotary"}
    bases = {str(base): [] for base in BASES}
    stretched = {f"{scaling} {factor:g}": [] for scaling, factor in STRETCHES}
    entropies = []
    for seed in seeds:
        probabilities, lessons, exams = texts(seed, steps)
        own = -probabilities.log().mul(probabilities).sum(-1)
        entropies.append(round(own[exams[:, :-2], exams[:, 1:-1]].mean().item(), 4))
        for kind, curves in kinds.items():
            model = train(kind, seed, lessons)
            curves.append(curve(excess(model, probabilities, exams)))
        for base, curves in bases.items():
            rotary = Rotary(HEAD_DIM, base=float(base))
            model = train("rotary", seed, lessons, rotary=rotary)
            curves.append(curve(excess(model, probabilities, exams)))
            if base == "10000":
                for (scaling, factor), slower in zip(STRETCHES, stretched.values(), strict=True):
                    model.turn_by(Rotary(HEAD_DIM, scaling=scaling, factor=factor))
                    slower.append(curve(excess(model, probabilities, exams)))
            say(f"seed {seed}, base {base}: {curves[-1]}")
    return {
        "ends": list(ENDS),
        "entropy": entropies,
        "kinds": kinds,
        "bases": bases,
        "stretched": stretched,
    }


def recorded():
    """What `train_all` measured, from the package: its parts, and `_run`, how it was made."""
    return json.loads(OUT.read_text(encoding="utf-8"))


def add_arguments(parser):
    """Fewer seeds or steps, to try it."""
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=STEPS)


def run(options, record):
    """Train every arm with every seed, and write what was measured."""
    seeds, steps = options.seeds, options.steps
    record.write_whole(train_all(seeds, steps), seeds=seeds, steps=steps)
