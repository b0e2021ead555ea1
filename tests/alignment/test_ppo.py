"""PPO: worked examples, exact expected rewards on two tokens, the bandit's optimum, the engine."""

import dataclasses

import pytest
import torch
from helpers.alignment_subject import Table, as_batch, every_answer, tiny_policy

from llmbook.alignment.collapse import Collapsed, Watch
from llmbook.alignment.ppo import (
    PPO,
    ActorCritic,
    PPOConfig,
    clipped_policy_loss,
    gae,
    token_rewards,
    value_loss,
    whiten,
)
from llmbook.alignment.rollouts import answer_token_log_probs
from llmbook.models.heads import DecoderHead
from llmbook.training import Interrupted, Log, TrainConfig, train

ONES = torch.ones(1, 4).bool()


def rows(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


# --- generalised advantages


def test_gae_on_worked_numbers():
    rewards, values = rows(0, 0, 0, 1), rows(0, 0, 0, 1)
    advantages, returns = gae(rewards, values, ONES, 0.9, 0.95)
    assert returns[0].tolist() == pytest.approx([0.6579, 0.7695, 0.9, 1.0], abs=1e-4)
    assert advantages[0].tolist() == pytest.approx([0.6579, 0.7695, 0.9, 0.0], abs=1e-4)


def test_a_second_example_by_hand():
    """δ = (1 + ½·2 − 3, 2 + ½·1 − 2, 4 − 1) = (−1, ½, 3); γλ = ¼."""
    advantages, returns = gae(rows(1, 2, 4), rows(3, 2, 1), torch.ones(1, 3).bool(), 0.5, 0.5)
    assert advantages[0].tolist() == pytest.approx([-0.6875, 1.25, 3.0])
    assert returns[0].tolist() == pytest.approx([2.3125, 3.25, 4.0])


def test_lambda_1_is_what_follows_less_the_value_and_lambda_0_one_step():
    g = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(2, 5, generator=g, dtype=torch.float64) for _ in range(2))
    mask = torch.ones(2, 5).bool()
    follows = rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(gae(rewards, values, mask, 1, 1)[1], follows)
    after = torch.cat([values[:, 1:], torch.zeros(2, 1)], 1)
    assert torch.allclose(gae(rewards, values, mask, 0.9, 0)[0], rewards + 0.9 * after - values)


def test_behind_the_end_there_is_nothing_and_what_stands_there_has_no_effect():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    rewards, values = torch.randn(2, 4), torch.randn(2, 4)
    one = gae(rewards, values, mask, 0.9, 0.8)
    other = gae(
        rewards.masked_fill(~mask, 7.0), values.masked_fill(~mask, torch.nan), mask, 0.9, 0.8
    )
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b) and (a[~mask] == 0).all()
    short = gae(rewards[:1, :2], values[:1, :2], mask[:1, :2], 0.9, 0.8)
    assert torch.allclose(one[0][:1, :2], short[0])


def test_a_mask_with_a_gap_is_refused():
    with pytest.raises(ValueError, match="got a gap"):
        gae(rows(1, 2, 3), rows(1, 2, 3), torch.tensor([[True, False, True]]))
    with pytest.raises(ValueError, match="values must be"):
        gae(rows(1, 2, 3), rows(1, 2), torch.ones(1, 3).bool())


# --- rewards, whitening, losses


def test_the_reward_stands_at_the_last_token_and_the_penalty_at_each():
    ours, theirs = rows(-1, -2, -3, 0), rows(-1.5, -1, -3, 0)
    mask = torch.tensor([[True, True, True, False]])
    found = token_rewards(torch.tensor([5.0]), ours.requires_grad_(), theirs, mask, 0.1)
    assert found[0].tolist() == pytest.approx([-0.05, 0.1, 5.0, 0.0])
    assert not found.requires_grad


def test_whitening_takes_the_mean_away_or_keeps_it_and_padding_has_no_part():
    x, mask = torch.tensor([[1.0, 2.0, 99.0], [3.0, 6.0, 4.0]]), torch.ones(2, 3).bool()
    mask[0, 2] = False
    for keep, mean in ((False, 0.0), (True, 3.2)):
        white = whiten(x, mask, keep_mean=keep)
        assert white[mask].mean().item() == pytest.approx(mean, abs=1e-6)
        assert white[mask].std(correction=0).item() == pytest.approx(1, abs=1e-6)
        assert white[0, 2] == 0


def test_the_policy_loss_by_hand():
    """Ratios 1.5, 0.5 with advantages 1 and −1, clip 0.2: −1.2 and 0.8, both without gradient."""
    ours = torch.tensor([[1.5, 0.5, 1.5, 0.5]]).log().requires_grad_()
    advantages = torch.tensor([[1.0, -1.0, -1.0, 1.0]])
    loss, clipped = clipped_policy_loss(ours, torch.zeros(1, 4), advantages, ONES)
    assert loss.item() == pytest.approx((-1.2 + 0.8 + 1.5 - 0.5) / 4)
    (gradient,) = torch.autograd.grad(loss, ours)
    assert gradient[0].tolist() == pytest.approx([0, 0, 1.5 / 4, -0.5 / 4])
    assert clipped == 0.5


def test_the_value_loss_by_hand():
    values = torch.tensor([[1.0, 0.1, 3.0]], requires_grad=True)
    old, returns = torch.zeros(1, 3), torch.tensor([[2.0, 0.0, 0.0]])
    mask = torch.ones(1, 3).bool()
    # moved by 1, clipped to 0.2: 1.8² above 1²; 0.1 is near; 3 is clipped to 0.2, 3² is more
    loss = value_loss(values, old, returns, mask, 0.2)
    assert loss.item() == pytest.approx(0.5 * (1.8**2 + 0.1**2 + 3.0**2) / 3, abs=1e-6)
    assert value_loss(values, old, returns, mask, None).item() == pytest.approx(
        0.5 * (1 + 0.01 + 9) / 3, abs=1e-6
    )


def test_padding_has_no_part_in_either_loss():
    mask = torch.tensor([[True, True, False]])
    for fill in (0.0, 40.0):
        ours = torch.tensor([[0.1, -0.2, fill]], requires_grad=True)
        x = torch.tensor([[0.3, 0.4, fill]])
        loss, clipped = clipped_policy_loss(ours, torch.zeros(1, 3), x, mask)
        value = value_loss(x, torch.zeros(1, 3), torch.ones(1, 3), mask)
        if not fill:
            first = loss.item(), clipped.item(), value.item()
        assert (loss.item(), clipped.item(), value.item()) == first
        assert torch.autograd.grad(loss, ours)[0][0, 2] == 0


# --- exact expected rewards, on two tokens

QUARTER = torch.tensor([[0.0, 1.0986122886681098]] * 2, dtype=torch.float64)  # ¼ and ¾
REWARD = torch.tensor([[0.0, 1.0], [3.0, -2.0]], dtype=torch.float64)
BETA = 0.3
REFERENCE = torch.tensor([[0.2, -0.4], [0.7, 0.1]], dtype=torch.float64)


def objective(logits):
    """E[r] − β KL(π ‖ ρ) of answers of two tokens to the prompt 0, exact."""
    log_p, log_q = logits.log_softmax(-1), REFERENCE.log_softmax(-1)
    p = log_p[0][:, None].exp() * log_p.exp()
    ratio = (log_p - log_q)[0][:, None] + (log_p - log_q)
    return (p * (REWARD - BETA * ratio)).sum()


def slope(at, h=1e-6):
    found = torch.zeros_like(at)
    for i in range(at.numel()):
        step = torch.zeros(at.numel(), dtype=at.dtype)
        step[i] = h
        step = step.view_as(at)
        found.view(-1)[i] = (objective(at + step) - objective(at - step)) / (2 * h)
    return found


@pytest.mark.parametrize("lam, baseline", [(1.0, "none"), (1.0, "values"), (0.0, "values")])
def test_the_gradient_is_that_of_the_penalised_expected_reward(lam, baseline):
    """Every answer as often as it is likely. λ = 1 takes any baseline, λ = 0 the true one."""
    answers = every_answer(2, 2).repeat_interleave(torch.tensor([1, 3, 3, 9]), 0)
    model, (ids, mask, targets) = Table(QUARTER), as_batch(answers)
    ours = answer_token_log_probs(model, ids, mask, targets)
    theirs = answer_token_log_probs(Table(REFERENCE), ids, mask, targets).detach()
    final = REWARD[answers[:, 0], answers[:, 1]]
    rewards = token_rewards(final, ours, theirs, mask, BETA)
    values = torch.zeros_like(rewards)
    if baseline == "values":  # the exact ones: what follows on average, given the tokens so far
        follows = gae(rewards, values, mask, 1, 1)[1]
        values[:, 0] = follows[:, 0].mean()
        for token in (0, 1):
            here = answers[:, 0] == token
            values[here, 1] = follows[here, 1].mean()
    advantages, _ = gae(rewards, values, mask, 1.0, lam)
    loss, clipped = clipped_policy_loss(ours, ours.detach(), advantages, mask)
    loss.backward()
    assert clipped == 0
    exact = slope(QUARTER) / 2  # a mean over two tokens an answer
    assert exact.abs().max() > 0.1
    assert (model.logits.grad + exact).abs().max() < 1e-8


def test_the_bandit_s_optimum_is_the_reference_times_exp_of_reward_over_beta():
    beta, rewards = 0.5, torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
    reference = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
    best = (reference[0].log_softmax(-1) + rewards / beta).softmax(-1)
    model = Table(reference)
    ids, mask, targets = as_batch(every_answer(3, 1))
    theirs = reference.log_softmax(-1)[0][:, None]
    for _ in range(300):
        ours = answer_token_log_probs(model, ids, mask, targets)
        p = ours.detach().exp()
        r = token_rewards(rewards, ours, theirs, mask, beta)
        advantages, _ = gae(r, (p * r).sum().expand(3, 1), mask)
        # a mean over three answers, each to count as often as it is sampled
        loss, _ = clipped_policy_loss(ours, ours.detach(), 3 * p * advantages, mask)
        (gradient,) = torch.autograd.grad(loss, model.logits)
        with torch.no_grad():
            model.logits -= 1.0 * gradient
    assert (model.logits.detach()[0].softmax(-1) - best).abs().max() < 1e-4


# --- in the engine

SETTINGS = TrainConfig(
    steps=8, batch_size=8, lr=3e-3, warmup=0, weight_decay=0.0, checkpoint_every=4, log_every=1
)
CONFIG = PPOConfig(answers=8, max_new_tokens=6, passes=2, beta=0.02)


def likes_fives(rollouts, step):
    return [answer.count(5) / 4 for answer in rollouts.answers]


def run(folder=None, config=CONFIG, settings=SETTINGS, reward=likes_fives, watch=None, **options):
    torch.manual_seed(5)
    model = ActorCritic(tiny_policy(2), DecoderHead(tiny_policy(3), 1, std=0.01))
    log = Log(folder, progress=False)
    prompts = [[3, 1], [4]]
    ppo = PPO(model, tiny_policy(2), lambda step: prompts, reward, config, log=log, watch=watch)
    history = train(
        model,
        ppo.batch_at,
        settings,
        loss=ppo.loss,
        count=ppo.count,
        log=log,
        folder=folder,
        together=config.passes,
        **options,
    )
    return model, history, ppo


def noted(history, name):
    return [value for _, value in history.noted[name]]


def test_the_first_update_has_ratio_one_and_kl_zero():
    _, history, _ = run(settings=dataclasses.replace(SETTINGS, steps=2))
    assert abs(noted(history, "kl")[0]) < 1e-4
    assert noted(history, "clipped")[0] == 0
    assert abs(noted(history, "moved")[0]) < 1e-6 < noted(history, "moved")[1]


@pytest.mark.parametrize("kl_in, kl", [("reward", "k1"), ("loss", "k2")])
def test_the_reward_rises_and_the_values_learn_to_foresee_it(kl_in, kl):
    config = dataclasses.replace(CONFIG, kl_in=kl_in, kl=kl, value_weight=1.0, value_clip=None)
    settings = dataclasses.replace(SETTINGS, steps=60, lr=3e-3)
    _, history, _ = run(config=config, settings=settings)
    rewards = noted(history, "reward")
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 1.0, rewards
    explained = noted(history, "explained")
    assert sum(explained[-5:]) / 5 > explained[0] + 0.3
    assert noted(history, "kl")[-1] > 0.1


def test_a_dear_penalty_keeps_the_policy_near_its_reference():
    settings = dataclasses.replace(SETTINGS, steps=24, lr=1e-2)
    far = run(config=dataclasses.replace(CONFIG, beta=0.0), settings=settings)[1]
    for kl_in in ("reward", "loss"):
        config = dataclasses.replace(CONFIG, beta=1.0, kl_in=kl_in)
        near = run(config=config, settings=settings)[1]
        assert noted(near, "kl")[-1] < 0.4 * noted(far, "kl")[-1]


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    whole, history, _ = run(tmp_path / "whole")

    def dies(rollouts, step):
        if step == 6:
            raise Interrupted(step, tmp_path)
        return likes_fives(rollouts, step)

    with pytest.raises(Interrupted):
        run(tmp_path / "killed", reward=dies)
    again, later, _ = run(tmp_path / "killed", resume=True)
    for p, q in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    assert later.losses == history.losses and later.noted == history.noted


def test_micro_batches_are_one_batch():
    settings = dataclasses.replace(SETTINGS, steps=2)
    one = run(settings=settings)[1]
    parts = run(settings=dataclasses.replace(settings, accumulate=4))[1]
    assert parts.grad_norms == pytest.approx(one.grad_norms, rel=1e-4)


def test_a_policy_that_runs_away_is_a_collapse_with_its_step():
    settings = dataclasses.replace(SETTINGS, steps=100, lr=1e-2)
    config = dataclasses.replace(CONFIG, beta=0.0)
    with pytest.raises(Collapsed, match="nats an answer from its reference") as found:
        run(config=config, settings=settings, watch=Watch(max_kl=2.0))
    assert 0 < found.value.step < 100 and found.value.step % 2 == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"beta": -1}, "beta must be a number at least 0"),
        ({"lam": 1.2}, "lam must be a number from 0 to 1"),
        ({"kl_in": "both"}, "kl_in must be one of reward, loss"),
        ({"clip": 0}, "clip must be a number above 0"),
        ({"whiten": "yes"}, "whiten must be one of mean, scale, none"),
        ({"value_clip": 0.0}, "value_clip must be a number above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**changes)


def test_a_reference_of_another_tokenizer_and_a_text_for_a_reward_are_refused():
    model = ActorCritic(tiny_policy(), DecoderHead(tiny_policy(), 1))
    with pytest.raises(ValueError, match="got vocab_size 3, the policy's is 11"):
        PPO(model, Table(torch.zeros(3, 3)), None, None, CONFIG)
    with pytest.raises(TypeError, match="reward must be a number.*answer 0 at step 0"):
        run(reward=lambda rollouts, step: ["good"] * 16)
