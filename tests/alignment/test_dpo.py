"""DPO: worked losses, trl's, the bandit's optimum, and what its rewards may do meanwhile."""

import pytest
import torch
from helpers.alignment_subject import END, Table, as_batch, every_answer, tiny_policy
from torch import nn

from llmbook.alignment.dpo import (
    DPO,
    OnlineDPO,
    dpo_loss,
    pair_log_probs,
    preference_batch,
    with_reference,
)
from llmbook.losses import IGNORED
from llmbook.training import Log, TrainConfig, train

PROMPTS = [[3, 4], [7, 8, 9]]
CHOSEN, REJECTED = [[1], [6, 1, 4]], [[2, 2, 2], [10]]


def test_the_loss_on_worked_numbers():
    ours = torch.tensor([[-0.5, -0.1], [-10.0, -30.0], [-1.0, -21.0]])
    reference = torch.tensor([[-0.5, -0.1], [-10.1, -20.1], [-0.1, -0.1]])
    each = [dpo_loss(ours[i : i + 1], reference[i : i + 1], 0.1)[0].item() for i in range(3)]
    assert each == pytest.approx([0.6931, 0.3133, 0.1269], abs=1e-4)
    assert dpo_loss(ours, reference, 0.1)[0].item() == pytest.approx(sum(each) / 3)


@pytest.mark.parametrize(
    "beta, value, slope",
    [
        (0.1, 0.688324, [-0.015834, -0.015543, -0.018245]),
        (0.5, 0.720861, [-0.062923, -0.05623, -0.120186]),
    ],
)
def test_losses_and_gradients_are_trl_s(beta, value, slope):
    """Recorded from trl 1.16.0, DPOTrainer._compute_loss, loss_type "sigmoid"."""
    ours = torch.tensor([[-2.84, -2.45], [-2.39, -4.18], [-0.88, -0.40]], requires_grad=True)
    reference = torch.tensor([[-4.19, -2.80], [-2.90, -3.34], [-0.09, -1.51]])
    loss, told = dpo_loss(ours, reference, beta)
    assert loss.item() == pytest.approx(value, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, ours)
    chosen = torch.tensor(slope)
    assert torch.allclose(gradient, torch.stack([chosen, -chosen], 1), atol=1e-5)
    assert told["accuracy"] == pytest.approx(2 / 3)
    if beta == 0.1:
        assert told["chosen"].item() == pytest.approx(0.035667, abs=1e-5)
        assert told["rejected"].item() == pytest.approx(0.020667, abs=1e-5)


def test_noise_is_the_loss_of_labels_that_are_sometimes_wrong():
    ours, reference = torch.randn(5, 2), torch.randn(5, 2)
    right = dpo_loss(ours, reference, 0.3)[0]
    wrong = dpo_loss(ours.flip(1), reference.flip(1), 0.3)[0]
    mixed = dpo_loss(ours, reference, 0.3, noise=0.2)[0]
    assert mixed.item() == pytest.approx((0.8 * right + 0.2 * wrong).item(), abs=1e-6)


def test_a_batch_s_log_probs_are_sums_over_the_answer_and_its_end_alone():
    model = tiny_policy()
    batch = preference_batch(PROMPTS, CHOSEN, REJECTED, END)
    found = pair_log_probs(model, *batch)
    for row, (prompt, *pair) in enumerate(zip(PROMPTS, CHOSEN, REJECTED, strict=True)):
        for i, answer in enumerate(pair):
            text = [*prompt, *answer, END]
            with torch.no_grad():
                log_p = model(torch.tensor([text]))[0].log_softmax(-1)
            by_hand = sum(log_p[t - 1, text[t]].item() for t in range(len(prompt), len(text)))
            assert found[row, i].item() == pytest.approx(by_hand, abs=1e-4)


def test_padding_and_prompts_have_no_effect():
    _, targets, mask = preference_batch(PROMPTS, CHOSEN, REJECTED, END)
    assert (targets != IGNORED).sum((1, 2)).tolist() == [2 + 4, 4 + 2]
    model = tiny_policy()
    alone = preference_batch(PROMPTS[:1], CHOSEN[:1], REJECTED[:1], END)
    together = preference_batch(PROMPTS, CHOSEN, REJECTED, END)
    a, b = pair_log_probs(model, *alone), pair_log_probs(model, *together)
    assert torch.allclose(a[0], b[0], atol=1e-5)


def test_at_the_first_step_the_loss_is_log_2_and_the_rewards_are_0():
    model = tiny_policy()
    batch = with_reference(model, preference_batch(PROMPTS, CHOSEN, REJECTED, END))
    assert not batch[-1].requires_grad
    log = Log(progress=False)
    loss = DPO(beta=0.1, log=log).loss(model, *batch)
    assert loss.item() == pytest.approx(0.693147, abs=1e-6)
    assert all(abs(v.item()) < 1e-6 for v in log._measured["chosen"])


def test_with_all_pairs_at_their_probabilities_the_optimum_is_the_bandit_s():
    """Preferences of Bradley and Terry's model: DPO's minimum is π_ref · exp(r / β) / Z."""
    beta, rewards = 0.5, torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
    reference = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
    best = (reference[0].log_softmax(-1) + rewards / beta).softmax(-1)
    model = Table(reference)
    pairs = every_answer(3, 2)
    ids, mask, targets = (t.view(-1, 2, 1) for t in as_batch(pairs.reshape(-1, 1)))
    how_often = (rewards[pairs[:, 0]] - rewards[pairs[:, 1]]).sigmoid()
    theirs = pair_log_probs(Table(reference), ids, targets, mask).detach()
    for _ in range(400):
        ours = pair_log_probs(model, ids, targets, mask)
        loss, _ = dpo_loss(ours, theirs, beta, weights=how_often)
        (gradient,) = torch.autograd.grad(loss, model.logits)
        with torch.no_grad():
            model.logits -= 20 * gradient
    found = model.logits.detach()[0].softmax(-1)
    assert (found - best).abs().max() < 1e-4


class Line(nn.Module):
    """A policy of one number θ: logits θ · place, the tokens on a line at −1, 0 and 3."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask=None):
        return (self.theta * torch.tensor([-1.0, 0.0, 3.0])).expand(*input_ids.shape, 3)


def test_both_rewards_may_fall_while_the_loss_falls():
    """Token 1 is preferred to token 0: the step from 0 to 1 leads on to 2, which nobody rated."""
    model = Line()
    batch = with_reference(Line(), preference_batch([[0]], [[1]], [[0]]))
    log = Log(progress=False)
    settings = TrainConfig(steps=60, batch_size=1, lr=0.05, warmup=0, weight_decay=0.0)
    history = train(model, lambda step: batch, settings, loss=DPO(0.5, log=log).loss, log=log)
    chosen, rejected = ([v for _, v in history.noted[name]] for name in ("chosen", "rejected"))
    assert history.losses[-1] < 0.7 * history.losses[0]
    assert rejected[-1] < chosen[-1] < -1.0 < chosen[0] == 0
    assert model(torch.zeros(1, 1)).softmax(-1)[0, 0, 2] > 0.95


# --- on answers of its own


def likes_fives(rollouts, step):
    return [answer.count(5) for answer in rollouts.answers]


def online(model, **changes):
    settings = {"max_new_tokens": 6, "n": 4, "beta": 0.1} | changes
    return OnlineDPO(
        model, tiny_policy(2), lambda step: [[3, 1], [4], [8]], likes_fives, **settings
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_online_pairs_are_the_best_and_the_worst_of_what_was_written(temperature):
    model = tiny_policy(2)
    dpo = online(model, temperature=temperature)
    ids, targets, mask, reference, weights = dpo.batch_at(0)
    assert ids.shape[:2] == (3, 2) and reference.shape == (3, 2)
    fives = (targets == 5).sum(-1)
    for row in range(3):
        group = [a.count(5) for a in dpo.rollouts.answers[4 * row : 4 * row + 4]]
        assert fives[row].tolist() == [max(group), min(group)]
        assert weights[row] == (max(group) > min(group))
    # the reference is the policy still, and both are read at temperature 1
    assert torch.allclose(pair_log_probs(model, ids, targets, mask), reference, atol=1e-5)


def test_pairs_of_equal_answers_do_not_count():
    loss, _ = dpo_loss(
        torch.tensor([[-1.0, -2.0], [-9.0, -1.0]]),
        torch.zeros(2, 2),
        0.5,
        weights=torch.tensor([1.0, 0.0]),
    )
    alone, _ = dpo_loss(torch.tensor([[-1.0, -2.0]]), torch.zeros(1, 2), 0.5)
    assert loss.item() == alone.item()
    nothing, _ = dpo_loss(torch.zeros(1, 2), torch.zeros(1, 2), 0.5, weights=torch.zeros(1))
    assert nothing == 0


def test_online_it_raises_the_reward():
    model, log = tiny_policy(2), Log(progress=False)
    dpo = online(model, log=log)
    settings = TrainConfig(steps=30, batch_size=3, lr=3e-3, warmup=0)
    history = train(model, dpo.batch_at, settings, loss=dpo.loss, log=log)
    rewards = [value for _, value in history.noted["reward"]]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 2.5, rewards


# --- bad input


def test_chosen_equal_to_rejected_is_refused_with_its_row():
    with pytest.raises(ValueError, match="chosen and rejected must differ.*row 1"):
        preference_batch(PROMPTS, [[1], [2]], [[3], [2]], END)
    with pytest.raises(ValueError, match="an answer must have at least one token.*row 0"):
        preference_batch(PROMPTS[:1], [[]], [[3]])


@pytest.mark.parametrize("beta", [0, -0.1])
def test_beta_must_be_above_0(beta):
    with pytest.raises(ValueError, match="beta must be a number above 0"):
        DPO(beta)
    with pytest.raises(ValueError, match="beta must be a number above 0"):
        dpo_loss(torch.zeros(1, 2), torch.zeros(1, 2), beta)


def test_other_bad_input():
    with pytest.raises(ValueError, match="noise must be"):
        DPO(0.1, noise=0.5)
    with pytest.raises(ValueError, match="log_probs must be"):
        dpo_loss(torch.zeros(3), torch.zeros(3), 0.1)
    with pytest.raises(ValueError, match="n must be a whole number of at least 2"):
        online(tiny_policy(), n=1)
    with pytest.raises(ValueError, match="got vocab_size 3, the policy's is 11"):
        OnlineDPO(tiny_policy(), Table(torch.zeros(3, 3)), None, None)
