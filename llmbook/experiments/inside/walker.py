"""A small GPT that has read walks through a house, and the room in it: read by probes, and edited.

Nothing in what it reads names a room. A probe is one linear layer on what flows in the network
after a letter, trained on other walks to name the room; an edit moves what flows along the
probe's directions until the probe reads another room.
"""

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.experiments.inside import house
from llmbook.experiments.inside.house import LEADS, LENGTH, LETTERS, OPEN, ROOMS, START, Walks
from llmbook.experiments.inside.streams import through
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.seeds import generator
from llmbook.training.config import TrainConfig
from llmbook.training.log import Log
from llmbook.training.loop import train

STEPS, ROWS, CHUNK = 900, 128, 100
WIDTH, LAYERS, HEADS = 64, 3, 4
FIRST = 6  # places from which rooms are read: before, few are within reach
PROBED, TESTED = 1500, 400  # walks


def network(seed):
    """The model before it has read anything."""
    torch.manual_seed(seed)
    return GPT(GPTConfig(START + 1, LENGTH, WIDTH, LAYERS, HEADS))


def train_walker(seed, steps=STEPS):
    """A GPT that has read `steps` times ROWS walks, none of them held out."""
    model, held = network(seed), {}

    def batch_at(step):
        chunk = step // CHUNK
        if chunk not in held:
            held.clear()
            held[chunk] = house.drawn(CHUNK * ROWS, seed, f"walks {chunk}", held=False)
        walks = held[chunk][slice(step % CHUNK * ROWS, (step % CHUNK + 1) * ROWS)]
        return walks.ids, walks.letters

    config = TrainConfig(
        steps=steps,
        batch_size=ROWS,
        lr=4e-3,
        warmup=100,
        weight_decay=0.05,
        beta2=0.98,
        final_lr=0.01,
        seed=seed,
        precision="float32",
        evaluate_every=0,
    )
    train(model, batch_at, config, log=Log(progress=False))
    return model.eval()


def expected(logits):
    """Probabilities of the letters: (…, START + 1) → (…, letters)."""
    return logits[..., : len(LETTERS)].softmax(-1)


@torch.no_grad()
def knows_the_rules(model, walks):
    """Share of likeliest letters that the room has, probability on its doors, nats a letter.

    From place FIRST on; best: the nats of the true distribution.
    """
    p, may = expected(model(walks.ids))[:, FIRST:], walks.open[:, FIRST:]
    best = may.gather(-1, p.argmax(-1, keepdim=True))
    came = p.gather(-1, walks.letters[:, FIRST:, None])
    return {
        "likeliest is a door": best.double().mean().item(),
        "probability on doors": (p * may).sum(-1).double().mean().item(),
        "nats": -came.log().mean().item(),
        "best": may.sum(-1).double().log().mean().item(),
    }


# --- probes


def fit(features, rooms, seed, hidden=0, steps=400):
    """A probe: features (n, width), rooms (n,) → a module to (n, ROOMS) logits.

    One linear layer; with hidden > 0, one of ReLU units before it.
    """
    torch.manual_seed(seed)
    width = features.shape[1]
    if hidden:
        probe = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, ROOMS))
    else:
        probe = nn.Linear(width, ROOMS)
    optimizer = torch.optim.Adam(probe.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    gen = generator(seed, "probe")
    for _ in range(steps):
        rows = torch.randint(len(features), (1024,), generator=gen)
        optimizer.zero_grad()
        F.cross_entropy(probe(features[rows]), rooms[rows]).backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


@torch.no_grad()
def right(probe, features, rooms):
    """The share of rooms that a probe names right."""
    return (probe(features).argmax(-1) == rooms).double().mean().item()


def flat(x):
    """From place FIRST on, walk by walk: (walks, LENGTH, …) → (walks · places, …)."""
    return x[:, FIRST:].flatten(0, 1)


def letters_read(walks, back=LENGTH):
    """What was read, for a probe: each of the last `back` letters, and how often each came.

    (walks, LENGTH, back · 7 + 7): which token stood so many places back (0 for none), and counts.
    """
    one_hot = F.one_hot(walks.ids, START + 1).float()
    past = F.pad(one_hot, (0, 0, back - 1, 0)).unfold(1, back, 1)  # (walks, LENGTH, 7, back)
    return torch.cat([past.flatten(2), one_hot.cumsum(1)], -1)


def by_table(trained, walks, back):
    """Share of rooms named right by a table: the commonest room after the same last letters."""
    powers = (START + 1) ** torch.arange(back)

    def keys(some):
        return flat((F.pad(some.ids, (back - 1, 0)).unfold(1, back, 1) * powers).sum(-1))

    counts = torch.zeros((START + 1) ** back, ROOMS)
    counts.index_put_((keys(trained), flat(trained.rooms)), torch.ones(()), accumulate=True)
    return (counts[keys(walks)].argmax(-1) == flat(walks.rooms)).double().mean().item()


# --- edits


def move(x, weight, bias, here, there, strength=1.0):
    """Move x (n, d_model) until a probe reads room `there` over `here` as it read here over there.

    x − (1 + strength) · (w·x + b) / |w|² · w with w = w_here − w_there: strength 1 mirrors x at
    the border between the two rooms; here, there (n,).
    """
    w = weight[here] - weight[there]
    margin = (w * x).sum(-1) + bias[here] - bias[there]
    return x - ((1 + strength) * margin / w.square().sum(-1))[..., None] * w


@torch.no_grad()
def edited(model, walks, places, there, probes, layers, strength=1.0, random=None):
    """What is expected after an edit at one place of each walk: (n, letters), states, logits.

    places, there (n,): where, and which room is put in. probes: by layer, linear. layers: after
    how many blocks the edit is made. random: a generator, for a step as long at random.
    """
    rows = torch.arange(len(places))
    here = walks.rooms[rows, places]

    def change(layer, x):
        if layer not in layers:
            return x
        old = x[rows, places]
        new = move(old, probes[layer].weight, probes[layer].bias, here, there, strength)
        if random is not None:
            way = F.normalize(torch.randn(old.shape, generator=random), dim=-1)
            new = old + (new - old).norm(dim=-1, keepdim=True) * way
        x = x.clone()
        x[rows, places] = new
        return x

    states, logits = through(model, walks.ids, change)
    return expected(logits[rows, places]), states, logits


def cases(walks, gen):
    """A place of each walk, not at its ends, and a room with other doors: (n,), (n,)."""
    places = torch.randint(FIRST, LENGTH - 4, (len(walks.letters),), generator=gen)
    here = walks.rooms[torch.arange(len(places)), places]
    other = (OPEN[here][:, None] != OPEN[None]).any(-1)  # (n, ROOMS): with other doors
    there = (torch.rand(other.shape, generator=gen) * other).argmax(-1)
    return places, there


def wrong_letters(p, may):
    """Of the n likeliest letters, n the number of doors: false and missed ones, (n,)."""
    rank = p.argsort(-1, descending=True).argsort(-1)
    return ((rank < may.sum(-1, keepdim=True)) != may).sum(-1).double()


@torch.no_grad()
def carried(model, walks, places, there, probes, layers, strength, reading):
    """Does the network walk on from the room that it was put in? Shares of the next place's room.

    After the edit a door of the new room is taken. edited: read is the room behind it; written:
    read is what the letters say, where that door was there too.
    """
    rows = torch.arange(len(places))
    here = walks.rooms[rows, places]
    shared = OPEN[here] & OPEN[there]
    use = shared.any(-1)
    letter = shared.long().argmax(-1)
    letters = walks.letters.clone()
    letters[rows, places] = letter
    walks = Walks(letters, walks.rooms)[use]
    places, here, there, letter = (x[use] for x in (places, here, there, letter))
    _, states, _ = edited(model, walks, places, there, probes, layers, strength)
    read = probes[reading](states[reading][torch.arange(len(places)), places + 1]).argmax(-1)
    differ = LEADS[there, letter] != LEADS[here, letter]
    return {
        "edited": (read == LEADS[there, letter])[differ].double().mean().item(),
        "written": (read == LEADS[here, letter])[differ].double().mean().item(),
    }


# --- is it one map?


@torch.no_grad()
def back_and_forth(model, probe, layer, gen, times, walks=400):
    """After eight letters one door is taken `times` times: likeliest is a door, room right."""
    some = house.draw(walks, gen, 8)
    room = house.follow(some.letters)[:, -1]
    door = (torch.rand(walks, len(LETTERS), generator=gen) * OPEN[room]).argmax(-1)
    letters = torch.cat([some.letters, door[:, None].expand(-1, times)], 1)
    room = house.follow(letters)[:, -1]
    ids = torch.cat([torch.full((walks, 1), START), letters], 1)
    states, logits = through(model, ids)
    best = expected(logits[:, -1]).argmax(-1, keepdim=True)
    return {
        "likeliest is a door": OPEN[room].gather(-1, best).double().mean().item(),
        "room": (probe(states[layer][:, -1]).argmax(-1) == room).double().mean().item(),
        "doors": same_doors(expected(logits[:, -1]), room).double().mean().item(),
    }


def same_doors(p, rooms):
    """Whether just the room's doors get more than a twentieth each: bool, one a place."""
    return ((p > 0.05) == OPEN[rooms]).all(-1)


@torch.no_grad()
def compared(model, walks):
    """Two walks to one room should be told the same: over random pairs from place FIRST on.

    doors: the share of places with just the right doors; both: of pairs in which both are;
    apart: mean total variation between the two distributions of a pair.
    """
    p, rooms = flat(expected(model(walks.ids))), flat(walks.rooms)
    order = torch.argsort(rooms, stable=True)
    first, second = order[:-1], order[1:]
    pair = rooms[first] == rooms[second]
    right_doors = same_doors(p, rooms)
    return {
        "doors": right_doors.double().mean().item(),
        "both": (right_doors[first] & right_doors[second])[pair].double().mean().item(),
        "apart": (p[first] - p[second]).abs().sum(-1)[pair].double().mean().item() / 2,
    }
