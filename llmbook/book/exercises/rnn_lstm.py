"""Checks of the exercises on RNN and LSTM. Inputs are small, odd-sized and far from saturation."""

import math

import numpy as np

from llmbook.book.check import NotYet, agree, call, exercise


@exercise("rnn_lstm/half_life", title="A memory of your choice", difficulty=1, minutes=10)
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


@exercise("rnn_lstm/clip", title="Clip the whole gradient", difficulty=1, minutes=10)
def clip(answer):
    rng = np.random.default_rng(3)
    gradients = [rng.normal(size=(3, 5)), rng.normal(size=7) / 9, np.full((1, 1), 2.5)]
    norm = math.sqrt(sum((g**2).sum() for g in gradients))
    for limit in (0.37 * norm, 0.91 * norm):
        got = call(answer, gradients, limit)
        if len(got) != len(gradients):
            raise NotYet(f"{len(gradients)} arrays go in, {len(got)} come out.")
        for g, mine in zip(got, gradients):
            agree(
                g,
                mine * limit / norm,
                "Use one factor for all arrays: limit over the norm of "
                "everything together, the root of the sum of all squares.",
            )
    small = call(answer, gradients, 1.7 * norm)
    for g, mine in zip(small, gradients):
        agree(g, mine, "A gradient below the limit must come back unchanged.")
    return "Right. One factor for everything: the direction is kept."


@exercise("rnn_lstm/join", title="Two steps in one", difficulty=2, minutes=10)
def join(answer):
    rng = np.random.default_rng(4)
    (a, b), (c, d) = rng.normal(size=(2, 2, 5))
    got = call(answer, (a, b), (c, d))
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise NotYet("Return a pair (a, b), the step that does both.")
    agree(got[0], a * c, "What multiplies h after both steps?")
    agree(
        got[1],
        c * b + d,
        "Put the first step into the second: a2 (a1 h + b1) + b2. Which b still gets multiplied?",
    )
    return "Right. Joining is associative, and that is all a scan needs."


@exercise("rnn_lstm/swap", title="A checkpoint with the other z", difficulty=2, minutes=15)
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


@exercise("rnn_lstm/last", title="The last state of a padded batch", difficulty=2, minutes=15)
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


@exercise("rnn_lstm/truncated", title="Backpropagation that stops", difficulty=3, minutes=30)
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
