"""Checks of the exercises on vanishing and exploding gradients."""

import math

import numpy as np
import torch

from llmbook.book.check import NotYet, agree, call, exercise, number
from llmbook.experiments import recall
from llmbook.figures import VanishingGradient


@exercise("gradients/clip", title="Clip the whole gradient", difficulty=1, minutes=10)
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


@exercise("gradients/horizon", title="When must it be gone?", difficulty=2, minutes=15)
def horizon(answer):
    for sigma, slope, floor in ((0.9, 1.0, 1e-3), (2.0, 0.25, 1e-6), (0.5, 1.0, 0.25)):
        got, want = call(answer, sigma, slope, floor), 0
        size = 1.0
        while size > floor * (1 + 1e-9):
            size, want = size * sigma * slope, want + 1
        if np.isscalar(got) and abs(got - want) == 1:
            raise NotYet(
                f"With {sigma} and {slope}, {floor:g} is reached after {want} steps: you say "
                f"{got}. Round up, and count whole steps."
            )
        agree(
            got,
            want,
            "The bound after k steps is (slope · sigma) to the power k. Take logarithms, and mind "
            "that both are negative.",
        )
    if call(answer, 3.0, 1.0, 1e-3) != math.inf or call(answer, 4.0, 0.25, 1e-3) != math.inf:
        raise NotYet("At slope · sigma of 1 and more the bound forces nothing: return math.inf.")
    return "Right. It is the latest moment: slopes below the largest make it sooner."


@exercise("gradients/sigmoid", title="A sigmoid's bound", difficulty=1, minutes=5, kind="predict")
def sigmoid(answer):
    agree(
        number(answer) / 0.5**10,
        1.0,
        "The largest slope of the logistic sigmoid is 1/4. What is the bound on one step, and on "
        "ten?",
        tolerance=0.05,
    )
    return "Right: a largest singular value of 2, and still a thousandth after ten steps."


@exercise("gradients/reach", title="Read the horizon", difficulty=1, minutes=5, kind="figure")
def reach(answer):
    want, _ = VanishingGradient.horizon(VanishingGradient.curve(0.8, 100))
    agree(
        number(answer),
        want,
        "Set one factor to 0.80 in the second figure; a line and the text below name the first "
        "step below 10⁻³.",
    )
    return "Right: 0.8 to the power 31 is 0.00099. Three steps of 0.8 are about one of 0.5."


@exercise(
    "gradients/start_at",
    title="Start from a scaled identity",
    difficulty=2,
    minutes=20,
    kind="experiment",
)
def start_at(answer):
    for keep in (0.9, 0.3):
        torch.manual_seed(0)
        before = recall.plain()()
        torch.manual_seed(0)
        net = call(answer, recall.plain()(), keep)
        if not hasattr(net, "layer"):
            raise NotYet("Return the network that you were given, changed.")
        W = net.layer.weight_hh_l0.detach()
        agree(W, keep * torch.eye(32), "W_hh must be keep times the identity.")
        for (name, a), b in zip(before.named_parameters(), net.parameters(), strict=True):
            if name != "layer.weight_hh_l0" and not a.equal(b):
                raise NotYet(f"Only W_hh may change: {name} did, so the arms would differ in two.")
    return (
        "Right. At T = 20 try 0.9 and 1.0 with tanh, then with ReLU. For tanh the identity is a "
        "poor start: all units drift alike and saturate."
    )
