"""Solutions of the exercises on mixtures of experts, and wrong answers of students."""

import math

import torch


def router_weights(logits, k):
    best = logits.topk(k, dim=-1)
    weights = best.values.softmax(-1)
    return torch.zeros_like(logits).scatter(-1, best.indices, weights)


def balance(probabilities, chosen):
    n_experts = probabilities.shape[1]
    counts = torch.bincount(chosen.flatten(), minlength=n_experts)
    share = counts / chosen.numel()
    return n_experts * (share * probabilities.mean(0)).sum()


def tokens_lost(chosen, n_experts, factor):
    n, k = chosen.shape
    room = [math.ceil(factor * n * k / n_experts)] * n_experts
    served = set()
    for slot in range(k):
        for token, i in enumerate(chosen[:, slot].tolist()):
            if room[i]:
                room[i] -= 1
                served.add(token)
    return n - len(served)


SOLUTIONS = {
    "networks_run": 64, "batch_for_seven": 8, "router_weights": router_weights,
    "balance": balance, "tokens_lost": tokens_lost, "more_experts": 0.999,
}


def weights_not_normalised(logits, k):
    best = logits.softmax(-1).topk(k, -1)
    return torch.zeros_like(logits).scatter(-1, best.indices, best.values)


def weights_of_all_experts(logits, k):
    return logits.softmax(-1)


def weights_over_the_tokens(logits, k):
    best = logits.topk(k, -1)
    return torch.zeros_like(logits).scatter(-1, best.indices, best.values.softmax(0))


def weights_with_k_counted_twice(logits, k):
    return router_weights(logits, k) / k


def weights_all_alike(logits, k):
    best = logits.topk(k, -1).indices
    return torch.zeros_like(logits).scatter(-1, best, 1 / k)


def weights_without_a_gradient(logits, k):
    return router_weights(logits.detach(), k)


def weights_of_one_expert_too_many(logits, k):
    return router_weights(logits, min(k + 1, logits.shape[1]))


def balance_with_k_counted_twice(probabilities, chosen):
    return chosen.shape[1] * balance(probabilities, chosen)


def balance_without_the_number_of_experts(probabilities, chosen):
    return balance(probabilities, chosen) / probabilities.shape[1]


def balance_of_probabilities_alone(probabilities, chosen):
    return probabilities.shape[1] * probabilities.mean(0).square().sum()


def balance_of_counts_alone(probabilities, chosen):
    n_experts = probabilities.shape[1]
    share = torch.bincount(chosen.flatten(), minlength=n_experts) / chosen.numel()
    return n_experts * share.square().sum()


def balance_without_a_gradient(probabilities, chosen):
    return balance(probabilities.detach(), chosen)


def balance_of_first_choices_only(probabilities, chosen):
    return balance(probabilities, chosen[:, :1])


def balance_per_token(probabilities, chosen):
    n_experts = probabilities.shape[1]
    picked = torch.zeros_like(probabilities).scatter(-1, chosen, 1 / chosen.shape[1])
    return n_experts * (picked * probabilities).sum(-1).mean()


def nobody_is_lost(chosen, n_experts, factor):
    return 0


def slots_instead_of_tokens(chosen, n_experts, factor):
    n, k = chosen.shape
    room = [math.ceil(factor * n * k / n_experts)] * n_experts
    lost = 0
    for slot in range(k):
        for i in chosen[:, slot].tolist():
            lost += room[i] == 0
            room[i] -= room[i] > 0
    return lost


def second_choices_of_early_tokens_first(chosen, n_experts, factor):
    n, k = chosen.shape
    room = [math.ceil(factor * n * k / n_experts)] * n_experts
    served = set()
    for token in range(n):
        for i in chosen[token].tolist():
            if room[i]:
                room[i] -= 1
                served.add(token)
    return n - len(served)


def capacity_without_k(chosen, n_experts, factor):
    return tokens_lost(chosen, n_experts, factor / chosen.shape[1])


def capacity_with_k_counted_twice(chosen, n_experts, factor):
    return tokens_lost(chosen, n_experts, factor * chosen.shape[1])


def first_choice_lost_is_lost(chosen, n_experts, factor):
    return tokens_lost(chosen[:, :1], n_experts, factor * chosen.shape[1])


WRONG = {
    "networks_run": {
        "one layer's": 2, "k counted twice": 128, "all of them": 256,
        "one expert a layer": 32, "the experts of one layer": 8,
    },
    "batch_for_seven": {
        "one too few": 7, "seven experts, seven sequences": 3.5, "half of them": 4,
        "until all eight": 16, "all of the batch": 64,
    },
    "router_weights": {
        "not normalised": weights_not_normalised,
        "all experts": weights_of_all_experts,
        "softmax over tokens": weights_over_the_tokens,
        "k counted twice": weights_with_k_counted_twice,
        "all alike": weights_all_alike,
        "gradient lost": weights_without_a_gradient,
        "one expert too many": weights_of_one_expert_too_many,
    },
    "balance": {
        "k counted twice": balance_with_k_counted_twice,
        "without E": balance_without_the_number_of_experts,
        "P alone": balance_of_probabilities_alone,
        "f alone": balance_of_counts_alone,
        "gradient lost": balance_without_a_gradient,
        "first choices only": balance_of_first_choices_only,
        "token by token": balance_per_token,
    },
    "tokens_lost": {
        "unnoticed": nobody_is_lost,
        "slots, not tokens": slots_instead_of_tokens,
        "early tokens' second choices first": second_choices_of_early_tokens_first,
        "k forgotten": capacity_without_k,
        "k counted twice": capacity_with_k_counted_twice,
        "first choice decides": first_choice_lost_is_lost,
    },
    "more_experts": {
        "eight experts": 0.44, "the dense layer": 0.18, "the wide layer": 0.47,
        "in percent": 99.9, "four times eight experts' share": 1.76,
    },
}
