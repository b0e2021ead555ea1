"""How far back a recurrent network learns to look: recall, trained from many starts.

The task: read T symbols, the first of them one of four, and name it at the end. Arms that are
compared have the same task, steps, rate, batch and seeds, and differ in what their name says.
`python -m llmbook record recurrent` records these runs, each a function of its arguments.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.data.tasks import first_token_recall
from llmbook.recurrent import GRU, LSTM, RNN

SEEDS = (1, 2, 3, 4, 5)

# --- training


class Reader(nn.Module):
    """A recurrent layer over one-hot symbols, and a linear readout of its last state."""

    def __init__(self, layer, classes):
        super().__init__()
        self.layer, self.out = layer, nn.Linear(layer.hidden_size, classes)

    def forward(self, x):
        return self.out(self.layer(x)[0][:, -1])


def fit(model, draw, steps, *, seed=0, lr=2e-3, clip=1.0, make=torch.optim.Adam, solved=0.05):
    """Train on the batches of `draw(generator)`; {"losses": …, "norms": … before clipping}.

    clip=None leaves gradients as they are. Stops after ten losses in a row below `solved`.
    """
    g, weights = torch.Generator().manual_seed(seed), list(model.parameters())
    optimiser, losses, norms, good = make(weights, lr), [], [], 0
    for _ in range(steps):
        x, y = draw(g)
        scores = model(x)
        loss = F.cross_entropy(scores.flatten(0, -2), y.flatten())
        optimiser.zero_grad()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(weights, clip or math.inf).item())
        optimiser.step()
        losses.append(loss.item())
        good = good + 1 if losses[-1] < solved else 0
        if good == 10:
            break
    return {"losses": losses, "norms": norms}


@torch.no_grad()
def accuracy(model, draw, seed=10_000):
    """The share of right answers on a batch that was not trained on."""
    x, y = draw(torch.Generator().manual_seed(seed))
    return (model(x).argmax(-1) == y).double().mean().item()


# --- recall: the first of T tokens, one of four


def recall(T, n=64):
    """Batches of `first_token_recall`, one-hot: (n, T, 8), (n,)."""

    def draw(g):
        ids, first = first_token_recall(n, T, generator=g)
        return F.one_hot(ids, 8).float(), first

    return draw


def plain(start="default", gain=1.0, nonlinearity="tanh"):
    """An RNN; only W_hh is started differently: a rotation, or the identity, times gain."""

    def make(inputs=8, classes=4):
        net = Reader(RNN(inputs, 32, nonlinearity=nonlinearity), classes)
        if start == "orthogonal":
            nn.init.orthogonal_(net.layer.weight_hh_l0, gain)
        elif start == "identity":
            nn.init.eye_(net.layer.weight_hh_l0)
        return net

    return make


def lstm(forget=0.0, write=0.0):
    """An LSTM whose biases start at 0, those of the forget and input gate as given."""

    def make(inputs=8, classes=4):
        net = Reader(LSTM(inputs, 32), classes)
        with torch.no_grad():
            net.layer.bias_ih_l0.zero_(), net.layer.bias_hh_l0.zero_()
            net.layer.bias_ih_l0[:32], net.layer.bias_ih_l0[32:64] = write, forget
        return net

    return make


def gru(keep=0.0):
    """A GRU whose biases start at 0, that of the update gate (1 keeps) as given."""

    def make(inputs=8, classes=4):
        net = Reader(GRU(inputs, 32), classes)
        with torch.no_grad():
            net.layer.bias_ih_l0.zero_(), net.layer.bias_hh_l0.zero_()
            net.layer.bias_ih_l0[32:64] = keep
        return net

    return make


class LooksBack(nn.Module):
    """One head of attention in place of the layer: the last symbol asks all of them.

    x: one-hot symbols (batch, tokens, inputs) -> scores of the answers (batch, classes).
    """

    def __init__(self, inputs=8, classes=4, width=32):
        super().__init__()
        self.embed = nn.Linear(inputs, width, bias=False)
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in "qkv")
        self.out = nn.Linear(width, classes)

    def parts(self, x):
        """Query (batch, 1, width) of the last symbol, keys and values (batch, tokens, width)."""
        x = self.embed(x)
        return self.q(x[:, -1:]), self.k(x), self.v(x)

    def forward(self, x):
        q, k, v = self.parts(x)
        weights = (q @ k.mT / k.shape[-1] ** 0.5).softmax(-1)
        return self.out((weights @ v)[:, 0])


def symbols(text):
    """A text as `HeldGate` reads it, one of A to D and then noise, one-hot: (1, tokens, 8)."""
    ids = ["ABCD".index(text[0]), *(4 + ord(letter) % 4 for letter in text[1:])]
    return F.one_hot(torch.tensor([ids]), 8).float()


STARTS = {  # what is trained on recall
    "tanh": plain(),
    "tanh, orthogonal": plain("orthogonal"),
    "ReLU": plain(nonlinearity="relu"),
    "ReLU, identity": plain("identity", nonlinearity="relu"),
    "LSTM, forget 0": lstm(0.0),
    "LSTM, forget 1": lstm(1.0),
    "LSTM, forget 2": lstm(2.0),
    "LSTM, forget 4": lstm(4.0),
    "LSTM, forget 4, input -4": lstm(4.0, -4.0),
    "GRU, keep 0": gru(0.0),
    "GRU, keep 3": gru(3.0),
}
RECALL_STEPS, RECALL_RATE = 400, 2e-3


def recalled(start, T, seed):
    """(accuracy at lag T, the network) after at most 400 steps of Adam."""
    torch.manual_seed(seed)
    net = STARTS[start]()
    fit(net, recall(T), RECALL_STEPS, seed=seed, lr=RECALL_RATE)
    return accuracy(net, recall(T, 1000)), net


def clipped(gain, T, clip, seed, steps=500):
    """Plain gradient descent on recall, W_hh a rotation times gain; clip: 1 or None."""
    torch.manual_seed(seed)
    net = plain("orthogonal", gain)()
    told = fit(net, recall(T), steps, seed=seed, lr=0.1, clip=clip, make=torch.optim.SGD)
    return {
        "largest_norm": max(told["norms"]),
        "loss": sum(told["losses"][-10:]) / 10,
        "accuracy": accuracy(net, recall(T, 1000)),
        "norms": [round(v, 4) for v in told["norms"][::5]],
        "losses": [round(v, 4) for v in told["losses"][::5]],
    }


# --- holding a gate

HELD = (1.0, 0.99, 0.95, 0.9, 0.8, 0.5, 0.0)
SUBJECTS = "cat dog child bird cats dogs children birds".split()
CLAUSE = "which was chased by the near old and".split()


def agreement(k, n=64):
    """A noun, singular (0) or plural (1), and k words at random, nouns among them."""
    words = len(SUBJECTS) + len(CLAUSE)

    def draw(g):
        y = torch.randint(2, (n,), generator=g)
        x = torch.randint(words, (n, k + 1), generator=g)
        x[:, 0] = torch.randint(4, (n,), generator=g) + 4 * y
        return F.one_hot(x, words).float(), y

    return draw


def agreements(g):
    """A batch with 2, 6 or 12 words after the noun."""
    return agreement((2, 6, 12)[torch.randint(3, (), generator=g)])(g)


@torch.no_grad()
def read_held(net, x, forget=None, cut=False):
    """A trained LSTM's answers with f held from the second token on, or h kept from the gates."""
    W, U, *biases = net.layer.parameters()
    h = c = x.new_zeros(len(x), U.shape[1])
    for t in range(x.shape[1]):
        seen = torch.zeros_like(h) if t and cut else h
        i, f, g, o = (x[:, t] @ W.T + seen @ U.T + sum(biases)).chunk(4, -1)
        f = torch.full_like(f, forget) if t and forget is not None else f.sigmoid()
        c = f * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return net.out(h)


def held(task, seed):
    """Accuracy of one trained LSTM as it is, with h cut, and for each f in HELD; the network."""
    if task == "recall":
        net, draw = recalled("LSTM, forget 4", 40, seed)[1], recall(40, 1000)
    else:
        torch.manual_seed(seed)
        net, draw = lstm(2.0)(len(SUBJECTS) + len(CLAUSE), 2), agreement(12, 1000)
        fit(net, agreements, 300, seed=seed, lr=5e-3, solved=0.01)
    x, y = draw(torch.Generator().manual_seed(10_000))

    def right(**how):
        return (read_held(net, x, **how).argmax(-1) == y).double().mean().item()

    found = {"as it is": right(), "h cut": right(cut=True)}
    return found | {f"{f:g}": right(forget=f) for f in HELD}, net
