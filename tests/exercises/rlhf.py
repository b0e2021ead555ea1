"""Solutions of the exercises on policies, and wrong answers of students."""

import torch


def whiten(x, mask):
    counted = x[mask]
    white = (x - counted.mean()) / counted.std(correction=0)
    return torch.where(mask, white, 0.0)


def dpo_pull(log_p, log_ref, beta):
    implicit = beta * (log_p - log_ref)
    margin = implicit[:, 0] - implicit[:, 1]
    pull = beta * (1 - torch.sigmoid(margin)) / len(margin)
    return torch.stack([-pull, pull], 1)


def next_beta(beta, kl, target):
    error = max(-0.2, min(0.2, kl / target - 1))
    return beta * (1 + 0.1 * error)


SOLUTIONS = {
    "whiten": whiten,
    "dpo_pull": dpo_pull,
    "pulled_back": -1,
    "read_clip": -1.2,
    "next_beta": next_beta,
}


# --- wrong answers


def whiten_with_padding(x, mask):
    return torch.where(mask, (x - x.mean()) / x.std(correction=0), 0.0)


def whiten_row_by_row(x, mask):
    rows = []
    for row, m in zip(x, mask, strict=True):
        rows.append((row - row[m].mean()) / row[m].std(correction=0))
    return torch.where(mask, torch.stack(rows), 0.0)


def whiten_that_keeps_the_mean(x, mask):
    return torch.where(mask, x / x[mask].std(correction=0), 0.0)


def whiten_by_the_variance(x, mask):
    counted = x[mask]
    return torch.where(mask, (x - counted.mean()) / counted.var(correction=0), 0.0)


def whiten_that_fills_padding(x, mask):
    counted = x[mask]
    return (x - counted.mean()) / counted.std(correction=0)


def whiten_that_only_centres(x, mask):
    return torch.where(mask, x - x[mask].mean(), 0.0)


def pull_of_the_sum(log_p, log_ref, beta):
    return dpo_pull(log_p, log_ref, beta) * len(log_p)


def pull_upwards(log_p, log_ref, beta):
    return -dpo_pull(log_p, log_ref, beta)


def pull_without_a_reference(log_p, log_ref, beta):
    return dpo_pull(log_p, torch.zeros_like(log_ref), beta)


def pull_without_beta_before_it(log_p, log_ref, beta):
    return dpo_pull(log_p, log_ref, beta) / beta


def pull_by_sigma(log_p, log_ref, beta):
    implicit = beta * (log_p - log_ref)
    pull = beta * torch.sigmoid(implicit[:, 0] - implicit[:, 1]) / len(log_p)
    return torch.stack([-pull, pull], 1)


def pull_on_the_chosen_alone(log_p, log_ref, beta):
    found = dpo_pull(log_p, log_ref, beta)
    found[:, 1] = 0
    return found


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
    "whiten": {
        "padding counts": whiten_with_padding,
        "each row for itself": whiten_row_by_row,
        "the mean stays": whiten_that_keeps_the_mean,
        "over the variance": whiten_by_the_variance,
        "padding is filled": whiten_that_fills_padding,
        "centred only": whiten_that_only_centres,
    },
    "dpo_pull": {
        "a sum, not a mean": pull_of_the_sum,
        "ascent": pull_upwards,
        "no reference": pull_without_a_reference,
        "β inside only": pull_without_beta_before_it,
        "σ in place of 1 − σ": pull_by_sigma,
        "the chosen answer alone": pull_on_the_chosen_alone,
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
