"""A masked-diffusion language model beside an autoregressive one, on sequences that only go up.

A text is TOKENS of SYMBOLS different numbers in order. The network is the same in all arms:

    left to right    causal, predicts the next token; where a token is given, it is put
    hints in front   the same, with the given tokens written before the text (fill in the middle)
    diffusion        sees both ways; a share t of the tokens is masked, the masked are predicted

The diffusion loss is an expectation over the share t of masked tokens,

    L = E_t [ (1/t) Σ_masked −log p(x_i | what is not masked) ],

an upper bound of −log p(x). Source: Sahoo et al. 2024; Nie et al. 2025. Generating starts with
all masked and uncovers some tokens a step, each drawn without knowledge of the others.
"""

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.experiments.fit import fit
from llmbook.experiments.outlook.blocks import Block
from llmbook.seeds import generator

TOKENS, SYMBOLS = 8, 16
MASK, BEGIN = SYMBOLS, SYMBOLS + 1
ARMS = ("left to right", "hints in front", "diffusion")
STEPS, BATCH = 900, 48
UNCOVER = (1, 2, 3, 4, 6, 8)  # rounds of uncovering
GIVEN = 0.35  # share of the tokens that a task gives


def texts(n, gen):
    """(n, TOKENS) different numbers below SYMBOLS, in order."""
    return torch.rand(n, SYMBOLS, generator=gen).argsort(-1)[:, :TOKENS].sort(-1).values


def hints(x, t, gen):
    """x with each token masked with probability t (n, 1): what is left is given."""
    return x.masked_fill(torch.rand(x.shape, generator=gen) < t, MASK)


class Net(nn.Module):
    """Embedding, two blocks, head; causal or not."""

    def __init__(self, causal, length, d_model=32):
        super().__init__()
        self.causal = causal
        self.word = nn.Embedding(SYMBOLS + 2, d_model)
        self.positions = nn.Parameter(0.1 * torch.randn(length, d_model))
        self.blocks = nn.ModuleList(Block(d_model) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, SYMBOLS)

    def forward(self, ids):
        n = ids.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).tril() if self.causal else None
        x = self.word(ids) + self.positions[:n]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))


def masked_loss(logits, x, hidden, t):
    """The bound above, in nats a token: a scalar.

    logits (n, TOKENS, SYMBOLS) of x with the tokens masked where `hidden`, bool (n, TOKENS), is
    True; x (n, TOKENS) the true tokens; t (n, 1) the share that was masked in each row.
    """
    nats = F.cross_entropy(logits.transpose(1, 2), x, reduction="none")
    return (nats * hidden / t).mean()


def diffusion_loss(model, x, gen):
    """The loss of a batch. The rows' shares t lie evenly over 0 to 1, which steadies the mean."""
    t = (torch.rand(1, generator=gen) + torch.arange(len(x)) / len(x)).remainder(1)[:, None]
    hidden = torch.rand(x.shape, generator=gen) < t
    return masked_loss(model(x.masked_fill(hidden, MASK)), x, hidden, t.clamp(min=1e-3))


def train(arm, seed, steps=STEPS):
    """A trained network of an arm, and the seconds."""
    torch.manual_seed(seed)
    gen = generator(seed, "diffusion")
    model = Net(arm != "diffusion", 2 * TOKENS + 1 if arm == "hints in front" else TOKENS)

    def loss_at(step):
        x = texts(BATCH, gen)
        if arm == "diffusion":
            return diffusion_loss(model, x, gen)
        front = torch.full((BATCH, 1), BEGIN)
        if arm == "hints in front":
            given = hints(x, torch.rand(BATCH, 1, generator=gen), gen)
            front = torch.cat([given, front], 1)
        logits = model(torch.cat([front, x[:, :-1]], 1))[:, -TOKENS:]
        return F.cross_entropy(logits.flatten(0, 1), x.flatten())

    return model, fit(model, loss_at, steps, 6e-3, fused=True)


def drawn(logits, gen):
    """One token from each distribution: (…, SYMBOLS) → (…,)."""
    p = logits.softmax(-1)
    return torch.multinomial(p.flatten(0, -2), 1, generator=gen).view(p.shape[:-1])


@torch.no_grad()
def written(model, given, gen, in_front=False):
    """Left to right from `given` (n, TOKENS), MASK where it is free; in_front: told before."""
    front = torch.full((len(given), 1), BEGIN)
    ids = torch.cat([given, front], 1) if in_front else front
    for i in range(TOKENS):
        new = drawn(model(ids)[:, -1:], gen)[:, 0]
        new = torch.where(given[:, i] == MASK, new, given[:, i])
        ids = torch.cat([ids, new[:, None]], 1)
    return ids[:, -TOKENS:]


@torch.no_grad()
def uncovered(model, given, rounds, gen):
    """By diffusion: in each of `rounds` an equal share of the places, at random, is drawn."""
    ids = given.clone()
    order = torch.rand(given.shape, generator=gen).masked_fill(given != MASK, 2.0).argsort(-1)
    free = (given == MASK).sum(-1, keepdim=True)
    rank = order.argsort(-1)
    for r in range(rounds):
        now = (rank < (free * (r + 1) / rounds).ceil()) & (ids == MASK)
        ids = torch.where(now, drawn(model(ids), gen), ids)
    return ids


def valid(x):
    """Share of the texts that only go up."""
    return (x[:, 1:] > x[:, :-1]).all(-1).double().mean().item()


def diffusion_run(arm, seed, steps=STEPS):
    """Train an arm: what it fills in rightly, and what it writes freely."""
    model, seconds = train(arm, seed, steps)
    gen = generator(0, "diffusion test")
    x = texts(1000, gen)
    given = hints(x, torch.full((1000, 1), 1 - GIVEN), gen)
    free = torch.full_like(x, MASK)
    found = {"weights": sum(p.numel() for p in model.parameters()), "seconds": seconds}
    if arm == "diffusion":
        filled = {str(r): valid(uncovered(model, given, r, gen)) for r in UNCOVER}
        freely = {str(r): valid(uncovered(model, free, r, gen)) for r in UNCOVER}
        with torch.no_grad():
            bound = sum(diffusion_loss(model, x, gen).item() for _ in range(50)) / 50
        return {"filled": filled, "freely": freely, "nats a token, at most": bound, **found}
    in_front = arm == "hints in front"
    return {
        "filled": valid(written(model, given, gen, in_front)),
        "freely": valid(written(model, free, gen, in_front)),
        **found,
    }
