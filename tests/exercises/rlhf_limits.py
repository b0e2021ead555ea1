"""Solutions of the exercises on where a score ends, and wrong answers of students."""

import math


def best_of_kl(p, n):
    up_to = p.cumsum(0)
    below = (up_to - p).clamp(min=0)
    best = up_to**n - below**n
    return (best * (best / p).log()).sum().item()


def without_length(rewards, lengths):
    away = lengths - lengths.mean()
    slope = (away * rewards).sum() / away.square().sum()
    return rewards - slope * away


def cautious(scores, weight):
    mean = scores.mean(1, keepdim=True)
    spread = scores.std(1, correction=0, keepdim=True)
    alike = (scores - mean) / spread
    return alike.mean(0) - weight * alike.std(0, correction=0)


SOLUTIONS = {
    "best_of_kl": best_of_kl,
    "without_length": without_length,
    "at_most": math.log(16) - 15 / 16,
    "stop_here": 5,
    "cautious": cautious,
}


# --- wrong answers


def kl_by_the_bound(p, n):
    return math.log(n) - (n - 1) / n


def kl_the_other_way(p, n):
    up_to = p.cumsum(0)
    best = up_to**n - (up_to - p).clamp(min=0) ** n
    return (p * (p / best).log()).sum().item()


def kl_of_the_worst(p, n):
    return best_of_kl(p.flip(0), n)


def kl_of_the_power(p, n):
    best = p**n / (p**n).sum()
    return (best * (best / p).log()).sum().item()


def kl_in_bits(p, n):
    return best_of_kl(p, n) / math.log(2)


def kl_of_one_more(p, n):
    return best_of_kl(p, n + 1)


def reward_per_token(rewards, lengths):
    return rewards / lengths


def reward_less_length(rewards, lengths):
    return rewards - lengths


def reward_through_zero(rewards, lengths):
    return rewards - (lengths * rewards).sum() / lengths.square().sum() * lengths


def reward_that_loses_its_mean(rewards, lengths):
    return without_length(rewards, lengths) - rewards.mean()


def reward_with_the_slope_turned(rewards, lengths):
    return 2 * rewards - without_length(rewards, lengths)


def reward_less_slope_times_length(rewards, lengths):
    away = lengths - lengths.mean()
    return rewards - (away * rewards).sum() / away.square().sum() * lengths


def cautious_mean(scores, weight):
    return scores.mean(0) - weight * scores.std(0, correction=0)


def cautious_minimum(scores, weight):
    return cautious(scores, 0.0) if weight == 0 else scores.min(0).values


def bold(scores, weight):
    return cautious(scores, -weight)


def cautious_by_judge(scores, weight):
    return scores.mean(1) - weight * scores.std(1, correction=0)


def cautious_without_a_penalty(scores, weight):
    return cautious(scores, 0.0)


def cautious_by_variance(scores, weight):
    mean, spread = scores.mean(1, keepdim=True), scores.std(1, correction=0, keepdim=True)
    alike = (scores - mean) / spread
    return alike.mean(0) - weight * alike.var(0, correction=0)


WRONG = {
    "best_of_kl": {
        "the bound": kl_by_the_bound,
        "the other direction": kl_the_other_way,
        "the worst of n": kl_of_the_worst,
        "p to the n": kl_of_the_power,
        "bits": kl_in_bits,
        "one try more": kl_of_one_more,
    },
    "without_length": {
        "per token": reward_per_token,
        "less the length": reward_less_length,
        "a line through 0": reward_through_zero,
        "without its mean": reward_that_loses_its_mean,
        "the slope the other way": reward_with_the_slope_turned,
        "the mean moves": reward_less_slope_times_length,
    },
    "at_most": {
        "ln n": math.log(16),
        "bits": math.log2(16),
        "without n − 1": math.log(16) - 1 / 16,
        "plus": math.log(16) + 15 / 16,
        "tries": 16,
        "share": 15 / 16,
        "less a whole nat": math.log(16) - 1,
    },
    "stop_here": {
        "the start": 0,
        "the end": 9,
        "the end, from 1": 10,
        "one later": 6,
        "in updates": 20,
        "one earlier": 4,
    },
    "cautious": {
        "units as they are": cautious_mean,
        "the minimum": cautious_minimum,
        "a bonus for doubt": bold,
        "one a judge": cautious_by_judge,
        "no penalty": cautious_without_a_penalty,
        "the variance": cautious_by_variance,
    },
}
