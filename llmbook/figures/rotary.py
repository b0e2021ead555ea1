"""Interactive: the base of the rotary encoding, and what models with it lose further on."""

import math

import numpy as np
import traitlets

from .interactive import Interactive

LONGEST = 256  # positions that the recorded models were tested on


class RotaryBase(Interactive):
    """Four hands of a rotary encoding, and the measured loss of models trained with each base.

    `recorded`: what `record extrapolation` wrote, {"ends", "entropy", "bases", "kinds"}: for each
    base, and each other kind of positions, one curve a seed, the mean excess in each bin of
    positions. The reader chooses the base and the length of the text, or types a text
    whose words are counted, and may draw another kind beside it.

    `summary(base)` is what the browser draws: mean, lowest and highest of the seeds in each bin.
    Raises ValueError for a base that was not recorded, and for a length outside the slider.
    """

    script = "rotary.js"
    alt = traitlets.Unicode(
        "Four dials show which angles the pairs of a rotary encoding reached in training and "
        "which are new in a longer text; a chart shows the measured loss of models trained with "
        "the chosen base, against position. A slider sets the base; a text of your own, or "
        "another slider, sets the length."
    ).tag(sync=True)
    base = traitlets.Float(10_000.0).tag(sync=True)
    length = traitlets.Int(64).tag(sync=True)
    beside = traitlets.Unicode("").tag(sync=True)
    trained = traitlets.Int(32).tag(sync=True)
    head_dim = traitlets.Int(8).tag(sync=True)
    bases = traitlets.List().tag(sync=True)
    ends = traitlets.List().tag(sync=True)
    curves = traitlets.List().tag(sync=True)
    others = traitlets.Dict().tag(sync=True)
    guessing = traitlets.Float().tag(sync=True)

    def __init__(self, recorded, **state):
        bases = {float(base): curves for base, curves in recorded["bases"].items()}
        super().__init__(
            bases=list(bases),
            ends=recorded["ends"],
            curves=[_summary(curves) for curves in bases.values()],
            others={kind: _summary(curves) for kind, curves in recorded["kinds"].items()},
            guessing=round(math.log(8) - float(np.mean(recorded["entropy"])), 4),
            **state,
        )

    @traitlets.validate("base")
    def _recorded_base(self, proposal):
        base = float(proposal["value"])
        if self.bases and base not in self.bases:
            known = ", ".join(f"{b:g}" for b in self.bases)
            raise ValueError(f"base must be one of {known}: got {base:g}")
        return base

    @traitlets.validate("length")
    def _reachable(self, proposal):
        if not 1 <= proposal["value"] <= LONGEST:
            raise ValueError(f"length must be from 1 to {LONGEST}: got {proposal['value']}")
        return proposal["value"]

    @traitlets.validate("beside")
    def _known_kind(self, proposal):
        if proposal["value"] and self.others and proposal["value"] not in self.others:
            raise ValueError(
                f"beside must be '' or one of {', '.join(self.others)}: got {proposal['value']!r}"
            )
        return proposal["value"]

    def summary(self, base=None):
        """{"mean", "low", "high"}: the excess in nats a token in each bin, over the seeds."""
        return self.curves[self.bases.index(float(base or self.base))]

    def turns(self):
        """Turns of each pair within the trained positions, fast to slow."""
        pairs = np.arange(0, self.head_dim, 2) / self.head_dim
        return (self.trained - 1) * self.base**-pairs / (2 * np.pi)


def _summary(curves):
    table = np.array(curves)
    names = (("mean", table.mean(0)), ("low", table.min(0)), ("high", table.max(0)))
    return {name: np.round(values, 4).tolist() for name, values in names} | {"n": len(table)}
