"""What several heads can do that one cannot, and what becomes of heads in training: recorded.

    echo    random digits, of which each step names two: the one just before and the one four back.
            One head, two, one with a bent readout, two that share keys and values; and four
            networks of one head, averaged, against one network of two
    loop    phrases of the documentation, repeated, read by two layers of four heads and nothing
            else: which head looks where, before and after training; what is lost without it

Arms of one experiment have the same data, steps, rate and seeds. Every run is a function of its
key. `python -m llmbook record multi_head` makes what the record lacks.
Shapes: b texts, t tokens, l layers, h heads.
"""

import functools
import re
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.data import documentation
from llmbook.experiments.record import RECORDED, by_seed, recorded
from llmbook.multihead import MultiHeadAttention
from llmbook.positions import Rotary

SEEDS = (1, 2, 3, 4, 5)
OUT, GOES_ON = RECORDED / "multi_head_runs.json", True

# --- two echoes

DIGITS, LENGTH, NEAR, FAR = 10, 24, 1, 4
ECHO_STEPS, RATE = 400, 8e-3
KINDS = {
    "two heads": {"n_heads": 2},
    "one head": {"n_heads": 1},
    "one head, bent readout": {"n_heads": 1, "bend": True},
    "two heads, one key head": {"n_heads": 2, "n_kv_heads": 1},
}


def two_echoes(n, g):
    """Random digits (n, LENGTH), and the two answers of each step from FAR on (n, steps, 2)."""
    x = torch.randint(DIGITS, (n, LENGTH), generator=g)
    return x, torch.stack([x[:, FAR - NEAR : -NEAR], x[:, :-FAR]], dim=-1)


class Echo(nn.Module):
    """Digit plus place, one layer of causal attention, a readout of ten scores for each answer.

    bend: a readout with a hidden layer in place of a linear one.
    """

    def __init__(self, n_heads, n_kv_heads=None, bend=False, width=32):
        super().__init__()
        self.digit, self.place = nn.Embedding(DIGITS, width), nn.Embedding(LENGTH, width)
        self.attend = MultiHeadAttention(width, n_heads, n_kv_heads=n_kv_heads)
        self.read = nn.Linear(width, 2 * DIGITS)
        if bend:
            self.read = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 2 * DIGITS))

    def embed(self, x):
        return self.digit(x) + self.place.weight

    def answers(self, attended):
        """Scores of both answers from FAR on: (b, t, width) → (b, t − FAR, 2, DIGITS)."""
        return self.read(attended)[:, FAR:].unflatten(-1, (2, DIGITS))

    def forward(self, x):
        return self.answers(self.attend(self.embed(x), causal=True))


def _fit(model, batch, steps, betas=(0.9, 0.999), pct_start=0.3):
    """Adam with one cycle of the rate up to RATE; batch() → ids, targets."""
    adam = torch.optim.Adam(model.parameters(), RATE, betas)
    slope = torch.optim.lr_scheduler.OneCycleLR(adam, RATE, total_steps=steps, pct_start=pct_start)
    for _ in range(steps):
        x, y = batch()
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        slope.step()
    return model.eval()


def train_echo(kind, seed, steps=ECHO_STEPS, device="cpu"):
    """A network of one of KINDS after 400 batches of 64 texts."""
    torch.manual_seed(seed)
    model, g = Echo(**KINDS[kind]).to(device), torch.Generator().manual_seed(seed)
    return _fit(model, lambda: [t.to(device) for t in two_echoes(64, g)], steps)


def _exam(model):
    device = model.place.weight.device
    return [t.to(device) for t in two_echoes(500, torch.Generator().manual_seed(99))]


def right(logits, y):
    """Shares of right answers: [near, far]."""
    return (logits.argmax(-1) == y).double().mean((0, 1)).tolist()


@torch.no_grad()
def looked(model):
    """Accuracies [near, far]; each head's mean weight on both places; its mean map (h, t, t)."""
    x, y = _exam(model)
    w = model.attend.weights(model.embed(x), causal=True)
    on = [w.diagonal(-k, -2, -1)[..., FAR - k :].mean((0, -1)).tolist() for k in (NEAR, FAR)]
    return {"right": right(model(x), y), "on near": on[0], "on far": on[1]}, w.mean(0).cpu()


@torch.no_grad()
def compare(pair, members):
    """One network of two heads against the mean prediction of several with one."""
    x, y = _exam(pair)
    mean = torch.stack([m(x).softmax(-1) for m in members]).mean(0)
    two, heads = pair(x).softmax(-1), pair.attend.heads(pair.embed(x), causal=True)
    left = []
    for i in range(2):
        kept = heads.clone()
        kept[:, i] = 0
        left.append(min(right(pair.answers(pair.attend.merge(kept)), y)))

    def sure(p):
        return p.gather(-1, y[..., None]).mean().item()

    return {
        "ensemble: probability of the right answer": sure(mean),
        "ensemble: worse accuracy": min(right(mean, y)),
        "two heads: probability of the right answer": sure(two),
        "mean difference of their probabilities": (mean - two).abs().mean().item(),
        "two heads, one removed: worse accuracy": max(left),
    }


def echo_run(seed):
    """`looked` for every kind, and `compare` of two heads with four networks of one."""
    models = {kind: train_echo(kind, seed) for kind in KINDS}
    more = [train_echo("one head", 100 * seed + i) for i in range(3)]
    found = {kind: looked(model)[0] for kind, model in models.items()}
    return found | {"ensemble": compare(models["two heads"], [models["one head"], *more])}


# --- phrases in a loop

WORDS, SIZE, LAYERS, HEADS, LOOP_STEPS, TEXTS = 32, 256, 2, 4, 700, 400


@functools.cache
def phrases():
    """The commonest 256 words, and the documentation's pieces of them of five and more words."""
    text = documentation("train").text.lower()
    vocabulary = [w for w, _ in Counter(re.findall(r"[a-z]+", text)).most_common(SIZE)]
    number, stream, phrase = {w: i for i, w in enumerate(vocabulary)}, [], []
    for word in re.findall(r"[a-z]+|[^a-z\s]", text):
        if word in number:
            phrase.append(number[word])
            continue
        stream += phrase if len(phrase) >= 5 else []
        phrase = []
    return vocabulary, torch.tensor(stream)


def loops(n, g):
    """Phrases of 5 to 14 words, each repeated: (n, WORDS + 1), and their lengths (n, 1)."""
    stream = phrases()[1]
    length = torch.randint(5, 15, (n, 1), generator=g)
    start = torch.randint(len(stream) - 20, (n, 1), generator=g)
    return stream[start + torch.arange(WORDS + 1) % length], length


class Loop(nn.Module):
    """Attention and nothing else: l layers of h heads, rotary positions, pre-norm."""

    def __init__(self, width=64):
        super().__init__()
        turn = Rotary(width // HEADS, base=100.0)
        self.embed = nn.Embedding(SIZE, width)
        nn.init.normal_(self.embed.weight, std=0.5)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(LAYERS + 1))
        self.layers = nn.ModuleList(
            MultiHeadAttention(width, HEADS, rotate=turn) for _ in range(LAYERS)
        )
        self.out = nn.Linear(width, SIZE, bias=False)

    def forward(self, ids, keep=None, maps=None):
        """keep (l, h): 0 removes a head; maps: a list that gets each layer's (b, h, t, t)."""
        x = self.embed(ids)
        for i, (norm, layer) in enumerate(zip(self.norms, self.layers, strict=False)):
            z = norm(x)
            heads = layer.heads(z, causal=True)
            if keep is not None:
                heads = heads * keep[i, :, None, None]
            if maps is not None:
                maps.append(layer.weights(z, causal=True))
            x = x + layer.merge(heads)
        return self.out(self.norms[-1](x))


def train_loop(seed, steps=LOOP_STEPS):
    """A `Loop` after 700 batches of 32 texts."""
    torch.manual_seed(seed)
    model, g = Loop(), torch.Generator().manual_seed(seed)

    def batch():
        ids = loops(32, g)[0]
        return ids[:, :-1], ids[:, 1:]

    return _fit(model, batch, steps, (0.9, 0.98), pct_start=0.1)


def copies_behind(length):
    """Places behind earlier copies, the phrase's length (n, 1) given: bool (n, WORDS, WORDS)."""
    when = torch.arange(WORDS)
    back = when[:, None] - when + 1  # how far that copy lies back
    return (back % length[:, :, None] == 0) & (back >= length[:, :, None])


@torch.no_grad()
def head_scores(model, texts=TEXTS):
    """Mean weight of each head on the word before, and behind an earlier copy: two of (l, h)."""
    ids, length = loops(texts, torch.Generator().manual_seed(999))
    maps = []
    model(ids[:, :-1], maps=maps)
    w = torch.stack(maps, 1)  # (b, l, h, t, t)
    previous = w.diagonal(-1, -2, -1)[..., 7:].mean((0, -1))
    when = torch.arange(WORDS)
    late = ((when >= length) & (when >= 8))[:, None, None]
    behind = (w * copies_behind(length)[:, None, None]).sum(-1)
    return previous, (behind * late).sum((0, -1)) / late.sum()


@torch.no_grad()
def score_words(model, keep=None, texts=TEXTS):
    """Loss in nats a word, and the share of the repeated words that are right."""
    ids, length = loops(texts, torch.Generator().manual_seed(999))
    logits, goal = model(ids[:, :-1], keep=keep), ids[:, 1:]
    again = torch.arange(WORDS) >= length
    hits = (logits.argmax(-1) == goal)[again].double().mean().item()
    return F.cross_entropy(logits.flatten(0, 1), goal.flatten()).item(), hits


def without(*heads):
    """Every head kept but those (layer, head): (l, h)."""
    keep = torch.ones(LAYERS, HEADS)
    for at in heads:
        keep[at] = 0
    return keep


def loop_run(seed, steps=LOOP_STEPS):
    """Scores of the heads before and after training, and what is lost without each."""
    torch.manual_seed(seed)
    before, model = head_scores(Loop()), train_loop(seed, steps)
    after, (loss, hits) = head_scores(model), score_words(model)
    alone = [score_words(model, without((i, j))) for i in range(LAYERS) for j in range(HEADS)]
    order = after[0][0].argsort(descending=True).tolist()
    pairs = {"two of layer 1 that look back most": order[:2], "the other two": order[2:]}
    lost = {
        name: hits - score_words(model, without(*((0, j) for j in two)))[1]
        for name, two in pairs.items()
    }
    ids = loops(1, torch.Generator().manual_seed(8))[0][0]
    names = ("previous token", "after an earlier copy")
    return {
        "example": " ".join(phrases()[0][i] for i in ids),
        "loss": loss,
        "right": hits,
        "untrained": {n: s.tolist() for n, s in zip(names, before, strict=True)},
        "trained": {n: s.tolist() for n, s in zip(names, after, strict=True)},
        "loss rises by": [l / loss - 1 for l, _ in alone],
        "right falls by": [hits - h for _, h in alone],
        "right falls without": lost,
    }


# --- the record


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


def over_seeds(part, name=None):
    """What was recorded of one part, or of one thing in it, a value a seed."""
    found = by_seed(OUT, part)
    return found if name is None else [one[name] for one in found]


def points(seeds=SEEDS):
    """(part, key, (function, seed)) of every run."""
    for seed in seeds:
        yield "echo", str(seed), (echo_run, seed)
        yield "loop", str(seed), (loop_run, seed)


def add_arguments(parser):
    """Some of the seeds."""
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    record.make_missing(points(options.seeds), tell=lambda found: str(found)[:90])
