"""Interactive: what a scaling law advises for a budget, for training alone and with serving."""

import traitlets

from llmbook.checks import number, whole
from llmbook.scaling import PUBLISHED

from .interactive import Interactive

LEAST, MOST = 18, 27  # log10 of the FLOPs
SERVED = 16  # log10 of the most tokens served


class BudgetPlanner(Interactive):
    """The loss of every size at one training budget, and the size that is cheapest to live with.

    The reader sets the budget (10^flops FLOPs), the law (published constants, or `own` added under
    its name) and how many tokens the model will serve (10^served, none at 0). Drawn are loss over
    size along C = 6ND, its lowest point, and the model of the same loss whose training and serving
    together cost least. `reading` gives the same numbers in Python. Raises ValueError for a
    setting outside its slider and TypeError for a law that is none.
    """

    script = "budget.js"
    alt = traitlets.Unicode(
        "Loss against model size for one training budget, with the lowest point marked. Sliders "
        "set the budget and the tokens to be served; buttons choose the published constants."
    ).tag(sync=True)
    laws = traitlets.List().tag(sync=True)
    law = traitlets.Int(0).tag(sync=True)
    flops = traitlets.Float(23.5).tag(sync=True)
    served = traitlets.Float(0.0).tag(sync=True)

    def __init__(self, flops=23.5, law=2, served=0.0, own=None, **options):
        self._laws = {**PUBLISHED, **(own or {})}
        rows = [
            [name, one.E, one.A, one.B, one.alpha, one.beta] for name, one in self._laws.items()
        ]
        super().__init__(
            laws=rows,
            law=whole("law", law, least=0, most=len(rows) - 1),
            flops=float(number("flops", flops, least=LEAST, most=MOST)),
            served=float(number("served", served, least=0, most=SERVED)),
            **options,
        )

    def reading(self):
        """What is shown: {"n", "d", "loss"} of the optimum and {"small_n", "small_d"} served."""
        law = list(self._laws.values())[self.law]
        n, d = law.optimum(10**self.flops)
        loss = law.loss(n, d)
        small_n, small_d, cost = law.cheapest(loss, 10**self.served if self.served else 0.0)
        return {"n": n, "d": d, "loss": loss, "small_n": small_n, "small_d": small_d, "cost": cost}
