"""Checks of the exercises on recurrent networks: small odd sizes, far from saturation."""

import numpy as np
import torch
import torch.nn.functional as F

from llmbook.book.check import NotYet, agree, call, exercise, number
from llmbook.experiments import recurrent as lab


@exercise("recurrent/truncated", title="Backpropagation that stops", difficulty=3, minutes=30)
def truncated(answer):
    rng = np.random.default_rng(7)
    steps, n = 9, 5
    w = rng.normal(size=(n, n)) / 2
    states = np.tanh(rng.normal(size=(steps + 1, n)) / 2)
    errors = rng.normal(size=(steps, n))
    for k in (1, 4, steps):
        got = call(answer, w, states, errors, k)
        want = np.zeros((n, n))
        for t in range(steps):
            error = errors[t]
            for s in range(t, max(t - k, -1), -1):
                delta = (1 - states[s + 1] ** 2) * error
                want += np.outer(delta, states[s])
                error = w.T @ delta
        advice = {
            1: "With k = 1 each error leaves one mark, at its own step: slope of tanh at "
            "states[t + 1], times states[t].",
            4: "k = 1 is right. When an error goes one step back, what multiplies it? And does it "
            "leave k marks, no more and no fewer?",
            steps: "Small k are right. With k as large as the text every error must reach the "
            "first step, and stop there.",
        }[k]
        agree(got, want, advice)
    return "Right. With k = 1 the network learns as if it had no past."


@exercise("recurrent/last", title="The last state of a padded batch", difficulty=2, minutes=15)
def last(answer):
    rng = np.random.default_rng(6)
    outputs, lengths = rng.normal(size=(4, 7, 6)), np.array([3, 7, 1, 5])
    got = call(answer, outputs, lengths)
    agree(np.shape(got), (4, 6), "One row per sequence, forward and backward half side by side.")
    got = np.asarray(got)
    agree(
        got[:, :3],
        np.stack([outputs[i, n - 1, :3] for i, n in enumerate(lengths)]),
        "The forward half: where does a sequence of length n end? Padding comes after it.",
    )
    agree(
        got[:, 3:],
        outputs[:, 0, 3:],
        "The backward half has read everything when it arrives at which step?",
    )
    return "Right. The backward direction ends where the text begins."


@exercise("recurrent/join", title="Two steps in one", difficulty=2, minutes=10)
def join(answer):
    rng = np.random.default_rng(4)
    (a, b), (c, d) = rng.normal(size=(2, 2, 5))
    got = call(answer, (a, b), (c, d))
    if not hasattr(got, "__len__") or len(got) != 2:
        raise NotYet("Return a pair (a, b), the step that does both.")
    agree(got[0], a * c, "What multiplies h after both steps?")
    agree(
        got[1],
        c * b + d,
        "Put the first step into the second: a2 (a1 h + b1) + b2. Which b still gets multiplied?",
    )
    return "Right. Joining is associative, and that is all a scan needs."


@exercise(
    "recurrent/wavefront", title="Two layers, one clock", difficulty=1, minutes=5, kind="predict"
)
def wavefront(answer):
    agree(
        number(answer),
        101,
        "Layer 2 at step t needs layer 1 at step t and itself at t − 1. When layer 1 reads "
        "token 2, what can layer 2 do?",
    )
    return (
        "Right: the layers run as a wave, 100 steps and one more. Depth is cheap, length is not."
    )


@exercise(
    "recurrent/reading", title="What does it expect?", difficulty=1, minutes=5, kind="figure"
)
def reading(answer):
    got, surprised = number(answer), _nats("the cat sat on the mat")
    if abs(got - surprised * 22 / 21) < 0.004 or abs(got - surprised * 21) < 0.1:
        raise NotYet(
            "The figure divides by the characters that it predicts; read its last number."
        )
    agree(
        got,
        surprised,
        "Type the sentence into the first figure, without quotation marks or a full stop, and "
        "read the nats a character over the whole text.",
        tolerance=0.004,  # two decimals
    )
    return "Right. Documentation has few cats: its own sentences cost about 1.5."


def _nats(text):
    """Nats a character of a text, the first one given, by the network of the first figure."""
    chars = lab.CharacterTokenizer()
    ids = torch.tensor([chars.encode(text)])
    model = lab.Characters("RNN", lab.WIDTHS["RNN"], len(chars))
    model.load_state_dict(lab.shipped("characters"))
    with torch.no_grad():
        return F.cross_entropy(model(ids[:, :-1])[0][0], ids[0, 1:]).item()


@exercise(
    "recurrent/late_marks",
    title="Marks in the middle",
    difficulty=2,
    minutes=20,
    kind="experiment",
)
def late_marks(answer):
    n, length, first = 300, 16, 5
    got = call(answer, n, length, first, torch.Generator().manual_seed(1))
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise NotYet("Return a pair, ids and answers.")
    x, y = (torch.as_tensor(part) for part in got)
    agree(torch.tensor(x.shape), torch.tensor([n, length]), "ids: (n, length).")
    a, b = (x == 0).nonzero(), (x == 1).nonzero()
    if len(a) != n or len(b) != n or not (a[:, 0] == torch.arange(n)).all():
        raise NotYet("Each row needs exactly one A (0) and one B (1); noise is 2 … 7.")
    places = torch.cat([a[:, 1], b[:, 1]])
    if places.min() < first or places.max() >= first + lab.WINDOW:
        raise NotYet("Both marks must lie in the eight places from `first` on.")
    if len(places.unique()) < lab.WINDOW or not ((x < lab.MARKS) & (x >= 0)).all():
        raise NotYet("All eight places must occur, and all symbols be from 0 to 7.")
    if len((a[:, 1] - b[:, 1]).abs().unique()) < lab.WINDOW - 1:
        raise NotYet("Any two of the eight places may hold the marks, not some pairs alone.")
    agree(y, (a[:, 1] < b[:, 1]).long(), "The answer is 1 where A comes before B, else 0.")
    if not 0.35 < y.double().mean() < 0.65:
        raise NotYet("A should come first in about half of the rows.")
    return "Right. Move `first` from 0 to 8: the window of 8 climbs from chance, the RNN stays."
