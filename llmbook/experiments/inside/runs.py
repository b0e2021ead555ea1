"""The record of what is inside, and what is not known: `python -m llmbook record inside`.

    walker      read walks through a house; the room in it is read and edited (seed 1 ships)
    facts       what it says of things that it was never told; guessing and declining
    shares      engineers that are "he": what decoding makes of a proportion, and what data do
    features    a sparse dictionary of the shipped GPT, and of one that has learned nothing

Every run is a function of its key, so that a killed recording goes on with the next key.
"""

import copy

import torch
from safetensors.torch import load, save
from torch import nn

from llmbook.data.folders import write_json
from llmbook.experiments import toy_world
from llmbook.experiments.inside import facts, house, opened, walker
from llmbook.experiments.inside.streams import through
from llmbook.experiments.record import RECORDED, by_seed, recorded
from llmbook.models.gpt import GPT
from llmbook.models.pretrained import SHIPPED
from llmbook.seeds import generator

SEEDS = (1, 2, 3, 4, 5)
OUT, GOES_ON = RECORDED / "inside_runs.json", True
WEIGHTS = SHIPPED / "walker"  # of seed 1, for the figure in which one walks
EDIT, READ, STRENGTH = 2, 3, 4.0  # after which block a room is put in, and read; how far
STRENGTHS = (1.0, 2.0, 4.0)
TIMES = (0, 2, 4, 6, 8, 10, 12, 14)
SHARES = (50, 70, 90)

# --- the walker


def probes_of(model, seed):
    """A linear probe of what flows after each block, on walks that it was not tested on."""
    walks = house.drawn(walker.PROBED, seed, "probe", held=False)
    with torch.no_grad():
        states, _ = through(model, walks.ids)
    rooms = walker.flat(walks.rooms)
    return {
        layer: walker.fit(walker.flat(states[layer]), rooms, seed)
        for layer in range(len(model.blocks) + 1)
    }


def readings(model, probes, seed):
    """Shares of rooms that are read right, by the network's probes and by all controls."""
    trained = house.drawn(walker.PROBED, seed, "probe", held=False)
    tested = house.drawn(walker.TESTED, seed, "test", held=True)
    train_rooms, rooms = walker.flat(trained.rooms), walker.flat(tested.rooms)

    def of(network):
        with torch.no_grad():
            return [through(network, some.ids)[0] for some in (trained, tested)]

    _, states = of(model)
    found = {
        "layers": [walker.right(p, walker.flat(states[n]), rooms) for n, p in probes.items()],
        "tables": {b: walker.by_table(trained, tested, b) for b in (1, 2, 3, 4, 5)},
    }
    blank, blank_test = of(walker.network(seed + 100))
    found["untrained"] = [
        walker.right(
            walker.fit(walker.flat(blank[n]), train_rooms, seed), walker.flat(blank_test[n]), rooms
        )
        for n in range(1, len(blank))
    ]
    for name, hidden in (("letters", 0), ("letters, 64 hidden", 64)):
        x, y = (walker.flat(walker.letters_read(some)) for some in (trained, tested))
        found[name] = walker.right(walker.fit(x, train_rooms, seed, hidden), y, rooms)
    return found


def edits(model, probes, seed):
    """What is expected after an edit: probability on the doors of the new room and of the old."""
    walks = house.drawn(walker.TESTED, seed, "test", held=True)
    places, there = walker.cases(walks, generator(seed, "cases"))
    new, old = house.OPEN[there], walks.open[torch.arange(len(places)), places]

    def told(p):
        return {
            "new": (p * new).sum(-1).double().mean().item(),
            "old": (p * old).sum(-1).double().mean().item(),
            "wrong": walker.wrong_letters(p, new).mean().item(),
        }

    ask = (model, walks, places, there, probes)
    with torch.no_grad():
        none = walker.expected(model(walks.ids)[torch.arange(len(places)), places])
    found = {"none": told(none)}
    for layer in range(1, len(model.blocks) + 1):
        for strength in STRENGTHS:
            p, _, _ = walker.edited(*ask, (layer,), strength)
            found[f"{layer}/{strength:g}"] = told(p)
    p, _, _ = walker.edited(*ask, (EDIT,), STRENGTH, generator(seed, "random"))
    found["random"] = told(p)
    found["carried"] = walker.carried(*ask, (EDIT,), STRENGTH, READ)
    return found


def walked(seed, steps=walker.STEPS):
    """One run of `walker`: numbers, and (model, probes)."""
    model = walker.train_walker(seed, steps)
    probes = probes_of(model, seed)
    tested = house.drawn(walker.TESTED, seed, "test", held=True)
    numbers = {
        "rules": walker.knows_the_rules(model, tested),
        "read": readings(model, probes, seed),
        "edits": edits(model, probes, seed),
        "pairs": walker.compared(model, tested),
        "back and forth": {
            n: walker.back_and_forth(model, probes[READ], READ, generator(seed, "door", n), n)
            for n in TIMES
        },
    }
    return numbers, (model, probes)


def ship(model, probes):
    """Write the walker, its probes and random directions as float16 into `weights/walker`."""
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    held = {f"model.{k}": v for k, v in model.state_dict().items() if k != "head.weight"}
    for layer, probe in probes.items():
        if layer:
            held |= {f"probe.{layer}.{k}": v for k, v in probe.state_dict().items()}
    held["ways"] = nn.functional.normalize(
        torch.randn(house.ROOMS, walker.WIDTH, generator=generator(0, "ways")), dim=-1
    )
    (WEIGHTS / "walker.safetensors").write_bytes(
        save({k: v.half().contiguous() for k, v in held.items()})
    )


def shipped():
    """(model, {layer: (weight, bias)}, random directions (ROOMS, d_model)) of the walker."""
    held = {k: v.float() for k, v in load((WEIGHTS / "walker.safetensors").read_bytes()).items()}
    model = walker.network(0)
    own = {k.removeprefix("model."): v for k, v in held.items() if k.startswith("model.")}
    model.load_state_dict({**own, "head.weight": own["tokens.weight"]})
    probes = {
        layer: tuple(held[f"probe.{layer}.{k}"] for k in ("weight", "bias"))
        for layer in range(1, walker.LAYERS + 1)
    }
    return model.eval(), probes, held["ways"]


# --- facts


def pooled(model, world):
    """Confidence and whether it is right of every city's answer, in the order of the cities."""
    p, right = facts.answers(model, world, range(len(world.facts)))
    top, best = p.max(-1)
    return [round(v, 4) for v in top.tolist()], (best == right).tolist()


def told_and_not(seed):
    """One run of `facts`: a model that was told some, and what makes it decline."""
    world = facts.build(seed)
    model = toy_world.raise_model(world, world.family, seed)
    honest = toy_world.raise_model(world, world.honest, seed)
    confidence, right = pooled(model, world)
    arms = {
        "as told": model,
        "with examples": honest,
        "shown afterwards": facts.show(copy.deepcopy(model), world, seed),
        "guessing costs 0": facts.reward(copy.deepcopy(model), world, seed, 0),
        "guessing costs 1": facts.reward(copy.deepcopy(model), world, seed, 1),
        "guessing costs 1, after examples": facts.reward(copy.deepcopy(honest), world, seed, 1),
    }
    return {
        "confidence": confidence,
        "right": right,
        "told": sorted(world.told),
        "arms": {name: facts.standing(one, world) for name, one in arms.items()},
        "scaled": facts.scaled(model, world),
    }


def share_of(seed, share):
    """One run of `shares`: the proportions that a model learned from a text with another."""
    world = facts.build(seed, share)
    model = toy_world.raise_model(world, world.family, seed)
    p = toy_world.ask(model, world, ["the engineer said", "the nurse said"])
    he, she = (p[:, world.ids[word]] for word in ("he", "she"))
    return {
        "engineer: he": (he / (he + she))[0].item(),
        "nurse: she": (she / (he + she))[1].item(),
    }


# --- features


def dictionary(seed, which):
    """One run of `features`: of the shipped GPT, or of one that has learned nothing."""
    model, tokenizer = opened.small()
    if which == "untrained":
        torch.manual_seed(seed)
        model = GPT(model.config).eval()
    ids, _ = opened.windows(tokenizer, "train", opened.TOKENS)
    x = opened.stream(model, ids).flatten(0, 1)
    learned = opened.train_dictionary(x, seed)
    ids, targets = opened.windows(tokenizer, "validation", opened.TOKENS // 2)
    test = opened.stream(model, ids).flatten(0, 1)
    with torch.no_grad():
        f = learned.features(test)
    pure = opened.purity(f, ids.flatten())
    found = {
        "explained": opened.explained(learned, test),
        "used": len(pure),
        "one token": (pure == 1).double().mean().item(),
    }
    if which == "trained":
        mean = x.mean(0)
        found["nats"] = opened.spliced(model, ids, targets, lambda y: y)
        found["nats, rebuilt"] = opened.spliced(model, ids, targets, learned)
        found["nats, mean"] = opened.spliced(model, ids, targets, lambda y: mean.expand_as(y))
    return found


# --- recording


def points():
    """(part, key, (function, arguments…)) of every run."""
    for seed in SEEDS:
        yield "walker", f"{seed}", (walked, seed)
        yield "facts", f"{seed}", (told_and_not, seed)
        for share in SHARES:
            yield "shares", f"{share}/{seed}", (share_of, seed, share)
    for seed in SEEDS:
        for which in ("trained", "untrained"):
            yield "features", f"{which}/{seed}", (dictionary, seed, which)


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


def over_seeds(part, *path, arm=""):
    """What was recorded at a path, names inside each other, of one arm: a value a seed."""
    return by_seed(OUT, part, arm, *path)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""

    def keep(part, key, found):
        if part != "walker":
            return found
        numbers, trained = found
        if key == "1":
            ship(*trained)
            card = {"what": "a GPT that has read walks through a house, and its probes"}
            write_json(WEIGHTS / "card.json", {**card, "seed": 1, **record.about(), **numbers})
        return numbers

    record.make_missing(points(), keep, tell=lambda found: str(found)[:80])
