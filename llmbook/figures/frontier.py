"""Interactive: proxy and true reward against the KL divergence, step by step, of recorded runs."""

import traitlets

from llmbook.checks import whole

from .interactive import Interactive, numbers


class RewardFrontier(Interactive):
    """Recorded runs of tuning against a reward model, and where to stop them.

    runs: {method: [(kl, proxy, true), …]}, a point a step: nats an answer from the fine-tuned
    model, the reward model's mean reward and the true one. The reader chooses a method and the
    step to stop after. Raises ValueError for a run without points, or a setting that is not there.
    """

    script = "frontier.js"
    alt = traitlets.Unicode(
        "Proxy and true reward of a run against the root of its KL divergence, up to a step. "
        "Buttons choose the method, a slider the step after which it stops."
    ).tag(sync=True)
    runs = traitlets.List().tag(sync=True)
    run = traitlets.Int(0).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)

    def __init__(self, runs, run=0, step=None, **kwargs):
        if not runs or not all(len(points) for points in runs.values()):
            raise ValueError("runs must be methods with at least one point each")
        if any(len(point) != 3 for points in runs.values() for point in points):
            raise ValueError("points must be (kl, proxy, true)")
        longest = max(map(len, runs.values())) - 1
        step = longest if step is None else step
        super().__init__(
            runs=[[name, numbers(points, 3)] for name, points in runs.items()],
            run=whole("run", run, least=0, most=len(runs) - 1),
            step=whole("step", step, least=0, most=longest),
            **kwargs,
        )

    def reading(self):
        """What is shown: {"kl", "proxy", "true"} at the step, and "best", the step to stop at."""
        points = self.runs[self.run][1]
        kl, proxy, true = points[min(self.step, len(points) - 1)]
        best = max(range(len(points)), key=lambda i: points[i][2])
        return {"kl": kl, "proxy": proxy, "true": true, "best": best}
