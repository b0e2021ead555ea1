"""What a recurrent network carries: small trainings whose right answer is known, recorded.

    recall, clipping, holding    see llmbook.experiments.recall
    order       which of two marks came first, inside a window of eight tokens and outside it
    suitcase    a sequence written backwards, with nothing but the last state handed over
    counting    aⁿbⁿ, sixteen small networks at once: the longest n that each gets right
    language    the next character of Python's documentation, by two networks of one size

Every run is a function of its key, so that a killed recording goes on with the next one.
`python -m llmbook record recurrent` records all of it.
"""

import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import nn

from llmbook.data import batches, documentation
from llmbook.data.tasks import anbn, reversal
from llmbook.experiments import recall
from llmbook.experiments.recall import SEEDS, Reader, accuracy, fit
from llmbook.experiments.record import RECORDED, by_seed, recorded
from llmbook.models.pretrained import SHIPPED
from llmbook.recurrent import GRU, LSTM, RNN
from llmbook.tokenization.characters import CharacterTokenizer

OUT, GOES_ON = RECORDED / "recurrent_runs.json", True
WEIGHTS = SHIPPED / "recurrent"  # of seed 1, for the figures that read a text

# --- order in a window

WINDOW, MARKS = 8, 8


def marks(length, n=64):
    """Noise with one A (0) and one B (1) in the first eight places; was A first?"""

    def draw(g):
        x = torch.randint(2, MARKS, (n, length), generator=g)
        place = torch.rand(n, WINDOW, generator=g).argsort(1)[:, :2]
        x.scatter_(1, place, torch.tensor([0, 1]).expand(n, 2))
        return F.one_hot(x, MARKS).float(), (place[:, 0] < place[:, 1]).long()

    return draw


VIEWS = {
    "bag of words": lambda x: x.sum(1),
    "window of 8": lambda x: x[:, -WINDOW:].flatten(1),
    "RNN": lambda x: x,
}


def ordered(view, seed):
    """Accuracy with the marks inside and outside a window of the last eight tokens."""
    torch.manual_seed(seed)
    see, inputs = VIEWS[view], MARKS * (WINDOW if view == "window of 8" else 1)
    net = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 2))
    if view == "RNN":
        net = Reader(RNN(MARKS, 32), 2)

    def draw(g, length=None, n=64):
        if length is None:
            length = (WINDOW, 2 * WINDOW)[torch.randint(2, (), generator=g)]
        x, y = marks(length, n)(g)
        return see(x), y

    fit(net, draw, 500, seed=seed, lr=5e-3)
    places = (("inside", WINDOW), ("outside", 2 * WINDOW))
    return {name: accuracy(net, lambda g, n=n: draw(g, n, 1000)) for name, n in places}


# --- a suitcase


class Suitcase(nn.Module):
    """An LSTM reads, its last h and c go to another that writes and sees the true past."""

    def __init__(self, width, symbols=8):
        super().__init__()
        self.embed = nn.Embedding(symbols + 1, 16)
        self.encoder, self.decoder = LSTM(16, width), LSTM(16, width)
        self.out, self.start = nn.Linear(width, symbols), symbols

    def forward(self, ids):
        _, state = self.encoder(self.embed(ids))
        start = torch.full_like(ids[:, :1], self.start)
        said = torch.cat([start, ids.flip(1)[:, :-1]], 1)
        return self.out(self.decoder(self.embed(said), state)[0])


def packed(width, length, seed):
    """The share of symbols named right, each given those before it, after 400 steps."""
    torch.manual_seed(seed)
    net = Suitcase(width)

    def draw(g, n=32):
        return reversal(n, length, n_symbols=8, generator=g)

    fit(net, draw, 400, seed=seed, lr=0.01, solved=0.02)
    return accuracy(net, lambda g: draw(g, 500))


# --- counting

NETS, UNITS = 16, 8


class Counters(nn.Module):
    """Sixteen networks of 8 units as one of 128 whose matrices are blocks on a diagonal."""

    def __init__(self, kind):
        super().__init__()
        self.layer = kind(3, NETS * UNITS)
        self.out = nn.Linear(NETS * UNITS, NETS * 3)
        own = torch.block_diag(*[torch.ones(UNITS, UNITS)] * NETS)
        self._only(
            self.layer.weight_hh_l0, own.repeat(len(self.layer.weight_hh_l0) // len(own), 1)
        )
        self._only(self.out.weight, torch.block_diag(*[torch.ones(3, UNITS)] * NETS))

    @staticmethod
    def _only(weight, mask):
        """Keep a weight at zero where the mask is zero; start it as a layer of 8 would."""
        with torch.no_grad():
            weight.mul_(mask * NETS**0.5)
        weight.register_hook(lambda g: g * mask)

    def forward(self, ids):
        out = self.out(self.layer(F.one_hot(ids, 3).float())[0])
        return out.unflatten(-1, (NETS, 3))


def every_n(top):
    """The strings of aⁿbⁿ for n = 1 … top, one row each: ids, and what comes next."""
    rows = [anbn(1, n, n) for n in range(1, top + 1)]
    return (
        torch.stack([F.pad(x[0], (0, 2 * top + 1 - x.shape[1])) for x, _ in rows]),
        torch.stack([F.pad(y[0], (0, 2 * top + 1 - y.shape[1]), value=-100) for _, y in rows]),
    )


def counted(kind, seed, top=40):
    """Trained on n ≤ 10: the longest n up to which each of sixteen networks is right, sorted."""
    torch.manual_seed(seed)
    nets, (ids, target) = Counters({"LSTM": LSTM, "GRU": GRU}[kind]), every_n(10)
    adam, answers = torch.optim.Adam(nets.parameters(), 0.01), target[..., None]
    for _ in range(500):
        loss = F.cross_entropy(
            nets(ids).flatten(0, 2), answers.expand(*target.shape, NETS).flatten()
        )
        adam.zero_grad()
        (NETS * loss).backward()
        nn.utils.clip_grad_norm_(nets.parameters(), 5.0)
        adam.step()
    ids, target = every_n(top)
    with torch.no_grad():
        guess = nets(ids).argmax(-1)
    told = ((ids == 2) & (target >= 0))[..., None]
    wrong = ((guess != target[..., None]) & told).any(1)  # (n, network)
    return sorted(int(w.int().argmax()) if w.any() else top for w in wrong.T)


# --- language

LANGUAGE_STEPS, WIDTHS = 3000, {"RNN": 192, "LSTM": 96}  # 74,208 and 83,808 weights


class Characters(nn.Module):
    """One recurrent layer over one-hot characters, and a readout of every state."""

    def __init__(self, kind, width, vocab_size):
        super().__init__()
        self.vocab_size = vocab_size
        self.layer = {"RNN": RNN, "LSTM": LSTM}[kind](vocab_size, width)
        self.out = nn.Linear(width, vocab_size)

    def forward(self, ids, state=None):
        states, state = self.layer(F.one_hot(ids, self.vocab_size).float(), state)
        return self.out(states), state


def character_ids():
    """The documentation as character ids, and the tokenizer: train, validation, characters."""
    characters = CharacterTokenizer()
    parts = (
        torch.tensor(characters.encode(documentation(s).text)) for s in ("train", "validation")
    )
    return *parts, characters


@torch.no_grad()
def nats_of(model, ids, length=256):
    """Cross-entropy in nats a character, read in rows of `length` from an empty state."""
    rows = ids[: len(ids) // (length + 1) * (length + 1)].view(-1, length + 1)
    return F.cross_entropy(model(rows[:, :-1])[0].flatten(0, 1), rows[:, 1:].flatten()).item()


def language(kind, seed, steps=LANGUAGE_STEPS):
    """({"nats", "losses"}, the model): Adam, batches of 32 × 64, one cycle of the rate to 4e-3."""
    train, valid, characters = character_ids()
    torch.manual_seed(seed)
    model = Characters(kind, WIDTHS[kind], len(characters))
    adam, losses = torch.optim.Adam(model.parameters(), 4e-3), []
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, 4e-3, total_steps=steps, pct_start=0.1)
    windows = batches(train, 32, 64, generator=seed)
    for _ in range(steps):
        x, y = next(windows)
        loss = F.cross_entropy(model(x)[0].flatten(0, 1), y.flatten())
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        cycle.step()
        losses.append(loss.item())
    means = torch.tensor(losses).view(-1, steps // 30).mean(1)
    found = {"nats": nats_of(model, valid), "losses": [round(v, 4) for v in means.tolist()]}
    return found, model


# --- what must happen one after the other


def longest_chain(output):
    """Operations on the longest path through autograd's graph, from a leaf to `output`.

    output: a tensor with a gradient function. Returns a whole number; operations that autograd
    does not record (those under `no_grad`) do not count.
    """
    depth, stack = {}, [output.grad_fn]
    while stack:
        node = stack[-1]
        parents = [p for p, _ in node.next_functions if p is not None]
        waiting = [p for p in parents if p not in depth]
        if waiting:
            stack += waiting
        else:
            depth[node] = 1 + max((depth[p] for p in parents), default=0)
            stack.pop()
    return depth[output.grad_fn]


# --- weights that ship


def ship(name, model):
    """Write a model's weights as float16 to `weights/recurrent/NAME.safetensors`."""
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    held = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    (WEIGHTS / f"{name}.safetensors").write_bytes(save(held))


def shipped(name):
    """A trained model by name, "characters" or "recall": its weights by name, float32."""
    held = load((WEIGHTS / f"{name}.safetensors").read_bytes())
    return {key: value.float() for key, value in held.items()}


# --- recording


def points():
    """(part, key, (function, arguments…)) of every run."""
    lags = {"tanh": (5, 10, 20, 40), "LSTM, forget 4, input -4": (80,)}
    for seed in SEEDS:
        for start in recall.STARTS:
            for T in lags.get(start, (40, 80)):
                yield "recall", f"{start}/{T}/{seed}", (recall.recalled, start, T, seed)
        for gain in (3.0, 0.8):
            for T in (20, 40):
                for clip in (1.0, None):
                    name = "clipped" if clip else "free"
                    key = f"{gain:g}/{T}/{name}/{seed}"
                    yield "clipping", key, (recall.clipped, gain, T, clip, seed)
        for task in ("recall", "agreement"):
            yield "holding", f"{task}/{seed}", (recall.held, task, seed)
        for view in VIEWS:
            yield "order", f"{view}/{seed}", (ordered, view, seed)
        for width, length in ((24, 5), (24, 10), (24, 20), (96, 20)):
            yield "suitcase", f"{width}/{length}/{seed}", (packed, width, length, seed)
        for kind in ("LSTM", "GRU"):
            yield "counting", f"{kind}/{seed}", (counted, kind, seed)
        for kind in WIDTHS:
            yield "language", f"{kind}/{seed}", (language, kind, seed)


SHIPS = {"language/RNN/1": "characters", "holding/recall/1": "recall"}


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


def over_seeds(part, name):
    """What was recorded of one arm, a value a seed."""
    return by_seed(OUT, part, name)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""

    def keep(part, key, found):
        if not isinstance(found, tuple):
            return found
        numbers, model = found
        if f"{part}/{key}" in SHIPS:
            ship(SHIPS[f"{part}/{key}"], model)
        return numbers

    record.make_missing(points(), keep, tell=lambda found: str(found)[:80])
