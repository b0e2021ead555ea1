"""How the learning rate moves: plain functions from a step to a factor, 1 at the peak.

All are called alike, `schedule(step, steps, warmup, final)`: steps of the run, steps of warm-up,
the factor at the end (some do without). Steps count from 0; a warm-up of W steps has the factors
1/W, 2/W … 1, so that the first update is not lost on a rate of zero.
"""

import math


def constant(step, steps=None, warmup=0, final=1.0):
    """Warm-up, then 1."""
    return _warm(step, warmup)


def cosine(step, steps, warmup=0, final=0.1):
    """Warm-up, then half a cosine from 1 down to `final`, reached at `steps`.

    final + (1 − final) · ½ (1 + cos(π · progress)). Source: Loshchilov and Hutter 2017.
    """
    if step < warmup:
        return _warm(step, warmup)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def linear(step, steps, warmup=0, final=0.0):
    """Warm-up, then a straight line from 1 down to `final`, reached at `steps`."""
    if step < warmup:
        return _warm(step, warmup)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 1 - (1 - final) * progress


def trapezoid(step, steps, warmup=0, final=0.0, decay=0.2):
    """Warm-up, stable, decay: 1 until the last `decay` share of the steps, then a straight line.

    The stable part can be resumed and lengthened without having planned for it. Source: Hu et al.
    2024, where it is called WSD.
    """
    if step < warmup:
        return _warm(step, warmup)
    left = (steps - step) / max(1.0, decay * steps)
    return final + (1 - final) * min(1.0, max(0.0, left))


def inverse_sqrt(step, steps=None, warmup=4000, final=0.0):
    """Warm-up, then 1/√step: √(warmup / step), which needs no end to be planned.

    Source: Vaswani et al. 2017, whose formula (`noam`) is this one times (d_model · warmup)^−½.
    """
    warmup, count = max(1, warmup), step + 1
    return min(count / warmup, math.sqrt(warmup / count))


def noam(step, d_model, warmup=4000):
    """The Transformer paper's learning rate itself: d_model^−½ · min(s^−½, s · warmup^−3/2).

    s = step + 1. A rate and not a factor: multiply nothing by it.
    """
    count = step + 1
    return d_model**-0.5 * min(count**-0.5, count * warmup**-1.5)


def _warm(step, warmup):
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


SCHEDULES = {
    "cosine": cosine,
    "linear": linear,
    "trapezoid": trapezoid,
    "inverse_sqrt": inverse_sqrt,
    "constant": constant,
}
