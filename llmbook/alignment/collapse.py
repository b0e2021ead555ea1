"""When reinforcement learning has gone wrong, said at once, with the step at which it did.

A run that has collapsed goes on without an error: rewards of 0, answers of one token, a policy far
from anything it started as. `Watch` looks at each batch of rollouts, before it is learned from.
"""

import math

from llmbook.checks import positive, share, whole


class Collapsed(ArithmeticError):
    """Training has come to a state that it won't come back from. `step`: where it was seen."""

    def __init__(self, message, step):
        super().__init__(f"collapsed at step {step}: {message}")
        self.step = step


class Watch:
    """Raise `Collapsed` for a batch of rollouts that says so; a call a batch, `watch(step, …)`.

    max_kl: nats of an answer from the reference, the batch's mean. empty: the share of answers
    that are empty from which on it is a collapse. equal: how many batches in a row may have equal
    rewards within every group, so that there is nothing to learn from; a policy that solves every
    prompt comes to that, too, and has to be stopped all the same.
    """

    def __init__(self, max_kl=100.0, empty=0.9, equal=50):
        self.max_kl, self.empty = positive("max_kl", max_kl), share("empty", empty, zero=False)
        self.equal, self._in_a_row = whole("equal", equal, least=1), 0

    def __call__(self, step, rollouts, rewards, kl=None):
        """rewards (rows,), in groups of rollouts.n; kl: mean nats an answer, or None."""
        if kl is not None and not math.isfinite(kl):
            raise Collapsed(f"the KL divergence from the reference is {kl}", step)
        if kl is not None and kl > self.max_kl:
            raise Collapsed(
                f"the policy is {kl:.1f} nats an answer from its reference, more than "
                f"max_kl={self.max_kl:g}: lower lr, or raise beta",
                step,
            )
        empty = (rollouts.ended & (rollouts.lengths == 1)).float().mean().item()
        if empty >= self.empty:
            raise Collapsed(
                f"{empty:.0%} of the answers are empty: does the reward pay for the shortest?",
                step,
            )
        groups = rewards.view(-1, rollouts.n)
        same = bool((groups == groups[:, :1]).all()) if rollouts.n > 1 else False
        self._in_a_row = self._in_a_row + 1 if same else 0
        if self._in_a_row >= self.equal:
            raise Collapsed(
                f"all rewards of a group were equal, {self._in_a_row} batches in a row: no answer "
                f"is better than another (the mean is {rewards.mean().item():g})",
                step,
            )
