"""GRPO: of several answers to one prompt, make those above their mean likelier.

    A_i = (r_i − mean r) / (std r + 10⁻⁴)              over the n answers of a prompt
    ρ_t = π(y_t) / π_old(y_t)
    loss = −mean [ min(ρ_t A, clip(ρ_t, 1 − ε_low, 1 + ε_high) A) − β · KL_t ]

No value network: the group's mean is the baseline. On fresh rollouts ρ is 1 and A sums to 0 in
each group, so the loss starts at 0 whatever the rewards; its gradient does not, and what rises
afterwards is β · KL. Four forms are in use, which differ in what is divided by what:

    form       A divided by   mean over                     ratio     clipped to
    grpo       std            tokens of a row, then rows    token     1 ± ε
    dr_grpo    1              rows · max_new_tokens         token     1 ± ε
    dapo       std            all tokens of the batch       token     1 − ε … 1 + ε_high
    gspo       std            rows                          answer    1 ± a much smaller ε

Sources: Shao et al. 2024 (grpo), Liu et al. 2025 (dr_grpo), Yu et al. 2025 (dapo), Zheng et al.
2025 (gspo). Shapes: rows, P, A as in llmbook/alignment/rollouts.py.
"""

import dataclasses
from dataclasses import dataclass

import torch

from llmbook import checks
from llmbook.alignment.collapse import Watch
from llmbook.alignment.kl import ESTIMATORS, kl_estimate
from llmbook.alignment.on_policy import OnPolicy
from llmbook.alignment.rollouts import answer_token_log_probs, check_reference, reference_log_probs
from llmbook.losses import IGNORED, count_targets
from llmbook.training.loop import count_rows

FORMS = ("grpo", "dr_grpo", "dapo", "gspo")


@dataclass(frozen=True)
class GRPOConfig:
    """How to learn from groups; `GRPOConfig.of(form, …)` has the clips of that form's paper.

    group: answers a prompt, at least 2. clip_low, clip_high: ε on either side. beta: weight of the
    KL term in the loss, nats a token, 0 for none; kl: its estimator, and kl_weighted: times the
    ratio, without which its gradient is that of another divergence (kl.py). passes: updates on
    the same rollouts. The seed is that of the rollouts.
    """

    form: str = "grpo"
    group: int = 8
    clip_low: float = 0.2
    clip_high: float = 0.2
    beta: float = 0.0
    kl: str = "k3"
    kl_weighted: bool = False
    passes: int = 1
    max_new_tokens: int = 32
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self):
        checks.one_of("form", self.form, FORMS)
        checks.whole("group", self.group, least=2)
        for name in ("clip_low", "clip_high", "temperature"):
            checks.positive(name, getattr(self, name))
        checks.number("beta", self.beta, least=0)
        checks.one_of("kl", self.kl, ESTIMATORS)
        checks.flag("kl_weighted", self.kl_weighted)
        for name in ("passes", "max_new_tokens"):
            checks.whole(name, getattr(self, name), least=1)
        checks.whole("seed", self.seed, least=0)

    @classmethod
    def of(cls, form, **changes):
        """A form with its paper's clips: DAPO's 0.2 and 0.28, GSPO's 0.0003 and 0.0004."""
        clips = {"dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4)}.get(form, (0.2, 0.2))
        return dataclasses.replace(cls(form, clip_low=clips[0], clip_high=clips[1]), **changes)


def group_advantages(rewards, group, scale=True):
    """(rows,) → (rows,): each reward less its group's mean, over its deviation when `scale`.

    Rows of a group stand side by side. The deviation is the sample's, divided by n − 1; a group of
    equal rewards gets 0. Raises ValueError for groups of fewer than two, or rows that are left.
    """
    checks.tensor("rewards", rewards, "rows")
    checks.whole("group", group, least=2)
    if not len(rewards) or len(rewards) % group:
        raise ValueError(
            f"rewards must be whole groups of {group}, at least one: got {len(rewards)}"
        )
    groups = rewards.view(-1, group)
    centred = groups - groups.mean(-1, keepdim=True)
    if scale:
        centred = centred / (groups.std(-1, keepdim=True) + 1e-4)
    return centred.flatten()


def grpo_loss(log_probs, old_log_probs, advantages, mask, config, reference_log_probs=None):
    """The loss, a scalar, and what there is to tell of it: {"clipped": share, "kl": nats a token}.

    log_probs (with gradients), old_log_probs, reference_log_probs: (rows, A); advantages (rows,);
    mask bool (rows, A), True at the answer's tokens. Whatever stands where it is False has no
    effect. Every row needs a token that counts.
    """
    log_ratio = torch.where(mask, log_probs - old_log_probs, 0.0)
    weight, lengths = log_ratio.exp(), mask.sum(-1)
    if config.form == "gspo":  # one ratio an answer: the geometric mean of its tokens'
        weight = (log_ratio.sum(-1, keepdim=True) / lengths[:, None]).exp().expand_as(log_ratio)
    advantage = advantages[:, None]
    cut = weight.clamp(1 - config.clip_low, 1 + config.clip_high)
    terms = -torch.min(weight * advantage, cut * advantage)
    with torch.no_grad():
        outside = (cut * advantage < weight * advantage) & mask
        told = {"clipped": outside.sum() / mask.sum()}
    if config.beta:
        if reference_log_probs is None:
            raise ValueError(f"reference_log_probs must be given: beta is {config.beta}")
        ours, theirs = (torch.where(mask, x, 0.0) for x in (log_probs, reference_log_probs))
        weighted = weight if config.kl_weighted else None
        kl = kl_estimate(ours, theirs, config.kl, weighted)
        terms = terms + config.beta * kl
        told["kl"] = kl.detach().sum() / mask.sum()
    terms = torch.where(mask, terms, 0.0)
    if config.form == "dapo":
        return terms.sum() / mask.sum(), told
    if config.form == "dr_grpo":
        return terms.sum() / (len(terms) * config.max_new_tokens), told
    return (terms.sum(-1) / lengths).mean(), told


class GRPO(OnPolicy):
    """A policy's groups and loss for the training engine.

        grpo = GRPO(model, prompts_at, reward, config, log=log)
        train(model, grpo.batch_at, settings, loss=grpo.loss, count=grpo.count, log=log,
              together=config.passes)

    prompts_at(step): lists of ids. reward(rollouts, step): a number a row, a prompt's answers side
    by side (`rollouts.prompts`, `.answers`). reference: a model that stays as it is, for beta
    above 0; without beta it is only measured against. log: reward, length, entropy (−mean log π
    of what was sampled), kl and the share of groups of equal rewards are noted there.
    """

    def __init__(self, model, prompts_at, reward, config, *, reference=None, log=None, watch=None):
        if config.beta and reference is None:
            raise ValueError(f"reference must be a model: beta is {config.beta}, got None")
        if reference is not None:
            check_reference(model, reference)
        self.model, self.prompts_at, self.reward, self.config = model, prompts_at, reward, config
        self.reference, self.log, self.watch = reference, log, watch or Watch()
        self.writer, self.answers = model, config.group

    def _batch(self, step, rollouts, rewards):
        config = self.config
        reference, kl = rollouts.log_probs, None
        if self.reference is not None:
            reference = reference_log_probs(self.reference, rollouts, config.temperature)
            kl = (rollouts.log_probs - reference).sum(-1).mean().item()
        self.watch(step, rollouts, rewards, kl)
        if self.log is not None:
            self.log.note(step, **_facts(rollouts, rewards, kl))
        advantages = group_advantages(rewards, config.group, config.form != "dr_grpo")
        advantages = advantages.to(rollouts.log_probs)
        return *rollouts.batch(), advantages, rollouts.log_probs, reference

    def loss(self, model, input_ids, attention_mask, targets, advantages, old, reference):
        """The scalar that `train` differentiates, of a batch of `batch_at`."""
        ours = answer_token_log_probs(
            model, input_ids, attention_mask, targets, self.config.temperature
        )
        mask = targets != IGNORED
        value, told = grpo_loss(ours, old, advantages, mask, self.config, reference)
        if self.log is not None:
            self.log.measure(**told)
        return value

    def count(self, input_ids, attention_mask, targets, *more):
        """How many terms the loss is a mean of: tokens for dapo, rows for the others."""
        return count_targets(targets) if self.config.form == "dapo" else count_rows(targets)


def _facts(rollouts, rewards, kl):
    groups = rewards.view(-1, rollouts.n)
    facts = {
        "reward": rewards.mean().item(),
        "length": rollouts.lengths.float().mean().item(),
        "entropy": -(rollouts.log_probs.sum() / rollouts.mask.sum()).item(),
        "equal": (groups == groups[:, :1]).all(-1).float().mean().item(),
        "ended": rollouts.ended.float().mean().item(),
    }
    return facts if kl is None else {**facts, "kl_answer": kl}
