"""What looking back is worth: small trainings of translators and readers, recorded.

    translator  dates as people write them, into ISO form, letter by letter; its weights ship
    reversal    digits written backwards: nothing can be summarised, each counts
    pronoun     which of two nouns "it" means, by who may look at whom

Arms that are compared have one task, width, rate, batch, seeds and number of steps, and differ in
what their name says. Every run is a function of its key, so that a killed recording goes on with
the next one. `python -m llmbook record attention` records all of it.
"""

import math

import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from llmbook.data.tasks import dates, reversal
from llmbook.experiments.pronoun import MASKS, resolved
from llmbook.experiments.record import RECORDED, by_seed
from llmbook.models.pretrained import SHIPPED
from llmbook.recurrent import GRU
from llmbook.tokenization.characters import CharacterTokenizer

OUT, GOES_ON = RECORDED / "attention_runs.json", True
SEEDS = (1, 2, 3, 4, 5)
WEIGHTS = SHIPPED / "attention"  # of a translator trained longer, for the figure that reads dates

# --- a translator that may look back


class AdditiveScore(nn.Module):
    """e_j = v · tanh(W s + U h_j): a small network scores each state (Bahdanau et al. 2015)."""

    def __init__(self, width):
        super().__init__()
        self.W = nn.Linear(width, width, bias=False)
        self.U = nn.Linear(2 * width, width)
        self.v = nn.Linear(width, 1, bias=False)

    def forward(self, s, Uh):
        """s (batch, width), Uh (batch, source, width), made once a sentence → (batch, source)."""
        return self.v(torch.tanh(self.W(s)[:, None] + Uh)).squeeze(-1)


SCORES = {"no attention": None, "attention": AdditiveScore}


class Translator(nn.Module):
    """A bidirectional GRU reads; a GRU writes, given a context at every step.

    score: a name of `SCORES`. With "no attention" the context is the encoder's two last states,
    the same at every step; otherwise a mean of all its states, weighted anew at every step.
    """

    def __init__(self, n_source, n_target, width, score="attention"):
        super().__init__()
        self.begin = n_target
        self.source = nn.Embedding(n_source, width)
        self.target = nn.Embedding(n_target + 1, width)
        self.encoder = GRU(width, width, bidirectional=True)
        self.first = nn.Linear(2 * width, width)
        self.score = None if SCORES[score] is None else SCORES[score](width)
        self.cell = nn.GRUCell(3 * width, width)
        self.out = nn.Linear(4 * width, n_target)

    def encode(self, x, lengths):
        """All states (batch, source, 2 · width), and the last of both directions as one."""
        states, last = self.encoder(
            pack_padded_sequence(self.source(x), lengths, batch_first=True, enforce_sorted=False)
        )
        states, _ = pad_packed_sequence(states, batch_first=True)
        return states, torch.cat([last[0], last[1]], -1)

    def look(self, s, Uh, forbidden):
        """The weights of one step: (batch, source)."""
        return self.score(s, Uh).masked_fill(forbidden, -math.inf).softmax(-1)

    def forward(self, x, lengths, y=None, steps=None, hidden=None):
        """Logits (batch, target, symbols), and a list of weights (batch, source), one a step.

        With y the true symbol before is fed in, else the model's own. hidden: bool like x, True
        where no weight may fall.
        """
        states, context = self.encode(x, lengths)
        s = torch.tanh(self.first(context))
        forbidden = torch.arange(states.shape[1]) >= lengths[:, None]
        if hidden is not None:
            forbidden = forbidden | hidden
        Uh = self.score.U(states) if self.score else None
        previous = self.target(torch.full((len(x),), self.begin))
        logits, weights = [], []
        for t in range(steps or y.shape[1]):
            if self.score:
                weights.append(self.look(s, Uh, forbidden))
                context = (weights[-1][:, None] @ states)[:, 0]
            s = self.cell(torch.cat([previous, context], -1), s)
            logits.append(self.out(torch.cat([s, context, previous], -1)))
            symbol = logits[-1].argmax(-1) if y is None else y[:, t]
            previous = self.target(symbol)
        return torch.stack(logits, 1), weights


class Distracted(Translator):
    """A translator that may never read the state it wants most."""

    def look(self, s, Uh, forbidden):
        e = self.score(s, Uh).masked_fill(forbidden, -math.inf)
        return e.scatter(1, e.argmax(1, keepdim=True), -math.inf).softmax(-1)


def train(model, draw, steps, seed, lr=5e-3):
    """The losses of Adam with 20 steps of warm-up and a linear decay in the second half.

    draw(generator) → source ids (batch, source), their lengths (batch,), target ids.
    """
    g, weights, losses = torch.Generator().manual_seed(seed), list(model.parameters()), []
    adam = torch.optim.Adam(weights, lr)
    for i in range(steps):
        adam.param_groups[0]["lr"] = lr * min(1, (i + 1) / 20, 2 - 2 * i / steps)
        x, lengths, y = draw(g)
        logits, _ = model(x, lengths, y)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def right(model, x, lengths, y):
    """What it writes by itself, where it is right: bool (batch, target)."""
    return model(x, lengths, steps=y.shape[1])[0].argmax(-1) == y


# --- dates

LETTERS = CharacterTokenizer("".join(human for human, _ in dates(6000, generator=0)))
DIGITS = CharacterTokenizer("-0123456789")
DATE_STEPS, DATE_WIDTH = 400, 48


def as_ids(pairs):
    """Padded source ids, their lengths, target ids (n, 10)."""
    lengths = torch.tensor([len(human) for human, _ in pairs])
    x = torch.zeros(len(pairs), int(lengths.max()), dtype=torch.int64)
    for row, (human, _) in zip(x, pairs, strict=True):
        row[: len(human)] = torch.tensor(LETTERS.encode(human))
    return x, lengths, torch.tensor([DIGITS.encode(iso) for _, iso in pairs])


def new_dates(seed, n=400):
    """Ids of dates that a training with this seed has not seen."""
    seen = set(dates(6000, generator=seed))
    return as_ids([pair for pair in dates(n, generator=seed + 10_000) if pair not in seen])


def dates_translated(score, seed, steps):
    """({"characters", "dates", "losses"}, the model): shares right on new dates after training."""
    ids = as_ids(dates(6000, generator=seed))

    def some(g):
        rows = torch.randint(len(ids[0]), (64,), generator=g)
        return tuple(t[rows] for t in ids)

    torch.manual_seed(seed)
    model = Translator(len(LETTERS), len(DIGITS), DATE_WIDTH, score)
    losses = train(model, some, steps, seed)
    hits = right(model, *new_dates(seed)).double()
    found = {"characters": hits.mean().item(), "dates": hits.prod(1).mean().item()}
    thin = torch.tensor(losses).view(20, -1).mean(1)
    return found | {"losses": [round(v, 4) for v in thin.tolist()]}, model


# --- digits backwards

LENGTHS, TESTED, REVERSAL_STEPS, REVERSAL_WIDTH = (5, 10, 20), (5, 10, 15, 20, 30), 300, 64


def reversed_digits(score, seed):
    """{length: share of digits right} after 300 steps on lengths 5 to 20."""

    def some(g):
        n = LENGTHS[torch.randint(len(LENGTHS), (), generator=g)]
        x, y = reversal(32, n, generator=g)
        return x, torch.full((32,), n), y

    torch.manual_seed(seed)
    model = Translator(10, 10, REVERSAL_WIDTH, score)
    train(model, some, REVERSAL_STEPS, seed)
    found = {}
    for n in TESTED:
        x, y = reversal(100, n, generator=10_000 + seed)
        found[str(n)] = right(model, x, torch.full((100,), n), y).double().mean().item()
    return found


# --- weights that ship


def shipped():
    """A translator of dates trained for 400 steps, as it stands in the page."""
    model = Translator(len(LETTERS), len(DIGITS), DATE_WIDTH)
    held = load((WEIGHTS / "dates.safetensors").read_bytes())
    model.load_state_dict({name: value.float() for name, value in held.items()})
    return model.eval()


def ship(model):
    """Write a model's weights as float16."""
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    held = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    (WEIGHTS / "dates.safetensors").write_bytes(save(held))


# --- recording


def points():
    """(part, key, (function, arguments…)) of every run."""
    yield "translator", "attention/1", (dates_translated, "attention", 1, DATE_STEPS)
    for seed in SEEDS:
        for name, (mask, at) in MASKS.items():
            yield "pronoun", f"{name}/{seed}", (resolved, mask, at, seed)
    for seed in SEEDS:
        for score in ("attention", "no attention"):
            yield "reversal", f"{score}/{seed}", (reversed_digits, score, seed)


def over_seeds(part, name):
    """What was recorded of one arm, a value a seed."""
    return by_seed(OUT, part, name)


def add_arguments(parser):
    """The experiment's own options."""
    parts = ("translator", "pronoun", "reversal")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="which parts")


def run(options, record):
    """Make every run that the record lacks, writing it after each."""

    def keep(part, key, found):
        if not isinstance(found, tuple):
            return found
        numbers, model = found
        if part == "translator":
            ship(model)
        return numbers

    wanted = (point for point in points() if point[0] in options.only)
    record.make_missing(wanted, keep, tell=lambda found: str(found)[:80])
