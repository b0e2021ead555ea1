"""Facts in weights and facts in passages: a small model with a cut-off date, and a search.

A world of cities. Until the cut-off each has a head, and a model reads that again and again; it
also reads passages before a question, some of them about people whom it has never heard of. Then
a third of the cities get a new head. The store of passages is searched by BM25.

    fact        the head of CITY is NAME
    row         passages (the head of CITY is NAME .), then: the head of CITY is → NAME

In training the person in a passage is drawn at random, so that only reading tells.
"""

import math
import random
from collections import Counter

import torch
import torch.nn.functional as F

from llmbook.experiments.fit import fit
from llmbook.experiments.outlook.hybrids import Hybrid
from llmbook.seeds import generator, number

N_CITIES = N_PEOPLE = 42
CITIES = [a + b for a in "mi to ka ve lu no ra".split() for b in "ran vos lim den sta mur".split()]
PEOPLE = [a + b for a in "An Be Ca Da El Fa Go".split() for b in "na ro li mi sa du".split()]
FRAME = "the head of is . river mayor".split()
WORDS = ["⊔", *FRAME, *CITIES, *PEOPLE]
IDS = {word: i for i, word in enumerate(WORDS)}
PASSAGE, ASKED = 7, 5  # words of a passage and of a question
CHANGED = 14  # cities with a new head after the cut-off
MOST, LONG = 4, 12  # passages in training, and in the long test
STEPS, ROWS, LATER = 800, 32, 60
ABSENT = 0.25  # share of rows with passages that do not help: the answer is in the weights


class Search:
    """BM25 over texts: `Search(texts).best("who heads miran", 3)` → places of the likeliest.

    score = Σ_words idf · f (k + 1) / (f + k (1 − b + b · length / mean length)), f how often the
    word stands in the text, idf = ln(1 + (N − n + ½) / (n + ½)). Source: Robertson and Zaragoza
    2009, with the idf that cannot become negative.
    """

    def __init__(self, texts, k=1.5, b=0.75):
        self.counts = [Counter(text.split()) for text in texts]
        self.lengths = [sum(c.values()) for c in self.counts]
        self.mean = sum(self.lengths) / len(texts)
        self.k, self.b = k, b
        found = Counter(word for c in self.counts for word in c)
        n = len(texts)
        self.idf = {w: math.log(1 + (n - m + 0.5) / (m + 0.5)) for w, m in found.items()}

    def scores(self, query):
        """One number for each text."""
        out = []
        for counts, length in zip(self.counts, self.lengths, strict=True):
            room = self.k * (1 - self.b + self.b * length / self.mean)
            out.append(
                sum(
                    self.idf[w] * counts[w] * (self.k + 1) / (counts[w] + room)
                    for w in query.split()
                    if w in counts
                )
            )
        return out

    def best(self, query, n=1):
        """Places of the n texts with the highest scores; of equals the earlier first."""
        scores = self.scores(query)
        return sorted(range(len(scores)), key=lambda i: -scores[i])[:n]


def world(seed):
    """(heads until the cut-off, heads after it): a place in PEOPLE for each city."""
    rng = random.Random(number(seed, "heads"))
    before = [rng.randrange(N_PEOPLE) for _ in CITIES]
    after = list(before)
    for city in rng.sample(range(N_CITIES), CHANGED):
        after[city] = (before[city] + rng.randrange(1, N_PEOPLE)) % N_PEOPLE
    return torch.tensor(before), torch.tensor(after)


def rows(passages, asked):
    """Ids of rows: passages (n, k, 2) of city and person, asked (n,) → (n, 1 + 7 k + 5)."""
    n, k = passages.shape[:2]
    out = torch.zeros(n, 1 + PASSAGE * k + ASKED, dtype=torch.int64)
    for i in range(k + 1):
        start = 1 + PASSAGE * i
        city = passages[:, i, 0] if i < k else asked
        for j, word in enumerate(("the", "head", "of")):
            out[:, start + j] = IDS[word]
        out[:, start + 3] = IDS[CITIES[0]] + city
        out[:, start + 4] = IDS["is"]
        if i < k:
            out[:, start + 5] = IDS[PEOPLE[0]] + passages[:, i, 1]
            out[:, start + 6] = IDS["."]
    return out


def other_cities(asked, k, gen):
    """k cities for each row, none of them the one asked: (n, k)."""
    step = 1 + torch.rand(len(asked), N_CITIES - 1, generator=gen).argsort(-1)[:, :k]
    return (asked[:, None] + step) % N_CITIES


def contexts(heads, n, k, gen):
    """k passages and a question each: passages (n, k, 2), asked (n,), answers (n,).

    With probability ABSENT no passage is about the city that is asked; the answer is the known.
    """
    asked = torch.randint(N_CITIES, (n,), generator=gen)
    cities = other_cities(asked, k, gen)
    place = torch.randint(k, (n,), generator=gen) if k else None
    helps = torch.rand(n, generator=gen) >= ABSENT
    if k:
        cities[torch.arange(n)[helps], place[helps]] = asked[helps]
    people = torch.randint(N_PEOPLE, cities.shape, generator=gen)
    answers = heads[asked].clone()
    if k:
        answers[helps] = people[torch.arange(n)[helps], place[helps]]
    return torch.stack([cities, people], -1), asked, answers


def person_loss(model, ids, answers):
    """Cross-entropy of the name behind each row."""
    return F.cross_entropy(model(ids)[:, -1], IDS[PEOPLE[0]] + answers)


def raise_model(seed, steps=STEPS):
    """A model that knows the heads until the cut-off and reads passages; and the seconds."""
    torch.manual_seed(seed)
    model = Hybrid(("attention", "attention"), False, len(WORDS), 48, 96)
    before, gen = world(seed)[0], generator(seed, "retrieval")

    def loss_at(step):
        if step % 3 == 0:
            alone = torch.randint(N_CITIES, (ROWS,), generator=gen)
            return person_loss(model, rows(torch.zeros(ROWS, 0, 2).long(), alone), before[alone])
        passages, asked, answers = contexts(before, ROWS, 1 + step % MOST, gen)
        return person_loss(model, rows(passages, asked), answers)

    return model, fit(model, loss_at, steps, 5e-3, fused=True)


@torch.no_grad()
def says(model, passages, asked):
    """The likeliest person for each row: (n,) places in PEOPLE."""
    first = IDS[PEOPLE[0]]
    return model(rows(passages, asked))[:, -1, first : first + N_PEOPLE].argmax(-1)


def share(right):
    """A bool tensor's mean, as a number."""
    return round(right.double().mean().item(), 4)


def store(after, seed):
    """What a search may find, heads, rivers and mayors: (texts, (city, person) of the heads)."""
    rng = random.Random(number(seed, "store"))
    texts, facts = [], []
    for city in range(N_CITIES):
        texts.append(f"the head of {CITIES[city]} is {PEOPLE[after[city]]} .")
        facts.append((city, int(after[city])))
        texts.append(f"the river of {CITIES[city]} is {rng.choice(CITIES)} .")
        facts.append(None)
        texts.append(f"the mayor of {CITIES[city]} is {rng.choice(PEOPLE)} .")
        facts.append(None)
    order = list(range(len(texts)))
    rng.shuffle(order)
    return [texts[i] for i in order], [facts[i] for i in order]


def evaluate(model, before, after, gen):
    """All that is asked of a model, as shares."""
    every = torch.arange(N_CITIES)
    new = before != after
    none = torch.zeros(N_CITIES, 0, 2).long()
    alone = says(model, none, every)
    found = {"known, without a passage": share(alone[~new] == before[~new])}
    found["changed, without a passage"] = share(alone[new] == after[new])
    right = torch.stack([every, after], 1)[:, None]
    read = says(model, right, every)
    found["changed, right passage"] = share(read[new] == after[new])
    wrong = (before + 1 + torch.randint(N_PEOPLE - 1, (N_CITIES,), generator=gen)) % N_PEOPLE
    led = says(model, torch.stack([every, wrong], 1)[:, None], every)
    found["known, wrong passage: right"] = share(led == before)
    found["known, wrong passage: repeats it"] = share(led == wrong)
    beside = other_cities(every, 1, gen)
    stranger = says(model, torch.stack([beside, wrong[:, None]], -1), every)
    found["known, passage of another city: right"] = share(stranger == before)
    return found


def by_place(model, k, gen, n=400):
    """Share right by the place of the helping passage among k; all persons are made up."""
    found = []
    for place in range(k):
        asked = torch.randint(N_CITIES, (n,), generator=gen)
        cities = other_cities(asked, k, gen)
        cities[:, place] = asked
        people = torch.randint(N_PEOPLE, cities.shape, generator=gen)
        got = says(model, torch.stack([cities, people], -1), asked)
        found.append(share(got == people[:, place]))
    return found


def train_further(model, before, after, seed, keep, steps=LATER):
    """Read the new heads, or with keep all that hold now: the other remedy, in place."""
    gen = generator(seed, "further")
    cities = torch.arange(N_CITIES) if keep else (before != after).nonzero()[:, 0]

    def loss_at(step):
        asked = cities[torch.randint(len(cities), (ROWS,), generator=gen)]
        return person_loss(model, rows(torch.zeros(ROWS, 0, 2).long(), asked), after[asked])

    return fit(model, loss_at, steps, 1e-3, fused=True)


def retrieval_run(seed, steps=STEPS, later=LATER):
    """Raise a model, ask it all, and ask again after two kinds of further training."""
    before, after = world(seed)
    model, seconds = raise_model(seed, steps)
    model.eval()
    gen = generator(0, "retrieval test")
    found = {**evaluate(model, before, after, gen), "seconds": seconds}
    found["by place"] = {str(k): by_place(model, k, gen) for k in (MOST, LONG)}
    texts, facts = store(after, seed)
    search, new = Search(texts), (before != after).nonzero()[:, 0].tolist()
    first = [facts[search.best(f"who is the head of {CITIES[c]}")[0]] for c in new]
    found["search finds it first"] = sum(
        f is not None and f[0] == c for f, c in zip(first, new)
    ) / len(new)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    for name, keep in (("new facts only", False), ("all facts", True)):
        model.load_state_dict(start)
        train_further(model, before, after, seed, keep, later)
        test = generator(0, "retrieval test")
        found[f"after training on {name}"] = evaluate(model, before, after, test)
    return found
