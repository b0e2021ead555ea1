"""Interactive: eight answers to one question through training, with rewards and advantages."""

import traitlets

from llmbook.checks import whole

from .interactive import Interactive


class GroupSamples(Interactive):
    """A group of answers to one question at several steps of training, for one or more rewards.

    runs: {name of the reward: {"question": {"start", "k", "path"}, "steps": [{"step", "texts",
    "rewards", "right", "ended"}, …]}}, each step with as many answers. The reader chooses the run
    (`run`, its place), the step (`at`, its place) and whether advantages are divided by the
    group's deviation (`scale`). Advantages and lengths are computed in the page. Raises
    ValueError for no run, groups of fewer than two and places outside.
    """

    script = "group_samples.js"
    alt = traitlets.Unicode(
        "Eight answers to one question as rows, each with its reward, its advantage as a bar to "
        "the left or right, and its length; below, mean reward and share of right answers over "
        "the steps of training. The reader moves through training and chooses the reward."
    ).tag(sync=True)
    runs = traitlets.List().tag(sync=True)
    run = traitlets.Int(0).tag(sync=True)
    at = traitlets.Int(0).tag(sync=True)
    scale = traitlets.Bool(True).tag(sync=True)

    def __init__(self, runs, run=0, at=0, scale=True, **options):
        rows = [[name, one["question"], one["steps"]] for name, one in runs.items()]
        if not rows:
            raise ValueError("runs must have at least one: got none")
        for name, _, steps in rows:
            sizes = {len(step["texts"]) for step in steps}
            if not steps or min(sizes) < 2 or len(sizes) != 1:
                raise ValueError(f"runs must have groups of one size, at least 2: {name} has not")
        run = whole("run", run, least=0, most=len(rows) - 1)
        at = whole("at", at, least=0, most=len(rows[run][2]) - 1)
        super().__init__(runs=rows, run=run, at=at, scale=bool(scale), **options)

    def reading(self):
        """What is shown: {"step", "rewards", "advantages", "lengths", "mean", "right"}."""
        one = self.runs[self.run][2][self.at]
        rewards, n = one["rewards"], len(one["rewards"])
        mean = sum(rewards) / n
        deviation = (sum((r - mean) ** 2 for r in rewards) / (n - 1)) ** 0.5
        divisor = deviation + 1e-4 if self.scale else 1.0
        return {
            "step": one["step"],
            "rewards": rewards,
            "advantages": [(r - mean) / divisor for r in rewards],
            "lengths": [
                len(text.split()) + ended
                for text, ended in zip(one["texts"], one["ended"], strict=True)
            ],
            "mean": mean,
            "right": sum(one["right"]) / n,
        }
