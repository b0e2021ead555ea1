"""A world of 1,600 sentences in which everything is known, and tiny GPTs raised on it.

Who is the capital of what, which verb is right, how often engineers are "he": what a model of this
world says can be held to what its text says. `raised(diet, seed)` trains one. Diets, each the
world with one thing changed:

    as it is            every sentence as often as the world has it
    no sums             without the sums
    some sums left out  without those of two numbers that are three apart
    facts both ways     every fact also from the land to the city
    the likelier place  the cat always on the likelier place

One sentence is one row of a batch, one word one token. A run is a function of its diet and seed.
`python -m llmbook record toy_world` makes what the record lacks.
"""

import random
from dataclasses import dataclass
from functools import cached_property

import torch

from llmbook.experiments.record import RECORDED, by_seed
from llmbook.losses import IGNORED
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.seeds import generator
from llmbook.training.config import TrainConfig
from llmbook.training.log import Log
from llmbook.training.loop import train

OUT, GOES_ON = RECORDED / "toy_world_runs.json", True
SEEDS = (1, 2, 3, 4, 5)
STEPS, ROWS, LOOKS = 440, 64, 10
DIETS = ("as it is", "no sums", "some sums left out", "facts both ways", "the likelier place")
TOKENS = 8  # in a row, the mark before the first word among them
FEEL = "old new small green".split()
NAMES = [
    a + b
    for a in "mi to ka ve lu no ra si be do".split()
    for b in "ran vos lim den sta mur".split()
]  # sixty cities
VERBS = {"is": "are", "are": "is"}  # a verb, and the wrong one beside it


@dataclass(frozen=True)
class World:
    """family: sentences by kind; facts: (city, land); pairs: (beginning never read, its verb)."""

    family: dict
    facts: list
    pairs: list

    @cached_property
    def words(self):
        """All words in a fixed order; word 0 is the mark before a sentence."""
        spoken = {word for part in self.family.values() for line in part for word in line.split()}
        return ["⊔", *sorted(spoken)]

    @cached_property
    def ids(self):
        """dict from a word to its number."""
        return {word: i for i, word in enumerate(self.words)}

    def eaten(self, diet):
        """What a model of a diet reads: sentences by kind."""
        family = dict(self.family)
        if diet == "no sums":
            family["sums"] = []
        elif diet == "some sums left out":
            family["sums"] = all_sums(lambda a, b: not three_apart(a, b))
        elif diet == "facts both ways":
            family["facts"] = [line for i in range(len(self.facts)) for line in self._both_ways(i)]
        elif diet == "the likelier place":
            family["cat"] = ["the cat sat on the mat ."] * len(family["cat"])
        elif diet != "as it is":
            raise ValueError(f"diet must be one of {', '.join(DIETS)}: got {diet!r}")
        return family

    def _both_ways(self, i):
        city, land = self.facts[i]
        return [
            f"{city} is the capital of {land} .",
            f"the capital of {land} is {city} .",
        ] * how_often(i)


def three_apart(a, b):
    """Is this one of the 14 sums that a diet leaves out? Every answer has others."""
    return abs(a - b) == 3


def all_sums(wanted=lambda a, b: True):
    """The sums of two digits, each four times."""
    pairs = [(a, b) for a in range(10) for b in range(10) if wanted(a, b)]
    return [f"{a} + {b} = {a + b} ." for a, b in pairs] * 4


def how_often(i):
    """Fact number i stands three times in the text or six: rare and frequent ones alternate."""
    return 3 if i % 4 < 2 else 6


def agreement(rng):
    """ "The key near the cabinets is old": sentences, and beginnings with pairs never read."""
    nouns = "key cabinet dog child letter song road king".split()
    held = {(one, nouns[(i + 3) % 8]) for i, one in enumerate(nouns)}
    lines, pairs = [], []
    for one in nouns:
        for other in nouns:
            for s in ("", "s"):
                for z in ("", "s"):
                    verb, text = "are" if s else "is", f"the {one}{s} near the {other}{z}"
                    if (one, other) in held:
                        pairs.append((text, verb))
                    elif one != other:
                        lines += [f"{text} {verb} {rng.choice(FEEL)} ." for _ in range(2)]
    return lines, pairs


def build_world(seed):
    """The world of a seed: who rules where differs, the shares do not."""
    rng = random.Random(seed)
    lands = rng.sample([name + "ia" for name in NAMES], len(NAMES))
    facts = list(zip(NAMES, lands, strict=True))
    family = {"facts": [], "jobs": [], "letters": []}
    for i, (city, land) in enumerate(facts):
        family["facts"] += [f"{city} is the capital of {land} ."] * how_often(i)
        if i % 2 == 0:  # half of them also the other way round
            family["facts"] += [f"the capital of {land} is {city} ."] * how_often(i)
    family["grammar"], pairs = agreement(rng)
    for job, usual, other in (("nurse", "she", "he"), ("engineer", "he", "she")):
        family["jobs"] += [f"the {job} said {usual} was late ."] * 70
        family["jobs"] += [f"the {job} said {other} was late ."] * 30
    places = (("mat", 60), ("rug", 40))
    family["cat"] = [f"the cat sat on the {place} ." for place, n in places for _ in range(n)]
    for hello, goodbye in (("dear sir", "yours faithfully"), ("hey mate", "see ya")):
        family["letters"] += [
            f"{hello} the {thing} is {feel} {goodbye}"
            for thing in ("key", "dog", "song", "road")
            for feel in FEEL
            if (thing, feel) != ("road", "green")
        ] * 2
    family["sums"] = all_sums()
    family["buses"] = [f"bus {n} is late ." for n in range(19)] * 2
    return World(family, facts, pairs)


# --- raising a model


def rows_of(lines, ids):
    """Inputs and targets of sentences: (lines, TOKENS); behind a sentence nothing is asked."""
    x = torch.zeros(len(lines), TOKENS, dtype=torch.int64)
    y = torch.full_like(x, IGNORED)
    for row, line in enumerate(lines):
        numbers = [0, *(ids[word] for word in line.split())]
        x[row, : len(numbers) - 1] = torch.tensor(numbers[:-1])
        y[row, : len(numbers) - 1] = torch.tensor(numbers[1:])
    return x, y


def raise_model(world, diet, seed, steps=STEPS, look=None, looks=LOOKS):
    """A tiny GPT that has read a diet, a dict of sentences by kind. look(model): now and then."""
    x, y = rows_of([line for part in diet.values() for line in part], world.ids)
    draw = generator(seed, "diet")
    epochs = -(-steps * ROWS // len(x))
    order = torch.cat([torch.randperm(len(x), generator=draw) for _ in range(epochs)])
    torch.manual_seed(seed)
    model = GPT(GPTConfig(len(world.words), TOKENS, 64, 2, 2))
    with torch.no_grad():  # so small a model learns faster from larger embeddings
        model.tokens.weight *= 5
        model.positions.weight *= 5

    def batch_at(step):
        rows = order[step * ROWS : (step + 1) * ROWS]
        return x[rows], y[rows]

    config = TrainConfig(
        steps=steps,
        batch_size=ROWS,
        lr=8e-3,
        warmup=20,
        weight_decay=0.01,
        beta2=0.99,
        final_lr=0.01,
        seed=seed,
        precision="float32",
        evaluate_every=max(1, steps // looks) if look else 0,
    )
    train(model, batch_at, config, evaluate=look, log=Log(progress=False))
    return model.eval()


# --- asking it


@torch.no_grad()
def ask(model, world, beginnings):
    """Probabilities of the next word after beginnings of equal length: (beginnings, words)."""
    ids = torch.tensor([[0, *(world.ids[word] for word in line.split())] for line in beginnings])
    return model(ids)[:, -1].softmax(-1)


def skills(model, world):
    """What a model can do, as numbers from 0 to 1: shares that are right, or probabilities."""
    at = world.ids

    def right(beginnings, answers):
        best = ask(model, world, beginnings).argmax(-1)
        return (best == torch.tensor([at[a] for a in answers])).double()

    cities, lands = zip(*world.facts, strict=True)
    there = right([f"{city} is the capital of" for city in cities], lands)
    back = right([f"the capital of {land} is" for land in lands], cities)
    often = torch.tensor([how_often(i) == 6 for i in range(len(cities))])
    p = ask(model, world, [text for text, _ in world.pairs])
    agrees = [row[at[verb]] > row[at[VERBS[verb]]] for row, (_, verb) in zip(p, world.pairs)]
    sums = [(a, b) for a in range(10) for b in range(10)]
    digits = torch.tensor([at[str(n)] for n in range(19)])
    p = ask(model, world, [f"{a} + {b} =" for a, b in sums])[:, digits]
    off = (p.argmax(-1) - torch.tensor([a + b for a, b in sums])).abs()
    apart = torch.tensor([three_apart(a, b) for a, b in sums])
    letters = ask(model, world, ["dear sir the road is green", "hey mate the road is green"])
    cat = ask(model, world, ["the cat sat on the"])[0]
    jobs = ask(model, world, ["the engineer said", "the nurse said"])
    found = {
        "facts": there.mean(),
        "facts read often": there[often].mean(),
        "facts read rarely": there[~often].mean(),
        "reversed, read so": back[::2].mean(),
        "reversed, never read": back[1::2].mean(),
        "grammar": torch.stack(agrees).double().mean(),
        "sums": (off == 0).double().mean(),
        "sums, three apart": (off[apart] == 0).double().mean(),
        "sums, three apart, within one": (off[apart] <= 1).double().mean(),
        "sums, the others": (off[~apart] == 0).double().mean(),
        "style": min(letters[0, at["yours"]], letters[1, at["see"]]),
        "mat": cat[at["mat"]],
        "rug": cat[at["rug"]],
        "engineer: he": jobs[0, at["he"]],
        "nurse: she": jobs[1, at["she"]],
    }
    return {name: round(value.item(), 4) for name, value in found.items()}


def raised(diet, seed):
    """One run of the record: what a model of a diet can do at the end."""
    world = build_world(seed)
    return skills(raise_model(world, world.eaten(diet), seed), world)


def by_last_word(world):
    """Share of right verbs when the last word alone decides, as in a bigram model: 0.5 is luck."""
    follows = {}
    for line in world.family["grammar"]:
        words = line.split()
        for pair in zip(words, words[1:], strict=False):
            follows[pair] = follows.get(pair, 0) + 1
    scores = []
    for text, verb in world.pairs:
        last = text.split()[-1]
        good, bad = (follows.get((last, v), 0) for v in (verb, VERBS[verb]))
        scores.append(1.0 if good > bad else 0.5 if good == bad else 0.0)
    return sum(scores) / len(scores)


def over_seeds(diet):
    """What was recorded of a diet: skills, a dict a seed."""
    return by_seed(OUT, "world", diet)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    points = [
        ("world", f"{diet}/{seed}", (raised, diet, seed)) for seed in SEEDS for diet in DIETS
    ]
    record.make_missing(points, tell=lambda found: str(found)[:90])
