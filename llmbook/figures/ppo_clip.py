"""Interactive: PPO's clipped objective for one token, and where its gradient ends."""

import traitlets

from llmbook.checks import number

from .interactive import Interactive


class ClipExplorer(Interactive):
    """min(w A, clip(w, 1 − low, 1 + high) A) over the ratio w, and the slope where the policy is.

    advantage A from −2 to 2, ratio from 0.2 to 2, low and high from 0.05 to 0.9. Raises ValueError
    outside of those, TypeError for no number.
    """

    script = "ppo_clip.js"
    alt = traitlets.Unicode(
        "PPO's objective for one token against the probability ratio: a straight line that turns "
        "flat at the clip. Sliders set the advantage, the ratio and both clips."
    ).tag(sync=True)
    advantage = traitlets.Float(1.0).tag(sync=True)
    ratio = traitlets.Float(1.1).tag(sync=True)
    low = traitlets.Float(0.2).tag(sync=True)
    high = traitlets.Float(0.2).tag(sync=True)

    def __init__(self, advantage=1.0, ratio=1.1, low=0.2, high=0.2, **kwargs):
        super().__init__(
            advantage=float(number("advantage", advantage, least=-2, most=2)),
            ratio=float(number("ratio", ratio, least=0.2, most=2)),
            low=float(number("low", low, least=0.05, most=0.9)),
            high=float(number("high", high, least=0.05, most=0.9)),
            **kwargs,
        )

    def reading(self):
        """What is shown: {"value", "slope"}, of the objective by the ratio."""
        cut = min(1 + self.high, max(1 - self.low, self.ratio))
        free, held = self.ratio * self.advantage, cut * self.advantage
        return {"value": min(free, held), "slope": self.advantage if free <= held else 0.0}
