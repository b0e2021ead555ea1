"""What a smaller cache still finds, and how far a window can be used.

    recall    texts of pairs (key, value) where a key that comes again has its old value. Small
              Transformers learn to look it up; asked afterwards: a key that stood once, at a
              chosen depth of a text of a chosen length. The arms differ in what they cache.

`python -m llmbook record inference` records this, distil.py's students and draft_heads.py's
heads, and writes one student, the weights `draft`. Every run is a function of its key.
Shapes: b texts, t tokens, h heads, g key/value heads, d numbers a head.
"""

import functools

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from llmbook.data.folders import write_json
from llmbook.experiments import distil, draft_heads
from llmbook.experiments.fit import fit
from llmbook.experiments.record import RECORDED, recorded
from llmbook.layers import FeedForward, RMSNorm
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.positions import Rotary
from llmbook.seeds import generator

SEEDS = (1, 2, 3, 4, 5)
OUT, GOES_ON = RECORDED / "inference_runs.json", True

# --- recall: attention with less to remember

KEYS = 48  # and as many values, with ids from KEYS on
SHORT, LONG = 64, 256  # tokens: what it is trained on, and what it is trained on last and briefly
LENGTHS, DEPTHS = (32, 64, 128, 192, 256), (0.0, 0.25, 0.5, 0.75, 1.0)
RECALL_STEPS, LONG_STEPS = 600, 60
ARMS = {  # of each layer: the kind, how many key/value heads, or how many tokens a window has
    "every head": [("heads", 4)] * 2,
    "2 shared": [("heads", 2)] * 2,
    "1 shared": [("heads", 1)] * 2,
    "latent": [("latent", 16)] * 2,
    "windows": [("window", 16)] * 3,
    "windows, 1 global": [("window", 16)] * 2 + [("heads", 4)],
    "1 global, windows": [("heads", 4)] + [("window", 16)] * 2,
}


class Heads(nn.Module):
    """Causal attention with rotary positions; groups of the heads share keys and values.

    numbers: what it caches of a token. window: how many tokens it sees, or None for all.
    """

    def __init__(self, width, kv_heads, window=None, heads=4):
        super().__init__()
        self.heads, self.kv_heads, self.d = heads, kv_heads, width // heads
        self.window, self.numbers = window, 2 * kv_heads * self.d
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, self.numbers, bias=False)
        self.rotary = Rotary(self.d, base=1000.0)

    def forward(self, x):
        q = rearrange(self.q(x), "b t (h d) -> b h t d", h=self.heads)
        k, v = rearrange(self.kv(x), "b t (n g d) -> n b g t d", n=2, g=self.kv_heads)
        where = torch.arange(x.shape[1])
        q, k = self.rotary(q, k, where)
        apart = where[:, None] - where
        seen = (apart >= 0) & (apart < (self.window or len(where)))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
        return rearrange(o, "b h t d -> b t (h d)")


class Latent(nn.Module):
    """Multi-head latent attention: what is kept of a token is `rank` numbers and one rotary key.

        c = W_c x,  k_h = [W_k^h c; R_t W_r x],  v_h = W_v^h c

    The last part of each key, which alone is turned, is the same for all heads. Source:
    DeepSeek-AI 2024.
    """

    def __init__(self, width, rank, turned=8, heads=4):
        super().__init__()
        self.heads, self.d, self.turned, self.numbers = (
            heads,
            width // heads,
            turned,
            rank + turned,
        )
        self.q = nn.Linear(width, heads * (self.d + turned), bias=False)
        self.down, self.norm = nn.Linear(width, rank + turned, bias=False), RMSNorm(rank)
        self.up = nn.Linear(rank, 2 * width, bias=False)
        self.rotary = Rotary(turned, base=1000.0)

    def forward(self, x):
        q = rearrange(self.q(x), "b t (h d) -> b h t d", h=self.heads)
        c, turn = self.down(x).split([self.numbers - self.turned, self.turned], -1)
        k, v = rearrange(self.up(self.norm(c)), "b t (n h d) -> n b h t d", n=2, h=self.heads)
        flat, mine = q.split([self.d, self.turned], -1)
        mine, turn = self.rotary(mine, turn[:, None], torch.arange(x.shape[1]))
        q = torch.cat([flat, mine], -1)
        k = torch.cat([k, turn.expand(-1, self.heads, -1, -1)], -1)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return rearrange(o, "b h t d -> b t (h d)")


def attention_of(kind, size, width):
    """One of the kinds in ARMS."""
    if kind == "window":
        return Heads(width, 4, window=size)
    return Latent(width, size) if kind == "latent" else Heads(width, size)


class Recaller(nn.Module):
    """Embedding, pre-norm blocks with the attention of each of `layers`, norm, head.

    A token is embedded with the one before it, so that a value knows its key from the start: the
    first half of looking up, which attention would learn late and by luck.
    """

    def __init__(self, layers, width=64):
        super().__init__()
        self.tokens, self.before = (nn.Embedding(2 * KEYS, width) for _ in range(2))
        self.blocks = nn.ModuleList()
        for kind, size in layers:
            mix = attention_of(kind, size, width)
            self.blocks.append(
                nn.ModuleDict(
                    {
                        "norm1": RMSNorm(width),
                        "mix": mix,
                        "out": nn.Linear(width, width, bias=False),
                        "norm2": RMSNorm(width),
                        "ffn": FeedForward(width, 2 * width),
                    }
                )
            )
        self.norm, self.head = RMSNorm(width), nn.Linear(width, 2 * KEYS, bias=False)

    def forward(self, ids):
        x = self.tokens(ids) + F.pad(self.before(ids), (0, 0, 1, -1))
        for block in self.blocks:
            x = x + block["out"](block["mix"](block["norm1"](x)))
            x = x + block["ffn"](block["norm2"](x))
        return self.head(self.norm(x))

    def cached(self, tokens):
        """Numbers that its cache holds of a text so long."""
        mixes = [block["mix"] for block in self.blocks]
        return sum(m.numbers * min(tokens, getattr(m, "window", None) or tokens) for m in mixes)


def pair_texts(n, tokens, gen):
    """Texts of pairs: (n, tokens) ids, key, value, key, value, …, one value a key and text.

    How many keys a text uses is drawn too, evenly in its logarithm: with few of them a key comes
    again soon, which is where learning begins.
    """
    values = torch.randint(KEYS, (n, KEYS), generator=gen) + KEYS
    used = torch.exp(torch.rand(n, 1, generator=gen) * torch.tensor(KEYS / 2).log()) * 2
    order = torch.rand(n, KEYS, generator=gen).argsort(-1)
    which = (torch.rand(n, tokens // 2, generator=gen) * used).long()
    keys = order.gather(1, which)
    return torch.stack([keys, values.gather(1, keys)], -1).flatten(1)


def needles(n, tokens, depth, gen):
    """Texts that end by asking for a key that stood once, at a depth: (n, tokens − 1), answers.

    depth 0 is the first pair, 1 the last before the question.
    """
    values = torch.randint(KEYS, (n, KEYS), generator=gen) + KEYS
    order = torch.rand(n, KEYS, generator=gen).argsort(-1)
    pairs = tokens // 2
    place = round(depth * (pairs - 2))
    which = torch.randint(1, KEYS, (n, pairs), generator=gen)
    which[:, place] = which[:, -1] = 0
    keys = order.gather(1, which)
    ids = torch.stack([keys, values.gather(1, keys)], -1).flatten(1)
    return ids[:, :-1], ids[:, -1]


@torch.no_grad()
def found(model, tokens, depth, n=200):
    """Share of needles found: 1/KEYS would be luck among the values."""
    ids, answers = needles(n, tokens, depth, generator(0, "needles"))
    return (model(ids)[:, -1].argmax(-1) == answers).double().mean().item()


def recall_run(arm, seed, steps=RECALL_STEPS, long_steps=LONG_STEPS):
    """Train an arm on short texts, then briefly on long ones: what it finds, before and after."""
    torch.manual_seed(seed)
    model, gen = Recaller(ARMS[arm]), generator(seed, "pairs")

    def loss_of(n, tokens):
        def loss_at(_):
            ids = pair_texts(n, tokens + 2, gen)
            logits, y = model(ids[:, :-1])[:, ::2], ids[:, 1::2]  # values: keys cannot be foreseen
            return F.cross_entropy(logits.flatten(0, 1), y.flatten())

        return loss_at

    seconds = fit(model.train(), loss_of(32, SHORT), steps, 3e-3)
    before = [[found(model.eval(), n, depth) for depth in DEPTHS] for n in LENGTHS]
    seconds += fit(model.train(), loss_of(8, LONG), long_steps, 1e-3)
    after = [[found(model.eval(), n, depth) for depth in DEPTHS] for n in LENGTHS]
    return {
        "trained short": before,
        "and briefly long": after,
        "cached": [model.cached(n) for n in LENGTHS],
        "weights": sum(p.numel() for p in model.parameters()),
        "seconds": round(seconds, 1),
    }


# --- the record


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


def points():
    """Every run of the record: (part, key, function of the text and the teacher)."""
    yield "draft", "0", distil.draft_run
    for seed in SEEDS:
        yield "heads", str(seed), lambda *given, seed=seed: draft_heads.heads_run(seed, *given)
    for seed in SEEDS:
        for arm in ARMS:
            yield "recall", f"{arm}/{seed}", lambda *_, arm=arm, seed=seed: recall_run(arm, seed)
    for seed in SEEDS:
        yield "distil", str(seed), lambda *given, seed=seed: distil.distil_run(seed, *given)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    from llmbook.experiments.moe import read_text

    text = functools.cache(read_text)  # read only where a run is missing
    teacher = functools.cache(lambda: load("small").eval())

    def keep(part, key, found):
        if part == "draft":
            write_json(SHIPPED / "draft" / "card.json", distil.card(found, text(), record))
        return found

    record.make_missing(
        (
            (part, key, (lambda f=function: f(text(), teacher()),))
            for part, key, function in points()
        ),
        keep,
        tell=lambda found: str(found)[:80],
    )
