"""What "it" means, by who may look at whom: readers of two layers, trained from fresh weights.

In *The animal did not cross the street because it was too tired* the last word decides, and it
comes after "it". `python -m llmbook record attention` records these runs.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.attention import causal_mask

ANIMALS = "animal dog child cat horse goose man girl".split()
PLACES = "street river road bridge field park track path".split()
OF_ANIMALS, OF_PLACES = "tired scared hungry".split(), "wide busy deep".split()
IT, LAST = 8, 11  # "it", and the adjective that decides


def story(animal, place, adjective):
    """The words of a sentence whose "it" only its last word decides."""
    return f"the {animal} did not cross the {place} because it was too {adjective}".split()


def stories():
    """{"train": (ids, noun meant), "test": …} and the lexicon; test has unseen pairs of nouns."""
    rows = {"train": [], "test": []}
    for i, animal in enumerate(ANIMALS):
        for j, place in enumerate(PLACES):
            for adjective in OF_ANIMALS + OF_PLACES:
                meant = animal if adjective in OF_ANIMALS else place
                part = "test" if (i + j) % 4 == 0 else "train"
                rows[part].append((story(animal, place, adjective), meant))
    lexicon = sorted({word for part in rows.values() for words, _ in part for word in words})
    return {
        part: (
            torch.tensor([[lexicon.index(word) for word in words] for words, _ in given]),
            torch.tensor([lexicon.index(meant) for _, meant in given]),
        )
        for part, given in rows.items()
    }, lexicon


def glance(n=LAST + 1):
    """A causal mask in which "it" may also look at the last word."""
    mask = causal_mask(n, n)
    mask[IT, LAST] = True
    return mask


MASKS = {  # who may look at whom (rows look), and at which word the answer is asked
    "both ways": (torch.ones(LAST + 1, LAST + 1).bool(), IT),
    "causal": (causal_mask(LAST + 1, LAST + 1), IT),
    "causal, at the last word": (causal_mask(LAST + 1, LAST + 1), LAST),
    "causal, one glance ahead": (glance(), IT),
}


class Head(nn.Module):
    """One head of attention: project, attend."""

    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in "qkv")

    def forward(self, x, mask):
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = (q @ k.mT / math.sqrt(k.shape[-1])).masked_fill(~mask, -math.inf)
        return scores.softmax(-1) @ v


class Reader(nn.Module):
    """Two layers of one head and a small network, over words and their places; says a word."""

    def __init__(self, words, mask, at, width=32):
        super().__init__()
        self.mask, self.at = mask, at
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(0.1 * torch.randn(LAST + 1, width))
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "head": Head(width),
                    "mix": nn.Linear(width, width, bias=False),
                    "norm2": nn.LayerNorm(width),
                    "up": nn.Linear(width, 2 * width),
                    "down": nn.Linear(2 * width, width),
                }
            )
            for _ in range(2)
        )
        self.out = nn.Linear(width, words)

    def forward(self, ids):
        x = self.words(ids) + self.places
        for part in self.layers:
            x = x + part["mix"](part["head"](part["norm1"](x), self.mask))
            x = x + part["down"](part["up"](part["norm2"](x)).relu())
        return self.out(x[:, self.at])


def resolved(mask, at, seed, steps=300):
    """The share of sentences with unseen pairs of nouns for which it names the noun meant.

    mask: bool (12, 12), True = may look; at: the word at which it is asked.
    """
    data, lexicon = stories()
    torch.manual_seed(seed)
    model = Reader(len(lexicon), mask, at)
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    x, y = data["train"]
    for _ in range(steps):
        rows = torch.randint(len(x), (64,))
        loss = F.cross_entropy(model(x[rows]), y[rows])
        adam.zero_grad()
        loss.backward()
        adam.step()
    x, y = data["test"]
    with torch.no_grad():
        return (model(x).argmax(-1) == y).double().mean().item()
