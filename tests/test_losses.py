"""Log-probabilities of given tokens, and the losses made of them, by hand and in float64."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from llmbook.losses import (
    IGNORED,
    answer_log_probs,
    count_targets,
    label_smoothing,
    log_probs,
    next_token_loss,
)


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 5, 7, generator=g, dtype=torch.float64)
    targets = torch.randint(7, (3, 5), generator=g)
    targets[0, 3:] = IGNORED
    targets[2, 0] = IGNORED
    return logits, targets


def by_hand(logits, targets):
    """Σ over the vocabulary written out, one token at a time."""
    out = torch.zeros(targets.shape, dtype=logits.dtype)
    for i, row in enumerate(targets.tolist()):
        for t, target in enumerate(row):
            if target != -100:
                z = logits[i, t].tolist()
                out[i, t] = z[target] - math.log(sum(math.exp(v) for v in z))
    return out


def test_log_probs_are_those_of_the_targets_and_zero_where_ignored(batch):
    logits, targets = batch
    torch.testing.assert_close(log_probs(logits, targets), by_hand(logits, targets))
    zeros = log_probs(logits, targets)[targets == IGNORED]
    assert len(zeros) == 3 and (zeros == 0).all() and not zeros.signbit().any()


def test_a_row_s_log_probability_is_a_sum_not_a_mean():
    logits = torch.zeros(1, 4, 8)
    targets = torch.tensor([[1, 2, 3, IGNORED]])
    assert log_probs(logits, targets).sum(-1).item() == pytest.approx(-3 * math.log(8))


def test_the_loss_is_the_mean_over_all_tokens_that_count(batch):
    logits, targets = batch
    expected = -by_hand(logits, targets).sum() / 12
    torch.testing.assert_close(next_token_loss(logits, targets), expected)
    assert count_targets(targets).item() == 12


def test_gradients_are_softmax_minus_one_hot(batch):
    logits, targets = (t.clone() for t in batch)
    logits.requires_grad_()
    log_probs(logits, targets).sum().backward()
    counts = (targets != IGNORED)[..., None]
    one_hot = F.one_hot(targets.clamp(min=0), 7)
    expected = (one_hot - logits.detach().softmax(-1)) * counts
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_scored_in_float32(batch, dtype):
    logits, targets = batch[0].to(dtype), batch[1]
    got = log_probs(logits, targets)
    assert got.dtype == torch.float32 and next_token_loss(logits, targets).dtype == torch.float32
    torch.testing.assert_close(
        got, by_hand(logits.double(), targets).float(), atol=1e-5, rtol=1e-5
    )


def test_a_loss_over_nothing_is_nan():
    assert next_token_loss(torch.zeros(1, 2, 3), torch.full((1, 2), IGNORED)).isnan()


class Bigram(torch.nn.Module):
    """Logits by the token before, and one more where the mask says padding stands."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.arange(25.0).view(5, 5).sin())

    def forward(self, input_ids, attention_mask=None):
        out = self.table[input_ids]
        return out if attention_mask is None else out * attention_mask[..., None]


def test_answer_log_probs_are_the_model_s_sums_with_gradients_and_mask():
    model, ids = Bigram(), torch.tensor([[0, 1, 2], [3, 4, 0]])
    targets = torch.tensor([[IGNORED, 2, 3], [4, 0, IGNORED]])
    got = answer_log_probs(model, ids, targets)
    assert got.shape == (2,)
    torch.testing.assert_close(got, by_hand(model.table[ids], targets).sum(-1))
    got.sum().backward()
    assert model.table.grad.abs().sum() > 0
    masked = answer_log_probs(model, ids, targets, torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert masked[0] != got[0] and masked[1] == got[1]


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.7, 1.0])
def test_label_smoothing_is_the_cross_entropy_against_a_softened_target(epsilon):
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 9, generator=g, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([3, 0, IGNORED, 8, 1, IGNORED])
    counts = targets != IGNORED
    soft = torch.full((4, 9), epsilon / 9, dtype=torch.float64)
    soft[range(4), targets[counts]] += 1 - epsilon
    expected = -(soft * logits[counts].log_softmax(-1)).sum(-1).mean()
    got = label_smoothing(logits, targets, epsilon)
    torch.testing.assert_close(got, expected)
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (got, expected))
    torch.testing.assert_close(ours, theirs)


def test_bad_input_is_named(batch):
    logits, targets = batch
    with pytest.raises(ValueError, match=re.escape("targets must have the logits' (batch, tok")):
        log_probs(logits, targets[:, :-1])
    with pytest.raises(TypeError, match="targets must be int64"):
        next_token_loss(logits, targets.int())
    with pytest.raises(ValueError, match="targets must be from 0 to vocab_size − 1 = 6: got 7"):
        next_token_loss(logits, targets.clamp(min=7))
    with pytest.raises(ValueError, match=r"got -1 at \(0, 3\)$"):
        next_token_loss(logits, targets.clamp(min=-1))
    with pytest.raises(TypeError, match="logits must be a tensor"):
        log_probs([1.0], targets)
    with pytest.raises(TypeError, match="logits must be floating point"):
        log_probs(logits.long(), targets)
    with pytest.raises(ValueError, match="targets must have the logits'"):
        label_smoothing(logits[0], targets[0, :-1])
    with pytest.raises(TypeError, match="targets must be int64"):
        label_smoothing(logits[0], targets[0].int())
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match="^smoothing must be a number from 0 to 1: got"):
            label_smoothing(logits[0], targets[0], bad)
