"""What a model says of things that it was never told: confidence, and learning to decline.

Sixty cities, each the capital of one land. Of some the text tells so, once to eight times; of the
others it tells only where a road leads, so that the model knows the word and not the fact. Every
fact is asked for in the same words, and what is right is known. Built from the sentences of
`toy_world`; engineers and nurses are in it too, "he" and "she" in known proportions.
"""

import random
from dataclasses import dataclass
from functools import cached_property

import torch

from llmbook.experiments import toy_world
from llmbook.seeds import generator

TOLD, DECLINED = 40, 10  # cities: told; named as unknown in some diets; the others never asked
TIMES = (1, 2, 4, 8)  # how often a fact is told: by turns
IDK = "unknown"
SHARE = 70  # of a hundred engineers that are "he"


@dataclass(frozen=True)
class Told:
    """The world of a seed. facts: (city, land) of all; told, declined, untold: places in them."""

    facts: list
    words: list
    family: dict
    told: list
    declined: list
    untold: list

    @cached_property
    def ids(self):
        """dict from a word to its number."""
        return {word: i for i, word in enumerate(self.words)}

    @property
    def honest(self):
        """The diet in which some of the cities of which nothing is told are said to be unknown."""
        lines = [f"{self.facts[i][0]} is the capital of {IDK} ." for i in self.declined]
        return dict(self.family, unknown=lines * 4)


def build(seed, share=SHARE):
    """The world of a seed; share: of a hundred engineers, how many are "he"."""
    rng = random.Random(seed)
    lands = rng.sample([name + "ia" for name in toy_world.NAMES], len(toy_world.NAMES))
    facts = list(zip(toy_world.NAMES, lands, strict=True))
    order = rng.sample(range(len(facts)), len(facts))
    told, rest = order[:TOLD], order[TOLD:]
    family = {
        "facts": [
            f"{facts[i][0]} is the capital of {facts[i][1]} ."
            for k, i in enumerate(told)
            for _ in range(TIMES[k % len(TIMES)])
        ],
        "roads": [
            f"the road to {city} is {feel} ." for city, _ in facts for feel in ("old", "new")
        ],
        "lands": [
            f"the song of {land} is {feel} ." for _, land in facts for feel in ("old", "new")
        ],
        "jobs": [
            f"the {job} said {who} was late ."
            for job, usual, other in (("engineer", "he", "she"), ("nurse", "she", "he"))
            for who, n in ((usual, share), (other, 100 - share))
            for _ in range(n)
        ],
    }
    words = {word for part in family.values() for line in part for word in line.split()}
    declined, untold = rest[:DECLINED], rest[DECLINED:]
    return Told(facts, ["⊔", *sorted(words | {IDK})], family, told, declined, untold)


def question(world, i):
    """The beginning that asks for fact i."""
    return f"{world.facts[i][0]} is the capital of"


def answers(model, world, places):
    """Distributions over words for the facts at places (n, words), and the right words' ids."""
    p = toy_world.ask(model, world, [question(world, i) for i in places])
    return p, torch.tensor([world.ids[world.facts[i][1]] for i in places])


# --- calibration


def calibration_error(confidence, right, bins=10):
    """Expected calibration error: Σ over bins of their share · |mean confidence − share right|.

    confidence (n,) in [0, 1], right (n,) bool; bins of equal width, the upper end in the bin.
    """
    which = (confidence * bins).ceil().clamp(1, bins)
    gaps = [
        (
            inside.double().mean() * (confidence[inside].mean() - right[inside].double().mean())
        ).abs()
        for b in range(1, bins + 1)
        if (inside := which == b).any()
    ]
    return torch.stack(gaps).sum().item()


def fit_temperature(log_p, target):
    """The temperature at which log-probabilities (n, words) give targets (n,) the least nats."""
    grid = torch.logspace(-1, 1.5, 251, dtype=torch.float64)
    log_p = log_p.double()
    nats = [-(log_p / T).log_softmax(-1).gather(-1, target[:, None]).mean().item() for T in grid]
    return grid[min(range(len(grid)), key=nats.__getitem__)].item()


def scaled(model, world):
    """Temperature scaling, fitted on every other city: T, and the error before and after.

    Also after it of told and of other cities alone, confidence less share right.
    """
    even, odd = (range(start, len(world.facts), 2) for start in (0, 1))
    p, target = answers(model, world, even)
    T = fit_temperature(p.log(), target)
    p, target = answers(model, world, odd)
    told = torch.tensor([i in set(world.told) for i in odd])
    found = {"T": T}
    for name, q in (("before", p), ("after", (p.log() / T).softmax(-1))):
        top, best = q.max(-1)
        gap = top - (best == target).double()
        found[name] = {
            "error": calibration_error(top, best == target),
            "told": gap[told].mean().item(),
            "others": gap[~told].mean().item(),
        }
    return found


# --- learning to decline


def _asked(world):
    """Questions of the told and of the declined cities, ids, and the words that are right."""
    asked = [*world.told, *world.declined]
    ids = torch.tensor([[0, *(world.ids[w] for w in question(world, i).split())] for i in asked])
    return asked, ids, torch.tensor([world.ids[world.facts[i][1]] for i in asked])


def _learn(model, ids, loss, seed, steps, lr):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    gen = generator(seed, "afterwards")
    for _ in range(steps):
        rows = torch.randperm(len(ids), generator=gen)[:25]
        optimizer.zero_grad()
        loss(model(ids[rows])[:, -1].log_softmax(-1), rows).backward()
        optimizer.step()
    return model.eval()


def reward(model, world, seed, wrong, steps=150, lr=2e-3):
    """Train a model on its answers' worth: right 1, IDK 0, anything else −wrong. In place.

    The questions are those of the told and of the declined cities; the expectation over all
    answers is exact, as an answer is one word: −Σ_a p(a) r(a).
    """
    _, ids, right = _asked(world)
    worth = torch.full((len(ids), len(world.words)), -float(wrong))
    worth[torch.arange(len(ids)), right] = 1.0
    worth[:, world.ids[IDK]] = 0.0
    return _learn(
        model, ids, lambda q, rows: -(q.exp() * worth[rows]).sum(-1).mean(), seed, steps, lr
    )


def show(model, world, seed, steps=150, lr=2e-3):
    """Train a model on written answers to the same questions, IDK for the declined. In place."""
    asked, ids, right = _asked(world)
    declined = torch.tensor([i in set(world.declined) for i in asked])
    wanted = right.where(~declined, world.ids[IDK])
    return _learn(
        model, ids, lambda q, rows: -q.gather(-1, wanted[rows, None]).mean(), seed, steps, lr
    )


def standing(model, world):
    """By kind of city: right, idk (shares of likeliest answers), wrong, confidence."""
    found = {}
    for kind in ("told", "declined", "untold"):
        p, right = answers(model, world, getattr(world, kind))
        top, best = p.max(-1)
        idk = best == world.ids[IDK]
        found[kind] = {
            "right": (best == right).double().mean().item(),
            "idk": idk.double().mean().item(),
            "wrong": ((best != right) & ~idk).double().mean().item(),
            "confidence": top.double().mean().item(),
        }
    return found
