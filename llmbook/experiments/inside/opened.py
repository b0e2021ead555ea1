"""The shipped small GPT opened: which part closes a bracket, and a sparse dictionary of features.

A pair is two texts of equally many tokens that differ in the bracket alone: "y = table[0, 1, 2"
and "y = table(0, 1, 2". What is measured is the logit of "]" less that of ")". Something of the
second text's pass is replaced by the same thing of the first; how far the difference comes back
says how much of the choice went through there.
"""

import torch
from torch import nn

from llmbook.data import documentation
from llmbook.experiments.inside.streams import through
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.seeds import generator
from llmbook.tokenization import BPETokenizer
from llmbook.training.config import TrainConfig
from llmbook.training.log import Log
from llmbook.training.loop import train

BEGINNINGS = ("x", "The values of data", "Return the result of f", "y = table", ">>> items")
INNERS = ("0, 1, 2, 3", "a, b, c", "width, height", "1.5, 2.5", "name", "first, second")
TOKENS = 65_536  # of the documentation, on which a dictionary is trained
LAYER, FEATURES, ACTIVE = 3, 512, 8


def small():
    """The shipped GPT and its tokenizer."""
    return load("small").eval(), BPETokenizer.load(SHIPPED / "small")


# --- patching


def pairs(model, tokenizer):
    """(ids with "[", ids with "(", place of the bracket) of every pair of texts, each (1, tokens).

    A pair whose two texts have different numbers of tokens is left out.
    """
    found = []
    for begin in BEGINNINGS:
        for inner in INNERS:
            both = [
                [model.config.eos_id, *tokenizer.encode(begin + bracket + inner, ())]
                for bracket in "[("
            ]
            differ = [i for i, two in enumerate(zip(*both, strict=False)) if two[0] != two[1]]
            if len(both[0]) == len(both[1]) and len(differ) == 1:
                found.append((*(torch.tensor([ids]) for ids in both), differ[0]))
    return found


def closers(tokenizer):
    """The ids of "]" and ")"."""
    return [tokenizer.encode(bracket, ())[0] for bracket in "])"]


def preference(logits, closing):
    """How much the last place prefers the first of two tokens: logit less logit, (batch,)."""
    return logits[:, -1, closing[0]] - logits[:, -1, closing[1]]


@torch.no_grad()
def patched(model, clean, other, layer, place, closing):
    """The share of the preference that comes back when one vector of `clean` is put into `other`.

    layer: after how many blocks; place: of the token. 1: as in clean, 0: nothing.
    """
    states, logits = through(model, clean)

    def change(at, x):
        if at == layer:
            x = x.clone()
            x[:, place] = states[layer][:, place]
        return x

    want, base = preference(logits, closing), preference(model(other), closing)
    got = preference(through(model, other, change)[1], closing)
    return ((got - base) / (want - base)).item()


class Heads:
    """What each attention head adds, kept or replaced: `with Heads(model, put) as heads: …`.

    put(layer, x) → x sees what block number `layer` (from 0) is about to mix, (batch, tokens,
    n_heads, head_dim). kept: the same of the last pass, block by block.
    """

    def __init__(self, model, put=None):
        self.model, self.put, self.kept = model, put, {}

    def __enter__(self):
        def hook(layer, attention):
            def before(module, inputs):
                (x,) = inputs
                apart = x.unflatten(-1, (attention.n_heads, -1))
                if self.put is not None:
                    apart = self.put(layer, apart)
                self.kept[layer] = apart
                return (apart.flatten(-2),)

            return attention.out_proj.register_forward_pre_hook(before)

        self._hooks = [hook(i, block.attention) for i, block in enumerate(self.model.blocks)]
        return self

    def __exit__(self, *_):
        for one in self._hooks:
            one.remove()


@torch.no_grad()
def head_shares(model, clean, other, closing):
    """As `patched`, for each head at the last place alone: (n_layers, n_heads)."""
    with Heads(model) as kept:
        want = preference(model(clean), closing)
    base = preference(model(other), closing)
    shares = torch.zeros(len(model.blocks), model.config.n_heads)
    for layer in range(len(shares)):
        for head in range(shares.shape[1]):

            def put(at, x, layer=layer, head=head):
                if at == layer:
                    x = x.clone()
                    x[:, -1, head] = kept.kept[layer][:, -1, head]
                return x

            with Heads(model, put):
                shares[layer, head] = (preference(model(other), closing) - base) / (want - base)
    return shares


@torch.no_grad()
def without(model, ids, targets, heads):
    """Nats of every target (batch, tokens) when some heads, pairs (layer, head), add nothing."""

    def put(layer, x):
        off = [head for at, head in heads if at == layer]
        if off:
            x = x.clone()
            x[:, :, off] = 0.0
        return x

    with Heads(model, put):
        log_p = model(ids).log_softmax(-1)
    return -log_p.gather(-1, targets[..., None])[..., 0]


# --- text


def windows(tokenizer, split, tokens, length=128):
    """Rows of documentation and what comes next: two int64 (rows, length)."""
    text = documentation(split).text
    ids = torch.tensor(tokenizer.encode(text[: 4 * tokens], ())[: tokens + 1])
    rows = (len(ids) - 1) // length
    return ids[: rows * length].view(rows, length), ids[1 : rows * length + 1].view(rows, length)


@torch.no_grad()
def stream(model, ids, layer=LAYER):
    """What flows after `layer` blocks: (rows, tokens, d_model), in parts to save memory."""
    return torch.cat([through(model, part)[0][layer] for part in ids.split(32)])


# --- a dictionary


class Dictionary(nn.Module):
    """A sparse autoencoder: of `features` directions only the `active` strongest are used.

        f = TopK(ReLU(W (x − b) + c)),   x̂ = V f + b

    Columns of V have length 1. Source: Gao et al. 2024, without its auxiliary loss.
    """

    def __init__(self, width, features=FEATURES, active=ACTIVE):
        super().__init__()
        way = nn.functional.normalize(torch.randn(features, width), dim=-1)
        self.active = active
        self.middle = nn.Parameter(torch.zeros(width))
        self.read = nn.Parameter(way.clone())
        self.threshold = nn.Parameter(torch.zeros(features))
        self.write = nn.Parameter(way.clone())

    def features(self, x):
        """(…, width) → (…, features), at most `active` of them above 0."""
        f = ((x - self.middle) @ self.read.T + self.threshold).relu()
        top = f.topk(self.active, -1)
        return torch.zeros_like(f).scatter(-1, top.indices, top.values)

    def forward(self, x):
        return self.features(x) @ nn.functional.normalize(self.write, dim=-1) + self.middle

    def loss(self, x, _):
        """Squared error over that of the middle alone, which begins as the mean."""
        return (self(x) - x).square().sum() / (x - self.middle.detach()).square().sum()


def train_dictionary(x, seed, steps=600, rows=1024, features=FEATURES, active=ACTIVE):
    """A dictionary of vectors x (n, width)."""
    torch.manual_seed(seed)
    dictionary = Dictionary(x.shape[1], features, active)
    with torch.no_grad():
        dictionary.middle.copy_(x.mean(0))
    config = TrainConfig(
        steps=steps,
        batch_size=rows,
        lr=3e-3,
        warmup=20,
        weight_decay=0.0,
        final_lr=0.05,
        seed=seed,
        precision="float32",
        evaluate_every=0,
    )

    def batch_at(step):
        chosen = torch.randint(len(x), (rows,), generator=generator(seed, "dictionary", step))
        return x[chosen], chosen

    train(dictionary, batch_at, config, log=Log(progress=False))
    return dictionary.eval()


@torch.no_grad()
def explained(dictionary, x):
    """1 − squared error over variance, for vectors (n, width)."""
    return 1 - ((dictionary(x) - x).square().sum() / (x - x.mean(0)).square().sum()).item()


@torch.no_grad()
def spliced(model, ids, targets, put, layer=LAYER):
    """Nats a token when put(x) takes the place of what flows after `layer` blocks."""
    total = 0.0
    for some, next_ones in zip(ids.split(32), targets.split(32), strict=True):
        _, logits = through(model, some, lambda at, x: put(x) if at == layer else x)
        total += nn.functional.cross_entropy(
            logits.flatten(0, 1), next_ones.flatten(), reduction="sum"
        ).item()
    return total / targets.numel()


def strongest(f, count=20):
    """The places (count, features) at which each feature of f (n, features) is strongest.

    And which features are above 0 at all of these: bool (features,).
    """
    top = f.topk(count, 0)
    return top.indices, (top.values > 0).all(0)


def purity(f, tokens, count=20):
    """Of each feature's strongest places, the share that its commonest token has: (alive,)."""
    places, alive = strongest(f, count)
    at = tokens[places[:, alive]].T
    return torch.stack([row.bincount().max() / count for row in at])
