"""GRPO: against trl's recorded losses, exact expected rewards, and the engine that runs it."""

import dataclasses

import pytest
import torch
from helpers.alignment_subject import Table, as_batch, every_answer, tiny_policy

from llmbook.alignment.collapse import Collapsed
from llmbook.alignment.grpo import GRPO, GRPOConfig, group_advantages, grpo_loss
from llmbook.alignment.rollouts import answer_token_log_probs
from llmbook.training import Interrupted, Log, TrainConfig, train

# --- recorded from trl 1.16.0, GRPOTrainer._compute_loss; GSPO as importance_sampling_level
# "sequence" with loss_type "grpo" and ε 0.12, max_completion_length 5

LOG_PROBS = [[-0.99, -1.54, -0.18], [-0.26, -0.61, -1.27], [-0.98, -1.79, -0.91]]
LOG_PROBS += [[-1.26, -0.7, -0.8]]
OLD = [[-1.28, -1.74, -0.3], [-0.25, -0.5, -1.09], [-1.18, -1.92, -0.8], [-1.02, -0.76, -0.58]]
REFERENCE = [[-1.15, -1.43, 0.73], [-1.19, -1.24, -1.52], [-1.37, -0.93, -1.56]]
REFERENCE += [[-1.72, -1.4, -1.74]]
MASK = [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]]
REWARDS = [1.0, 0.0, 2.0, 1.0]
TRL = {  # (form, β, times the ratio?): the loss, and its gradient
    ("grpo", 0.0, False): (
        -0.096289,
        [[0.0, 0.0, -0.06643], [0.0875, 0.07917, 0.0], [0, 0, 0], [0.0, 0.06256, 0.04728]],
    ),
    ("grpo", 0.1, False): (
        -0.07843,
        [[0.00123, -0.00097, -0.0788], [0.09506, 0.08501, 0], [0.00807, 0, 0]]
        + [[0.00307, 0.06676, 0.05236]],
    ),
    ("grpo", 0.1, True): (
        -0.07826,
        [[0.00178, -0.00112, -0.07498], [0.09901, 0.08622, 0], [0.01191, 0, 0]]
        + [[0.00302, 0.06875, 0.05357]],
    ),
    ("dr_grpo", 0.0, False): (
        -0.004431,
        [[0.0, 0.0, -0.02819], [0.02475, 0.0224, 0], [0, 0, 0], [0, 0.02655, 0.02006]],
    ),
    ("dr_grpo", 0.1, False): (
        0.004396,
        [[0.00074, -0.00058, -0.03561], [0.02778, 0.02473, 0], [0.00161, 0, 0]]
        + [[0.00184, 0.02906, 0.02311]],
    ),
    ("dapo", 0.0, False): (
        -0.023572,
        [[0.0, -0.09595, -0.08857], [0.07777, 0.07037, 0], [-0.09595, 0, 0]]
        + [[0, 0.08341, 0.06304]],
    ),
    ("dapo", 0.1, True): (
        -0.003947,
        [[0.00238, -0.09744, -0.09997], [0.08801, 0.07664, 0], [-0.09066, 0, 0]]
        + [[0.00402, 0.09167, 0.07142]],
    ),
    ("gspo", 0.0, False): (-0.073924, [[0, 0, 0], [0.08323, 0.08323, 0], [0, 0, 0], [0, 0, 0]]),
    ("gspo", 0.1, False): (
        -0.056064,
        [[0.00123, -0.00097, -0.01237], [0.0908, 0.08907, 0], [0.00807, 0, 0]]
        + [[0.00307, 0.0042, 0.00508]],
    ),
}


@pytest.mark.parametrize("form, beta, weighted", TRL)
def test_losses_and_gradients_are_trl_s(form, beta, weighted):
    clips = {"clip_low": 0.12, "clip_high": 0.12} if form == "gspo" else {}
    config = GRPOConfig.of(
        form, group=2, beta=beta, kl_weighted=weighted, max_new_tokens=5, **clips
    )
    log_probs = torch.tensor(LOG_PROBS, requires_grad=True)
    advantages = group_advantages(torch.tensor(REWARDS), 2, form != "dr_grpo")
    mask = torch.tensor(MASK).bool()
    loss, _ = grpo_loss(
        log_probs, torch.tensor(OLD), advantages, mask, config, torch.tensor(REFERENCE)
    )
    value, gradient = TRL[form, beta, weighted]
    assert loss.item() == pytest.approx(value, abs=2e-6)
    (found,) = torch.autograd.grad(loss, log_probs)
    assert (found - torch.tensor(gradient)).abs().max() < 2e-5


def test_what_is_masked_has_no_effect():
    config = GRPOConfig(group=2, beta=0.1)
    mask = torch.tensor(MASK).bool()
    advantages = group_advantages(torch.tensor(REWARDS), 2)

    def value(fill):
        tensors = [torch.tensor(x).masked_fill(~mask, fill) for x in (LOG_PROBS, OLD, REFERENCE)]
        ours = tensors[0].requires_grad_()
        loss, told = grpo_loss(ours, tensors[1], advantages, mask, config, tensors[2])
        return loss.item(), told["kl"].item(), torch.autograd.grad(loss, ours)[0]

    one, other = value(0.0), value(torch.nan)
    assert one[:2] == other[:2]
    assert torch.equal(one[2], other[2])
    assert (one[2][~mask] == 0).all()


# --- advantages


def test_advantages_by_hand():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0])
    scaled = group_advantages(rewards, 4)
    assert scaled[:4].tolist() == pytest.approx([1.4997, -0.4999, -0.4999, -0.4999], abs=1e-4)
    assert scaled[4:].tolist() == [0, 0, 0, 0]
    plain = group_advantages(rewards, 4, scale=False)
    assert plain.tolist() == [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "rewards, group, message",
    [
        (torch.ones(4), 1, "group must be a whole number of at least 2: got 1"),
        (torch.ones(5), 2, "whole groups of 2, at least one: got 5"),
        (torch.ones(0), 2, "whole groups of 2, at least one: got 0"),
    ],
)
def test_a_group_of_one_or_none_is_refused(rewards, group, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(rewards, group)


# --- exact expected rewards, on two tokens

# logits whose softmax is (1/4, 3/4): of 16 answers each comes as often as its probability says
QUARTER = torch.tensor([[0.0, 1.0986122886681098]] * 2, dtype=torch.float64)
REWARD = torch.tensor([[0.0, 1.0], [3.0, -2.0]], dtype=torch.float64)  # by both tokens


def expected_reward(logits):
    """E[r] of answers of two tokens to the prompt 0, summed over all four; exact."""
    p = logits.softmax(-1)
    return (p[0][:, None] * p * REWARD).sum()


def finite_differences(function, at, h=1e-6):
    slope = torch.zeros_like(at)
    for i in range(at.numel()):
        step = torch.zeros_like(at).flatten()
        step[i] = h
        step = step.view_as(at)
        slope.view(-1)[i] = (function(at + step) - function(at - step)) / (2 * h)
    return slope


@pytest.mark.parametrize("form", ["grpo", "dr_grpo", "dapo"])
def test_without_scaling_the_gradient_is_that_of_the_expected_reward(form):
    """Answers as often as they are likely: the mean over them is the expectation."""
    model = Table(QUARTER)
    answers = every_answer(2, 2)
    answers = answers.repeat_interleave(torch.tensor([1, 3, 3, 9]), 0)
    ids, mask, targets = as_batch(answers)
    rewards = REWARD[answers[:, 0], answers[:, 1]]
    config = GRPOConfig(form, group=16, max_new_tokens=2)
    ours = answer_token_log_probs(model, ids, mask, targets)
    advantages = group_advantages(rewards, 16, scale=False)
    loss, told = grpo_loss(ours, ours.detach(), advantages, torch.ones_like(ours).bool(), config)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12) and told["clipped"] == 0
    # all three divide by the two tokens of an answer
    exact = finite_differences(expected_reward, QUARTER) / 2
    assert exact.abs().max() > 0.1
    assert (model.logits.grad + exact).abs().max() < 1e-8


def test_no_gradient_flows_once_the_ratio_is_beyond_the_clip_the_good_way():
    config = GRPOConfig(group=2, clip_high=0.2)
    mask, old = torch.ones(1, 1).bool(), torch.zeros(1, 1)
    for shift, advantage, moves in [(0.5, 1, 0), (0.5, -1, 1), (-0.5, 1, 1), (-0.5, -1, 0)]:
        ours = torch.tensor([[shift]], requires_grad=True)
        loss, told = grpo_loss(ours, old, torch.tensor([float(advantage)]), mask, config)
        loss.backward()
        assert (ours.grad.abs().item() > 0) == moves
        assert told["clipped"] == 1 - moves


# --- the optimum of a bandit: π* ∝ π_ref · exp(r / β)


@pytest.mark.parametrize(
    "kl, weighted, reached", [("k2", False, 1), ("k3", True, 1), ("k1", True, 1), ("k3", False, 0)]
)
def test_with_kl_in_the_loss_the_bandit_s_optimum_is_reached_unless_by_bare_k3(
    kl, weighted, reached
):
    beta, rewards = 0.5, torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
    reference = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
    best = (reference[0].log_softmax(-1) + rewards / beta).softmax(-1)
    model = Table(reference)
    config = GRPOConfig("dr_grpo", group=2, beta=beta, kl=kl, kl_weighted=weighted)
    ids, mask, targets = as_batch(every_answer(3, 1))
    theirs = reference.log_softmax(-1)[0][:, None]
    for _ in range(250):
        ours = answer_token_log_probs(model, ids, mask, targets)
        p = ours.detach().exp()[:, 0]
        # the loss is linear in the rows: each one's, weighted by how often it is sampled
        total = 0
        for row in range(3):
            advantage = rewards[row : row + 1] - (p * rewards).sum()
            one, _ = grpo_loss(
                ours[row : row + 1],
                ours[row : row + 1].detach(),
                advantage,
                torch.ones(1, 1).bool(),
                dataclasses.replace(config, max_new_tokens=1),
                theirs[row : row + 1],
            )
            total = total + p[row] * one
        (gradient,) = torch.autograd.grad(total, model.logits)
        with torch.no_grad():
            model.logits -= 1.0 * gradient
    found = model.logits.detach()[0].softmax(-1)
    error = (found - best).abs().max().item()
    assert (error < 1e-4) == reached, error


# --- in the engine

SETTINGS = TrainConfig(
    steps=6, batch_size=8, lr=3e-3, warmup=0, weight_decay=0.0, checkpoint_every=2, log_every=1
)


def likes_fives(rollouts, step):
    return [answer.count(5) / 4 for answer in rollouts.answers]


def run(folder=None, config=None, settings=SETTINGS, reward=likes_fives, **options):
    model = tiny_policy(seed=2)
    config = config or GRPOConfig(group=4, max_new_tokens=6, beta=0.01)
    log = Log(folder, progress=False)
    grpo = GRPO(
        model, lambda step: [[3, 1], [4]], reward, config, reference=tiny_policy(seed=2), log=log
    )
    history = train(
        model,
        grpo.batch_at,
        settings,
        loss=grpo.loss,
        count=grpo.count,
        log=log,
        folder=folder,
        together=config.passes,
        **options,
    )
    return model, history, grpo


def test_the_first_step_has_ratio_one_kl_zero_and_loss_zero():
    _, history, _ = run(settings=dataclasses.replace(SETTINGS, steps=1))
    assert abs(history.losses[0]) < 1e-5
    assert abs(history.noted["kl_answer"][0][1]) < 1e-5
    assert history.noted["clipped"][0][1] == 0
    assert history.grad_norms[0] > 1e-3  # and yet there is a gradient


@pytest.mark.parametrize("form", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_every_form_raises_the_reward(form):
    config = GRPOConfig.of(form, group=8, max_new_tokens=6, clip_low=0.2, clip_high=0.28)
    settings = dataclasses.replace(SETTINGS, steps=25, lr=1e-2)
    _, history, _ = run(config=config, settings=settings)
    rewards = [value for _, value in history.noted["reward"]]
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.6, rewards
    assert history.noted["kl_answer"][-1][1] > 0.1  # the policy's samples are likelier to itself


def test_what_is_sampled_depends_on_the_seed_and_the_step_and_on_nothing_else():
    config = GRPOConfig(group=4, max_new_tokens=6)
    grpo = GRPO(tiny_policy(), lambda step: [[3, 1], [4]], likes_fives, config)
    first, second, again = (grpo.batch_at(step)[4] for step in (0, 1, 0))
    other = GRPO(
        grpo.model, grpo.prompts_at, likes_fives, dataclasses.replace(config, seed=1)
    ).batch_at(0)[4]
    assert torch.equal(first, again)
    assert not torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, passes):
    config = GRPOConfig(group=4, max_new_tokens=6, beta=0.01, passes=passes)
    whole, history, _ = run(tmp_path / "whole", config)

    def dies(rollouts, step):
        if step == 4:
            raise Interrupted(step, tmp_path)
        return likes_fives(rollouts, step)

    with pytest.raises(Interrupted):
        run(tmp_path / "killed", config, reward=dies)
    again, later, _ = run(tmp_path / "killed", config, resume=True)
    for p, q in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    assert later.losses == history.losses
    assert later.noted["reward"] == history.noted["reward"]


def test_several_passes_share_their_rollouts_and_the_ratio_leaves_one():
    config = GRPOConfig(group=4, max_new_tokens=6, passes=3)
    _, history, grpo = run(config=config, settings=dataclasses.replace(SETTINGS, lr=1e-2))
    assert [step for step, _ in history.noted["reward"]] == [0, 3]
    assert abs(history.losses[0]) < 1e-5 < abs(history.losses[2])
    fresh = GRPO(grpo.model, lambda step: [[3]], likes_fives, config)
    with pytest.raises(ValueError, match="together must be passes=3: got step 1 first"):
        fresh.batch_at(1)


def test_micro_batches_are_one_batch():
    for form in ("grpo", "dapo"):
        config = GRPOConfig.of(form, group=4, max_new_tokens=6)
        one = run(config=config, settings=dataclasses.replace(SETTINGS, steps=2))[1]
        cut = dataclasses.replace(SETTINGS, steps=2, accumulate=4)
        parts = run(config=config, settings=cut)[1]
        assert parts.grad_norms == pytest.approx(one.grad_norms, rel=1e-4)


def test_a_policy_that_writes_nothing_any_more_is_a_collapse_with_its_step():
    def likes_silence(rollouts, step):
        return (-rollouts.lengths).tolist()

    settings = dataclasses.replace(SETTINGS, steps=200, lr=3e-2)
    config = GRPOConfig(group=8, max_new_tokens=6)
    with pytest.raises(Collapsed, match="of the answers are empty") as found:
        run(config=config, settings=settings, reward=likes_silence)
    assert 0 < found.value.step < 200
    assert str(found.value.step) in str(found.value)


# --- bad input


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"group": 1}, "group must be a whole number of at least 2: got 1"),
        ({"beta": -0.1}, "beta must be a number at least 0"),
        ({"form": "rloo"}, "form must be one of grpo, dr_grpo, dapo, gspo"),
        ({"clip_low": 0.0}, "clip_low must be a number above 0"),
        ({"kl": "k4"}, "kl must be one of"),
        ({"passes": 0}, "passes must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GRPOConfig(**changes)


def test_beta_needs_a_reference_of_the_same_tokenizer():
    model, config = tiny_policy(), GRPOConfig(beta=0.1)
    with pytest.raises(ValueError, match="reference must be a model: beta is 0.1"):
        GRPO(model, None, None, config)
    other = Table(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="got vocab_size 3, the policy's is 11"):
        GRPO(model, None, None, config, reference=other)


def test_the_clips_of_the_papers():
    assert (GRPOConfig.of("dapo").clip_low, GRPOConfig.of("dapo").clip_high) == (0.2, 0.28)
    assert GRPOConfig.of("gspo").clip_high == 4e-4
    assert GRPOConfig.of("grpo", group=4).group == 4
