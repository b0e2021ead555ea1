"""The three estimators of KL: their means and their gradients, by summing over every answer."""

import math

import pytest
import torch

from llmbook.alignment.kl import ESTIMATORS, kl_estimate

# a policy of two tokens and its reference, as logits
LOGITS, REFERENCE = [0.3, -0.9], [-0.5, 0.4]


def exact(kind, weighted=False):
    """Mean of the estimator, and the mean of its gradient at samples from the policy."""
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    log_p = logits.log_softmax(-1)
    log_q = torch.tensor(REFERENCE, dtype=torch.float64).log_softmax(-1)
    p = log_p.detach().exp()  # how often each is sampled: no gradient flows through that
    weight = (log_p - log_p.detach()).exp() if weighted else None
    mean = (p * kl_estimate(log_p, log_q, kind, weight)).sum()
    return mean.item(), torch.autograd.grad(mean, logits)[0]


def divergence(forward=False):
    """KL(π ‖ ρ), or with forward KL(ρ ‖ π), and its gradient by finite differences."""

    def value(a, b):
        p, q = (torch.tensor(x, dtype=torch.float64).softmax(-1) for x in ([a, b], REFERENCE))
        p, q = (q, p) if forward else (p, q)
        return (p * (p.log() - q.log())).sum().item()

    a, b = LOGITS
    h = 1e-6
    slope = [
        (value(a + h, b) - value(a - h, b)) / (2 * h),
        (value(a, b + h) - value(a, b - h)) / (2 * h),
    ]
    return value(a, b), torch.tensor(slope, dtype=torch.float64)


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    kl = divergence()[0]
    assert exact("k1")[0] == pytest.approx(kl, abs=1e-12)
    assert exact("k3")[0] == pytest.approx(kl, abs=1e-12)
    assert abs(exact("k2")[0] - kl) > 0.02


def test_in_a_loss_k1_has_no_gradient_k2_has_kl_s_and_k3_the_other_divergence_s():
    reverse, forward = divergence()[1], divergence(forward=True)[1]
    assert (reverse - forward).abs().max() > 0.05  # they are different things here
    assert exact("k1")[1].abs().max() < 1e-12
    assert (exact("k2")[1] - reverse).abs().max() < 1e-8
    assert (exact("k3")[1] - forward).abs().max() < 1e-8


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_times_the_ratio_the_unbiased_ones_have_an_unbiased_gradient(kind):
    assert (exact(kind, weighted=True)[1] - divergence()[1]).abs().max() < 1e-8


def test_values_by_hand():
    log_p, log_q = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    for kind, expected in zip(ESTIMATORS, (0.6931, 0.2402, 0.1931), strict=True):
        assert kl_estimate(log_p, log_q, kind).item() == pytest.approx(expected, abs=1e-4)


def test_the_same_policy_is_at_zero_and_only_k1_may_be_below():
    log_p = torch.tensor([-0.5, -2.0, -1.0])
    for kind in ESTIMATORS:
        assert (kl_estimate(log_p, log_p, kind) == 0).all()
    assert (kl_estimate(log_p, log_p + 0.3, "k1") < 0).all()
    assert (kl_estimate(log_p, log_p + 0.3, "k2") > 0).all()
    assert (kl_estimate(log_p, log_p + 0.3, "k3") > 0).all()


def test_another_shape_or_kind_is_refused():
    with pytest.raises(ValueError, match=r"must have the shape of log_probs \(3,\): got \(2,\)"):
        kl_estimate(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="kind must be one of k1, k2, k3: got 'k4'"):
        kl_estimate(torch.zeros(3), torch.zeros(3), "k4")
