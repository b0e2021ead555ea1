"""Solutions of the exercises on policies, and wrong answers of students."""

import torch


@torch.no_grad()
def advantages(final, log_p, log_ref, values, mask, beta, lam):
    rewards = -beta * (log_p - log_ref)
    rewards[torch.arange(len(mask)), mask.sum(1) - 1] += final
    A = ahead = torch.zeros_like(final)
    found = []
    for t in reversed(range(mask.shape[1])):
        delta = rewards[:, t] + ahead - values[:, t]
        A = (delta + lam * A) * mask[:, t]
        ahead = values[:, t] * mask[:, t]
        found.insert(0, A)
    A = torch.stack(found, 1)
    white = (A - A[mask].mean()) / A[mask].std(correction=0)
    return white * mask


def dpo_pull(log_p, log_ref, mask, beta):
    implicit = beta * ((log_p - log_ref) * mask).sum(-1)
    margin = implicit[:, 0] - implicit[:, 1]
    pull = beta * (1 - torch.sigmoid(margin)) / len(margin)
    return torch.stack([-pull, pull], 1)[..., None] * mask


def next_beta(beta, kl, target):
    error = max(-0.2, min(0.2, kl / target - 1))
    return beta * (1 + 0.1 * error)


SOLUTIONS = {
    "advantages": advantages,
    "dpo_pull": dpo_pull,
    "pulled_back": -1,
    "read_clip": -1.2,
    "next_beta": next_beta,
}


# --- wrong answers


def rewards_of(final, log_p, log_ref, mask, beta):
    rewards = -beta * (log_p - log_ref)
    rewards[torch.arange(len(mask)), mask.sum(1) - 1] += final
    return rewards


def gae_of(rewards, values, mask, lam, behind=0.0):
    A, ahead = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0]) + behind
    found = []
    for t in reversed(range(mask.shape[1])):
        A = (rewards[:, t] + ahead - values[:, t] + lam * A) * mask[:, t]
        ahead = values[:, t] * mask[:, t]
        found.insert(0, A)
    return torch.stack(found, 1)


def white(A, mask):
    return (A - A[mask].mean()) / A[mask].std(correction=0) * mask


def advantages_with_gradients(final, log_p, log_ref, values, mask, beta, lam):
    rewards = rewards_of(final, log_p, log_ref, mask, beta)
    return white(gae_of(rewards, values, mask, lam), mask)


def advantages_with_gradients_into_the_values(final, log_p, log_ref, values, mask, beta, lam):
    rewards = rewards_of(final, log_p.detach(), log_ref, mask, beta)
    return white(gae_of(rewards, values, mask, lam), mask)


@torch.no_grad()
def advantages_paid_for_distance(final, log_p, log_ref, values, mask, beta, lam):
    return advantages(final, log_p, log_ref, values, mask, -beta, lam)


@torch.no_grad()
def advantages_by_its_own_value(final, log_p, log_ref, values, mask, beta, lam):
    rewards = rewards_of(final, log_p, log_ref, mask, beta)
    A = torch.zeros_like(final)
    found = []
    for t in reversed(range(mask.shape[1])):
        A = (rewards[:, t] + values[:, t] - values[:, t] + lam * A) * mask[:, t]
        found.insert(0, A)
    return white(torch.stack(found, 1), mask)


@torch.no_grad()
def advantages_with_a_value_behind_the_end(final, log_p, log_ref, values, mask, beta, lam):
    rewards = rewards_of(final, log_p, log_ref, mask, beta)
    last = mask.sum(1) - 1
    rewards[torch.arange(len(mask)), last] += values[torch.arange(len(mask)), last]
    return white(gae_of(rewards, values, mask, lam), mask)


@torch.no_grad()
def advantages_one_token_late(final, log_p, log_ref, values, mask, beta, lam):
    rewards = rewards_of(final, log_p, log_ref, mask, beta)
    return white(gae_of(rewards.roll(1, 1), values, mask, lam), mask)


@torch.no_grad()
def advantages_with_the_reward_in_the_last_column(
    final, log_p, log_ref, values, mask, beta, lam
):
    rewards = -beta * (log_p - log_ref)
    rewards[:, -1] += final
    return white(gae_of(rewards, values, mask, lam), mask)


@torch.no_grad()
def advantages_with_the_reward_everywhere(final, log_p, log_ref, values, mask, beta, lam):
    rewards = -beta * (log_p - log_ref) + final[:, None]
    return white(gae_of(rewards, values, mask, lam), mask)


@torch.no_grad()
def advantages_not_centred(final, log_p, log_ref, values, mask, beta, lam):
    A = gae_of(rewards_of(final, log_p, log_ref, mask, beta), values, mask, lam)
    return A / A[mask].std(correction=0)


@torch.no_grad()
def advantages_whitened_with_padding(final, log_p, log_ref, values, mask, beta, lam):
    A = gae_of(rewards_of(final, log_p, log_ref, mask, beta), values, mask, lam)
    return (A - A.mean()) / A.std(correction=0) * mask


@torch.no_grad()
def advantages_that_fill_padding(final, log_p, log_ref, values, mask, beta, lam):
    A = gae_of(rewards_of(final, log_p, log_ref, mask, beta), values, mask, lam)
    return (A - A[mask].mean()) / A[mask].std(correction=0)


def pull_of_the_sum(log_p, log_ref, mask, beta):
    return dpo_pull(log_p, log_ref, mask, beta) * len(log_p)


def pull_upwards(log_p, log_ref, mask, beta):
    return -dpo_pull(log_p, log_ref, mask, beta)


def pull_without_a_reference(log_p, log_ref, mask, beta):
    return dpo_pull(log_p, torch.zeros_like(log_ref), mask, beta)


def pull_without_beta_before_it(log_p, log_ref, mask, beta):
    return dpo_pull(log_p, log_ref, mask, beta) / beta


def pull_by_sigma(log_p, log_ref, mask, beta):
    implicit = beta * ((log_p - log_ref) * mask).sum(-1)
    pull = beta * torch.sigmoid(implicit[:, 0] - implicit[:, 1]) / len(log_p)
    return torch.stack([-pull, pull], 1)[..., None] * mask


def pull_on_the_chosen_alone(log_p, log_ref, mask, beta):
    found = dpo_pull(log_p, log_ref, mask, beta)
    found[:, 1] = 0
    return found


def pull_of_the_mean_token(log_p, log_ref, mask, beta):
    implicit = beta * ((log_p - log_ref) * mask).sum(-1) / mask.sum(-1)
    margin = implicit[:, 0] - implicit[:, 1]
    pull = beta * (1 - torch.sigmoid(margin)) / len(margin)
    return (torch.stack([-pull, pull], 1) / mask.sum(-1))[..., None] * mask


def pull_that_reads_padding(log_p, log_ref, mask, beta):
    return dpo_pull(log_p, log_ref, torch.ones_like(mask), beta) * mask


def pull_on_padding(log_p, log_ref, mask, beta):
    found = dpo_pull(log_p, log_ref, mask, beta)
    return torch.where(mask, found, found[..., :1])


def beta_the_wrong_way(beta, kl, target):
    error = max(-0.2, min(0.2, kl / target - 1))
    return beta * (1 - 0.1 * error)


def beta_without_the_cut(beta, kl, target):
    return beta * (1 + 0.1 * (kl / target - 1))


def beta_by_the_difference(beta, kl, target):
    error = max(-0.2, min(0.2, kl - target))
    return beta * (1 + 0.1 * error)


def beta_plus(beta, kl, target):
    error = max(-0.2, min(0.2, kl / target - 1))
    return beta + 0.1 * error


def beta_that_only_grows(beta, kl, target):
    error = max(0.0, min(0.2, kl / target - 1))
    return beta * (1 + 0.1 * error)


def beta_in_full_steps(beta, kl, target):
    error = max(-0.2, min(0.2, kl / target - 1))
    return beta * (1 + error)


WRONG = {
    "advantages": {
        "no detach": advantages_with_gradients,
        "no detach of the values": advantages_with_gradients_into_the_values,
        "the KL's sign": advantages_paid_for_distance,
        "off by one: its own value": advantages_by_its_own_value,
        "off by one: a value behind the end": advantages_with_a_value_behind_the_end,
        "off by one: a token late": advantages_one_token_late,
        "the reward in the last column": advantages_with_the_reward_in_the_last_column,
        "the reward everywhere": advantages_with_the_reward_everywhere,
        "not centred": advantages_not_centred,
        "padding counts": advantages_whitened_with_padding,
        "padding is filled": advantages_that_fill_padding,
    },
    "dpo_pull": {
        "a sum, not a mean": pull_of_the_sum,
        "ascent": pull_upwards,
        "no reference": pull_without_a_reference,
        "β inside only": pull_without_beta_before_it,
        "σ in place of 1 − σ": pull_by_sigma,
        "the chosen answer alone": pull_on_the_chosen_alone,
        "a mean over an answer's tokens": pull_of_the_mean_token,
        "padding is read": pull_that_reads_padding,
        "padding is pulled": pull_on_padding,
    },
    "pulled_back": {
        "clipped": 0,
        "no sign": 1,
        "the objective": -1.5,
        "the clipped objective": -1.2,
        "the clip's edge": 1.2,
        "half": -0.5,
    },
    "read_clip": {
        "without the clip": -0.75,
        "the slope": 0,
        "no sign": 1.2,
        "the upper clip": -1.8,
        "the advantage": -1.5,
        "the edge": 0.8,
    },
    "next_beta": {
        "the wrong way": beta_the_wrong_way,
        "no cut": beta_without_the_cut,
        "a difference, not a share": beta_by_the_difference,
        "added, not a factor": beta_plus,
        "it only grows": beta_that_only_grows,
        "the whole error": beta_in_full_steps,
    },
}
