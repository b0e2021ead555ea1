"""Words that learn by guessing their neighbours, in a small world of sentences: recorded.

Rulers, furniture, prices and animals, a few sentences each. "king" and "queen" share most of
their sentences and have some of their own; "cheap" and "expensive" share all. A word's row of a
table is trained to guess the words up to REACH places away, with a full softmax (skip-gram,
Mikolov et al. 2013); nothing else is told. Seeds differ in the text and in the start.

`python -m llmbook record skip_gram` makes what the record lacks.
"""

import random

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.experiments.record import RECORDED, by_seed

OUT, GOES_ON = RECORDED / "skip_gram_runs.json", True
SEEDS = (1, 2, 3, 4, 5)
WIDTH, SENTENCES, REACH, STEPS = 128, 4000, 3, 200

WORLD = {
    "king queen": [
        "the {} wears a golden crown",
        "the {} sits on a throne",
        "the {} rules the old kingdom",
        "a wise {} leads",
    ],
    "prince princess": [
        "the young {} lives in the castle",
        "the {} wears a small crown",
        "a {} learns to ride",
    ],
    "table chair desk shelf": [
        "the {} stands in the room",
        "a wooden {} costs money",
        "we painted the {} white",
        "he repaired the broken {}",
    ],
    "cheap expensive": ["the ticket was very {}", "that hotel is too {}", "the {} meal in town"],
    "cat dog": ["the {} chases a mouse", "she feeds the {} at night", "a {} sleeps by the fire"],
}
OWN = [  # twice as often as the others: what tells a king from a queen
    ("king", "the {} loves his wife"),
    ("prince", "the {} has a sister"),
    ("queen", "the {} loves her husband"),
    ("princess", "the {} has a brother"),
]
WORDS = " ".join(WORLD).split()  # those whose distances are looked at
FACTS = [
    (word, line) for group, lines in WORLD.items() for word in group.split() for line in lines
]
FACTS += 2 * OWN


def neighbours(seed):
    """Pairs (word, neighbour) of a random text, (pairs, 2), and its vocabulary, {word: id}."""
    rng = random.Random(seed)
    told = [line.format(word).split() for word, line in rng.choices(FACTS, k=SENTENCES)]
    index = {word: i for i, word in enumerate(sorted({w for line in told for w in line}))}
    pairs = [
        (index[line[i]], index[line[j]])
        for line in told
        for i in range(len(line))
        for j in range(max(0, i - REACH), min(len(line), i + REACH + 1))
        if i != j
    ]
    return torch.tensor(pairs), index


def train(seed, steps=STEPS):
    """The table before and after training, (words, WIDTH) each, and the vocabulary {word: id}."""
    pairs, index = neighbours(seed)
    torch.manual_seed(seed)
    table = nn.Embedding(len(index), WIDTH)
    nn.init.normal_(table.weight, std=0.1)
    guess = nn.Linear(WIDTH, len(index), bias=False)
    before = table.weight.detach().clone()
    adam = torch.optim.Adam([*table.parameters(), *guess.parameters()], 1e-2)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        word, near = pairs[torch.randint(len(pairs), (1024,), generator=draw)].T
        loss = F.cross_entropy(guess(table(word)), near)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return before, table.weight.detach(), index


def nearness(before, after, index):
    """Cosines of four pairs of trained rows; at the start, the mean size of a cosine."""
    unit = F.normalize(before, dim=1)
    other = ~torch.eye(len(unit), dtype=torch.bool)
    found = {"mean size at the start": (unit @ unit.T)[other].abs().mean().item()}
    for pair in ("king queen", "king table", "cheap expensive", "cheap table"):
        a, b = (after[index[word]] for word in pair.split())
        found[pair] = F.cosine_similarity(a, b, dim=0).item()
    return {name: round(value, 4) for name, value in found.items()}


def over_seeds(name):
    """What was recorded of a pair, or of the start: a value a seed."""
    return by_seed(OUT, "world", "", name)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    points = [("world", str(seed), (lambda seed: nearness(*train(seed)), seed)) for seed in SEEDS]
    record.make_missing(points)
