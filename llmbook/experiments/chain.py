"""A source whose entropy is known: pairs of a Markov chain, and the smallest model of them.

    P(w | v) = softmax_w(Σ_k k^−s u_vk z_wk − log w)      u, z: normal, fixed by the seed
    E = −Σ_v π_v Σ_w P(w | v) log P(w | v)                π: the stationary distribution

Tokens are unequally frequent, as words are, and what follows them has directions of unequal
weight, as meaning has. A model is one table and one matrix: logits = W table[v] + b. Its width
bounds how many directions it holds (a price in N), its sample how well it knows them (a price in
D); E is below both. Here, unlike in any text, E can be computed, and a fit be told off.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from llmbook import checks

WIDTHS = (2, 4, 8, 16, 32)
PAIRS = (32_000, 64_000, 128_000, 256_000, 512_000)
STATES, SLOPE, BATCH, RATE, WARMUP = 256, 0.75, 512, 0.05, 20


@dataclass(frozen=True)
class Chain:
    """The source. `p`: (states, states), a row v is P(· | v); `pi`: (states,); float64."""

    states: int = STATES
    slope: float = SLOPE
    seed: int = 0

    def __post_init__(self):
        checks.whole("states", self.states, least=2)

    @cached_property
    def p(self):
        generator = torch.Generator().manual_seed(self.seed)
        rank = torch.arange(1, self.states + 1, dtype=torch.float64)
        u, z = (
            torch.randn(self.states, self.states, generator=generator, dtype=torch.float64)
            for _ in range(2)
        )
        return ((u * rank**-self.slope) @ z.T - rank.log()).softmax(-1)

    @cached_property
    def pi(self):
        pi = torch.full((self.states,), 1 / self.states, dtype=torch.float64)
        for _ in range(500):
            pi = pi @ self.p
        return pi

    @property
    def entropy(self):
        """E: what the best of all models pays, in nats a token."""
        return self.loss(self.p.log())

    def loss(self, log_q):
        """The exact loss of a model, in nats a token, from its log q(w | v): (states, states)."""
        return -(self.pi[:, None] * self.p * log_q).sum().item()

    def draw(self, n, generator):
        """n pairs (v, w) of neighbours, independent: two int64 tensors (n,)."""
        before = torch.multinomial(self.pi, n, replacement=True, generator=generator)
        after = torch.empty_like(before)
        for v in before.unique():
            here = before == v
            count = int(here.sum())
            after[here] = torch.multinomial(
                self.p[v], count, replacement=True, generator=generator
            )
        return before, after


def run_pairs(chain, width, pairs, seed=0, rate=RATE):
    """Train one model of this width on so many pairs, once each: {"n", "d", "loss"}.

    Adam, the rate rising for 20 steps and falling to zero. n: parameters; d: pairs read; loss:
    exact, in nats a token.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    table = torch.nn.Embedding(chain.states, width)
    head = torch.nn.Linear(width, chain.states)
    torch.nn.init.normal_(table.weight, std=1 / math.sqrt(width))
    torch.nn.init.normal_(head.weight, std=0.1)
    parameters = [*table.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, betas=(0.9, 0.98))
    steps = max(1, pairs // BATCH)
    before, after = (x.view(steps, BATCH) for x in chain.draw(steps * BATCH, generator))
    for step in range(steps):
        factor = min(1, (step + 1) / WARMUP) * (1 - step / steps)
        optimizer.param_groups[0]["lr"] = rate * factor
        loss = F.cross_entropy(head(table(before[step])), after[step])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        log_q = head(table.weight).double().log_softmax(-1)
    return {"n": sum(p.numel() for p in parameters), "d": steps * BATCH, "loss": chain.loss(log_q)}


def sweep(chain, widths=WIDTHS, pairs=PAIRS, seed=0):
    """Every width on every number of pairs: a list of runs."""
    return [run_pairs(chain, width, n, seed) for n in pairs for width in widths]
