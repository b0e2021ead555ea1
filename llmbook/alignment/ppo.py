"""PPO as InstructGPT used it: a reward at the end, a KL penalty a token, a learned baseline.

    r_t = R · [t is the last token] − β (log π_old(y_t) − log ρ(y_t))
    δ_t = r_t + γ V_{t+1} − V_t           V = 0 behind the last token
    A_t = δ_t + γ λ A_{t+1}               returns_t = A_t + V_t              (GAE)
    ratio_t = π(y_t) / π_old(y_t)
    policy loss = mean max(−A ratio, −A clip(ratio, 1 − ε, 1 + ε))
    value loss  = ½ mean max((V − returns)², (V_old + clip(V − V_old, ±c) − returns)²)

With γ = λ = 1 a return is the sum of what follows; λ < 1 trusts the value network for the far
part. Means are over the tokens of the batch. The advantages are whitened before use: divided by
their deviation, and their mean taken away as well. Sources: Schulman et al. 2016, 2017; Ziegler
et al. 2019; Ouyang et al. 2022. Shapes: rows are answers, A tokens, as in rollouts.py.
"""

from dataclasses import dataclass

import torch
from torch import nn

from llmbook import checks
from llmbook.alignment.collapse import Watch
from llmbook.alignment.kl import ESTIMATORS, kl_estimate
from llmbook.alignment.on_policy import OnPolicy
from llmbook.alignment.rollouts import check_reference, reference_log_probs
from llmbook.decoding.generate import evaluating
from llmbook.losses import IGNORED, log_probs


@dataclass(frozen=True)
class PPOConfig:
    """How to learn from rollouts with a value network.

    answers: a prompt's. beta: weight of the KL penalty, above 0 or 0 for none; kl_in: "reward", a
    part of each token's reward, or "loss", a term of its own by the estimator kl times the ratio.
    gamma, lam: of GAE. clip: of the ratio; value_clip: of the value's move, in rewards, None for
    none. value_weight: of the value loss in the sum. whiten: take the mean away and divide, only
    divide ("scale"), or neither ("none"). passes: updates on the same rollouts.
    """

    answers: int = 1
    beta: float = 0.05
    kl_in: str = "reward"
    kl: str = "k1"
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float | None = 0.2
    value_weight: float = 0.1
    whiten: str = "mean"
    passes: int = 4
    max_new_tokens: int = 32
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name in ("answers", "passes", "max_new_tokens"):
            checks.whole(name, getattr(self, name), least=1)
        checks.number("beta", self.beta, least=0)
        checks.one_of("kl_in", self.kl_in, ("reward", "loss"))
        checks.one_of("kl", self.kl, ESTIMATORS)
        for name in ("gamma", "lam"):
            checks.share(name, getattr(self, name))
        for name in ("clip", "temperature"):
            checks.positive(name, getattr(self, name))
        if self.value_clip is not None:
            checks.positive("value_clip", self.value_clip)
        checks.number("value_weight", self.value_weight, least=0)
        checks.one_of("whiten", self.whiten, ("mean", "scale", "none"))
        checks.whole("seed", self.seed, least=0)


class ActorCritic(nn.Module):
    """A policy and a value network as one module: `model(ids, mask)` → logits, values.

    policy: a decoder; critic: a `DecoderHead` with one output, on a body of its own: the value
    loss then can't pull at the policy. InstructGPT's began as the reward model.
    """

    def __init__(self, policy, critic):
        super().__init__()
        self.policy, self.critic = policy, critic

    def forward(self, input_ids, attention_mask=None):
        """(batch, tokens, V) and (batch, tokens)."""
        values = self.critic(input_ids, attention_mask)[..., 0]
        return self.policy(input_ids, attention_mask), values


def token_rewards(final, log_probs, reference_log_probs, mask, beta):
    """r_t: the final reward (rows,) at each row's last token, less β times k1 at every one.

    log_probs, reference_log_probs, mask: (rows, A). The result is (rows, A), 0 where nothing
    counts. No gradient flows: a reward is given.
    """
    rewards = torch.where(mask, -beta * (log_probs - reference_log_probs), 0.0).detach()
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (places * mask).argmax(-1, keepdim=True)
    return rewards.scatter_add(1, last, final.to(rewards)[:, None])


def gae(rewards, values, mask, gamma=1.0, lam=0.95):
    """Advantages and returns, (rows, A) each, 0 where nothing counts.

    rewards, values (rows, A); mask bool (rows, A), True from the first token of an answer to its
    last. Behind the last token there is nothing: V = 0 and A = 0. λ = 0 is one step of
    bootstrapping, λ = 1 the sum of what follows less the value. Costs A steps of (rows,).
    """
    checks.tensor("rewards", rewards, "rows tokens")
    rows, tokens = rewards.shape
    for name, x in (("values", values), ("mask", mask)):
        checks.tensor(name, x, "rows tokens", rows=rows, tokens=tokens)
    if mask[:, 1:].logical_and(~mask[:, :-1]).any():
        raise ValueError("mask must be True from an answer's first token to its last: got a gap")
    rewards, values = (torch.where(mask, x, 0.0) for x in (rewards, values))
    ahead = advantage = torch.zeros_like(values[:, 0])
    found = []
    for t in reversed(range(tokens)):
        delta = rewards[:, t] + gamma * ahead - values[:, t]
        advantage = (delta + gamma * lam * advantage) * mask[:, t]
        ahead = values[:, t]
        found.append(advantage)
    advantages = torch.stack(found[::-1], 1)
    return advantages, advantages + values


def whiten(x, mask, keep_mean=False):
    """Divide by the standard deviation of what counts; its mean goes to 0, or stays as it was.

    x, mask (rows, A); the deviation is that of the whole batch's tokens, divided by n. Advantages
    lose their mean; rewards are whitened with keep_mean=True, since their mean is what is wanted.
    """
    n = mask.sum()
    mean = torch.where(mask, x, 0.0).sum() / n
    variance = torch.where(mask, (x - mean).square(), 0.0).sum() / n
    white = (x - mean) / (variance + 1e-8).sqrt()
    return torch.where(mask, white + mean if keep_mean else white, 0.0)


def clipped_policy_loss(ours, old, advantages, mask, clip=0.2):
    """The policy's loss, a scalar, and the share of tokens whose gradient the clip has stopped.

    ours (with gradients), old: log π of the tokens, (rows, A). The larger of two losses is taken:
    a ratio beyond the clip in the direction that the advantage favours has no gradient, one beyond
    it in the other direction has.
    """
    ratio = torch.where(mask, ours - old, 0.0).exp()
    free, cut = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = torch.where(mask, torch.max(free, cut), 0.0).sum() / mask.sum()
    return loss, ((cut > free) & mask).sum() / mask.sum()


def value_loss(values, old_values, returns, mask, clip=0.2):
    """Half the mean squared error of the values, no smaller than with their move clipped.

    values (with gradients), old_values, returns (rows, A). clip: in units of the reward, None for
    the plain error.
    """
    error = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.max(error, (near - returns).square())
    return 0.5 * torch.where(mask, error, 0.0).sum() / mask.sum()


class PPO(OnPolicy):
    """A policy's rollouts and loss for the training engine.

        ppo = PPO(model, reference, prompts_at, reward, config, log=log)
        train(model, ppo.batch_at, settings, loss=ppo.loss, log=log, together=config.passes)

    model: an `ActorCritic`. prompts_at, reward: as in grpo.py. What is noted: reward (the judge's
    own, without the penalty), kl (nats an answer), length, entropy, explained (the share of the
    returns' variance that the values foresaw: 1 is perfect, below 0 worse than their mean); and of
    each update clipped, moved (KL from the rollouts' policy, by k3, nats a token), value_loss.
    """

    def __init__(self, model, reference, prompts_at, reward, config, *, log=None, watch=None):
        check_reference(model.policy, reference)
        self.model, self.reference, self.config = model, reference, config
        self.prompts_at, self.reward = prompts_at, reward
        self.log, self.watch = log, watch or Watch()
        self.writer, self.answers = model.policy, config.answers

    def _batch(self, step, rollouts, final):
        config = self.config
        old, mask, width = rollouts.log_probs, rollouts.mask, rollouts.targets.shape[1]
        reference = reference_log_probs(self.reference, rollouts, config.temperature)
        with torch.no_grad(), evaluating(self.model):
            values = self.model.critic(rollouts.input_ids, rollouts.attention_mask)
            values = torch.where(mask, values[:, -width:, 0].float(), 0.0)
        kl = (old - reference).sum(-1).mean().item()
        self.watch(step, rollouts, final, kl)
        beta = config.beta if config.kl_in == "reward" else 0.0
        rewards = token_rewards(final, old, reference, mask, beta)
        advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
        if self.log is not None:
            self.log.note(step, **_facts(rollouts, final, kl, values, returns))
        if config.whiten != "none":
            advantages = whiten(advantages, mask, keep_mean=config.whiten == "scale")
        return *rollouts.batch(), old, reference, advantages, returns, values

    def loss(self, model, input_ids, attention_mask, targets, old, reference, *estimates):
        """The scalar that `train` differentiates: policy, value, and the KL term if it is here."""
        config, mask = self.config, targets != IGNORED
        advantages, returns, old_values = estimates
        logits, values = model(input_ids, attention_mask)
        logits, values = (x[:, -targets.shape[1] :] for x in (logits, values))
        ours = log_probs(logits / config.temperature, targets)
        policy, clipped = clipped_policy_loss(ours, old, advantages, mask, config.clip)
        value = value_loss(values, old_values, returns, mask, config.value_clip)
        total = policy + config.value_weight * value
        if config.kl_in == "loss" and config.beta:
            weight = torch.where(mask, ours - old, 0.0).exp()
            kl = kl_estimate(ours, reference, config.kl, weight)
            total = total + config.beta * torch.where(mask, kl, 0.0).sum() / mask.sum()
        if self.log is not None:
            moved = kl_estimate(old, ours.detach(), "k3").sum() / mask.sum()
            self.log.measure(clipped=clipped, moved=moved, value_loss=value)
        return total

    def count(self, input_ids, attention_mask, targets, *more):
        """How many terms the loss is a mean of: the answers' tokens."""
        return (targets != IGNORED).sum()


def _facts(rollouts, final, kl, values, returns):
    mask = rollouts.mask
    spread = returns[mask].var(correction=0)
    left = (returns - values)[mask].var(correction=0)
    return {
        "reward": final.mean().item(),
        "kl": kl,
        "length": rollouts.lengths.float().mean().item(),
        "entropy": -(rollouts.log_probs.sum() / mask.sum()).item(),
        "ended": rollouts.ended.float().mean().item(),
        "explained": (1 - left / spread.clamp(min=1e-8)).item(),
    }
