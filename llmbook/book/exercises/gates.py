"""Checks of the exercises on gates. Inputs are small, odd-sized and far from saturation."""

import math

import numpy as np
import torch

from llmbook.book.check import NotYet, agree, call, exercise, number
from llmbook.experiments import recall, recurrent


@exercise("gates/half_life", title="A memory of your choice", difficulty=1, minutes=10)
def half_life(answer):
    for steps in (7, 33, 250.5):
        got = call(answer, steps)
        keep = 0.5 ** (1 / steps)
        want = math.log(keep / (1 - keep))
        if np.isscalar(got) and abs(got - keep) < 1e-6:
            raise NotYet("That is the gate. Which bias makes a sigmoid give it?")
        if np.isscalar(got) and abs(got + want) < 1e-6:
            raise NotYet("Check the sign: a larger bias opens the gate.")
        agree(
            got,
            want,
            f"With your bias, is half of the content left after {steps} steps? "
            "Compute sigmoid(bias) ** steps.",
        )
    return "Right. For long lags this is close to ln(steps / 0.69): linear in the log of the lag."


@exercise("gates/swap", title="A checkpoint with the other z", difficulty=2, minutes=15)
def swap(answer):
    rng = np.random.default_rng(5)
    n, inputs = 3, 5
    w, u, b = rng.normal(size=(3 * n, inputs)), rng.normal(size=(3 * n, n)), rng.normal(size=3 * n)
    x, h = rng.normal(size=inputs), rng.normal(size=n) / 2
    for name, weight in (("W", w), ("U", u), ("b", b)):
        if np.shape(call(answer, weight)) != weight.shape:
            raise NotYet(f"{name} has shape {weight.shape} and must keep it.")
    ours = [np.asarray(call(answer, weight)) for weight in (w, u, b)]
    agree(
        _gru(*ours, x, h, keeps=True),
        _gru(w, u, b, x, h, keeps=False),
        "Run both networks on one step. You need 1 - sigmoid(s) = sigmoid(something), in the rows "
        "of z and in no others.",
    )
    return "Right: 1 - sigmoid(s) = sigmoid(-s), so the rows of z change sign."


def _gru(w, u, b, x, h, keeps):
    """One GRU step without a second bias; `keeps`: z = 1 keeps the old state."""

    def s(v):
        return 1 / (1 + np.exp(-v))

    (wr, wz, wn), (ur, uz, un) = np.split(w @ x + b, 3), np.split(u @ h, 3)
    z, new = s(wz + uz), np.tanh(wn + s(wr + ur) * un)
    return z * h + (1 - z) * new if keeps else z * new + (1 - z) * h


@exercise("gates/left", title="What is left?", difficulty=1, minutes=5, kind="predict")
def left(answer):
    agree(
        number(answer) / 0.9**40,
        1.0,
        "Each step multiplies what was written by f. Forty of them in a row?",
        tolerance=0.05,
    )
    return "Right: 1.5 in a hundred, below the noise of what came later."


@exercise("gates/answer", title="Hold it at 0.85", difficulty=1, minutes=5, kind="figure")
def answer_at(answer):
    agree(
        number(answer),
        _held(0.85),
        "In the first figure choose B, leave the noise as it stands when the page opens, hold the "
        "forget gate at 0.85, and read p in the text below.",
        tolerance=0.005,  # two decimals
    )
    return "Right. Move on to 0.80 and to 0.90: a few hundredths decide."


def _held(forget, first=1, text=" cat that the barking dogs chased sits"):
    """The probability of the right answer in the first figure."""
    net = recall.lstm(4.0)()
    net.load_state_dict(recurrent.shipped("recall"))
    scores = recall.read_held(net, recall.symbols("ABCD"[first] + text), forget)
    return scores.softmax(-1)[0, first].item()


@exercise(
    "gates/start_for", title="A start for the lag", difficulty=2, minutes=25, kind="experiment"
)
def start_for(answer):
    for lag in (40, 15):
        torch.manual_seed(0)
        net, before = recall.lstm(0.0, 0.0)(), recall.lstm(0.0, 0.0)()
        before.load_state_dict(net.state_dict())
        net = call(answer, net, lag)
        if not hasattr(net, "layer"):
            raise NotYet("Return the network that you were given, changed.")
        keep = 0.5 ** (1 / lag)
        bias = (net.layer.bias_ih_l0 + net.layer.bias_hh_l0).detach()
        want = math.log(keep / (1 - keep))
        agree(
            bias[32:64],
            torch.full((32,), want),
            f"For a lag of {lag} the forget gates, rows 32 to 63 of the biases, need the bias of "
            "that half-life; both biases of PyTorch's add up.",
            tolerance=1e-4,
        )
        agree(
            bias[:32],
            torch.full((32,), -want),
            "The input gates, rows 0 to 31, should start as far closed as the forget gates are "
            "open.",
            tolerance=1e-4,
        )
        moved = (net.layer.weight_hh_l0 - before.layer.weight_hh_l0).detach().abs().max()
        if moved > 1e-6 or bias[64:].abs().max() > 1e-6:
            raise NotYet("Leave the other gates' biases and all weights as they are.")
    return "Right. Train it at T = 80 with lab.fit: see how far the start alone carries."
