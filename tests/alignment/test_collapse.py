"""A divergence noted by hand; weights that are no numbers are a collapse, named at its step."""

import math

import pytest
import torch
from helpers.alignment_subject import tiny_policy

from llmbook.alignment.collapse import Collapsed
from llmbook.alignment.dpo import OnlineDPO
from llmbook.alignment.grpo import GRPO, GRPOConfig
from llmbook.alignment.ppo import PPO, ActorCritic, PPOConfig
from llmbook.models.heads import DecoderHead
from llmbook.training import Log

METHODS = ("grpo", "ppo", "online")


def uniform():
    """A policy that finds each of its eleven tokens as likely as any other."""
    model = tiny_policy()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return model


def broken(model):
    """The model, with weights that are no numbers."""
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(torch.nan)
    return model


def method_of(name, policy, reference, log=None):
    """One of the three, on two prompts, with two answers a prompt."""

    def prompts_at(step):
        return [[3, 1], [4]]

    def longest(rollouts, step):
        return rollouts.lengths.tolist()

    if name == "grpo":
        config = GRPOConfig(group=2, max_new_tokens=6)
        return GRPO(policy, prompts_at, longest, config, reference=reference, log=log)
    if name == "ppo":
        model = ActorCritic(policy, DecoderHead(tiny_policy(3), 1, std=0.01))
        config = PPOConfig(answers=2, max_new_tokens=6, passes=1)
        return PPO(model, reference, prompts_at, longest, config, log=log)
    return OnlineDPO(policy, reference, prompts_at, longest, max_new_tokens=6, log=log)


@pytest.mark.parametrize("name", METHODS)
def test_the_divergence_noted_is_that_of_whole_answers_by_hand(name):
    """From a uniform reference: log π of an answer's tokens, and ln 11 for each of them."""
    policy, log = tiny_policy(2), Log(progress=False)
    method = method_of(name, policy, uniform(), log)
    log.start(0, 1)
    method.batch_at(0)
    nats = []
    rollouts = method.rollouts
    for prompt, length, targets in zip(
        rollouts.prompts, rollouts.lengths.tolist(), rollouts.targets.tolist(), strict=True
    ):
        text = prompt + targets[:length]
        with torch.no_grad():
            log_p = policy(torch.tensor([text]))[0].log_softmax(-1)
        places = range(len(prompt), len(text))
        nats.append(sum(log_p[t - 1, text[t]].item() + math.log(11) for t in places))
    assert len(set(rollouts.lengths.tolist())) > 1  # else a mean over tokens would do
    log.flush(last=True)
    noted = log.history.noted["kl_answer" if name == "grpo" else "kl"]
    assert noted == [(0, pytest.approx(sum(nats) / len(nats), abs=1e-4))]
    assert noted[0][1] > 0.5


@pytest.mark.parametrize("name", METHODS)
def test_weights_that_are_no_numbers_are_a_collapse_with_its_step(name):
    method = method_of(name, tiny_policy(2), tiny_policy(2))
    method.batch_at(0)
    broken(getattr(method.model, "policy", method.model))
    with pytest.raises(Collapsed, match="step 5: the policy's logits are not finite") as found:
        method.batch_at(5)
    assert found.value.step == 5


@pytest.mark.parametrize("name", METHODS)
def test_a_divergence_that_is_no_number_is_a_collapse_with_its_step(name):
    method = method_of(name, tiny_policy(2), broken(tiny_policy(2)))
    with pytest.raises(Collapsed, match="step 3: the KL divergence.* is nan") as found:
        method.batch_at(3)
    assert found.value.step == 3
