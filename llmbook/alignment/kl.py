"""How far the policy has moved from its reference, estimated from what it sampled itself.

    KL(π ‖ ρ) = E_{y ~ π} [log π(y) − log ρ(y)]        nats

With the log-ratio l = log π(y) − log ρ(y) of a sampled token there are three estimators:

    k1 = l                    unbiased; of either sign
    k2 = l² / 2               never negative; biased, little while π is near ρ
    k3 = exp(−l) − 1 + l      never negative and unbiased

An unbiased value need not have an unbiased gradient. Differentiated where they stand, in a loss
over samples, E[∇k1] = 0, E[∇k2] = ∇KL(π ‖ ρ) and E[∇k3] = ∇KL(ρ ‖ π), the other divergence.
Times the ratio π / π_sampling, as `weight` does, each has the gradient of its own mean.
Source: Schulman 2020 for the values.
"""

from llmbook.checks import one_of

ESTIMATORS = ("k1", "k2", "k3")


def kl_estimate(log_probs, reference_log_probs, kind="k3", weight=None):
    """One of the three estimators, per token: the shape of log_probs, in nats.

    log_probs and reference_log_probs: log π and log ρ of the same sampled tokens, any shape, 0 in
    both where a token doesn't count: the estimate is 0 there. weight: the ratio π / π_sampling,
    1 on fresh samples but with a gradient. Raises ValueError for another shape or kind.
    """
    one_of("kind", kind, ESTIMATORS)
    if log_probs.shape != reference_log_probs.shape:
        raise ValueError(
            f"reference_log_probs must have the shape of log_probs {tuple(log_probs.shape)}: "
            f"got {tuple(reference_log_probs.shape)}"
        )
    ratio = log_probs - reference_log_probs
    if kind == "k1":
        estimate = ratio
    elif kind == "k2":
        estimate = ratio.square() / 2
    else:
        estimate = (-ratio).expm1() + ratio
    return estimate if weight is None else weight * estimate
