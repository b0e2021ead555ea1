"""Solutions and named mistakes for the exercises of the chapter on attention."""

import math

import torch


def scaled_attention(Q, K, V):
    scores = Q @ K.T / math.sqrt(K.shape[-1])
    return scores.softmax(-1) @ V


def masked_weights(scores, mask):
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    empty = ~mask.any(-1, keepdim=True)
    return weights.masked_fill(empty, 0.0)


def additive_weights(s, H, W, U, v):
    hidden = torch.tanh(W @ s + H @ U.T)  # (n, width)
    return (hidden @ v).softmax(0)


def merge(one, two):
    (m1, l1, o1), (m2, l2, o2) = one, two
    m = max(m1, m2)
    a, b = math.exp(m1 - m), math.exp(m2 - m)
    return m, a * l1 + b * l2, a * o1 + b * o2


def attention_share(n, d):
    attention = 4 * n * n * d  # Q Kᵀ, and weights times V
    weights = 24 * d * d * n   # 12 d² weights, 2 operations, n tokens
    return attention / (attention + weights)


def needed_score(n, weight):
    odds = weight / (1 - weight)
    return 0.5 * math.log(odds * (n - 1))


SOLUTIONS = {f.__name__: f for f in (
    scaled_attention, masked_weights, additive_weights, merge, attention_share, needed_score)}


# --- the formula

def no_scale(Q, K, V):
    return (Q @ K.T).softmax(-1) @ V


def divided_by_d(Q, K, V):
    return (Q @ K.T / K.shape[-1]).softmax(-1) @ V


def times_root_d(Q, K, V):
    return (Q @ K.T * math.sqrt(K.shape[-1])).softmax(-1) @ V


def hard_argmax(Q, K, V):
    return V[(Q @ K.T).argmax(-1)]


def softmax_over_queries(Q, K, V):
    return (Q @ K.T / math.sqrt(K.shape[-1])).softmax(0) @ V


def root_of_the_number_of_keys(Q, K, V):
    return (Q @ K.T / math.sqrt(len(K))).softmax(-1) @ V


def scaled_after_the_softmax(Q, K, V):
    return (Q @ K.T).softmax(-1) / math.sqrt(K.shape[-1]) @ V


def width_of_the_values(Q, K, V):
    return (Q @ K.T / math.sqrt(V.shape[-1])).softmax(-1) @ V


# --- masks

def mask_after_softmax(scores, mask):
    return scores.softmax(-1) * mask


def score_zero(scores, mask):
    return (scores * mask).softmax(-1)


def inverted_mask(scores, mask):
    return scores.masked_fill(mask, -math.inf).softmax(-1).nan_to_num(0.0)


def transposed_mask(scores, mask):
    if mask.shape[0] == mask.shape[1]:
        mask = mask.T
    return scores.masked_fill(~mask, -math.inf).softmax(-1).nan_to_num(0.0)


def nan_for_an_empty_row(scores, mask):
    return scores.masked_fill(~mask, -math.inf).softmax(-1)


def a_large_number_for_infinity(scores, mask):
    return scores.masked_fill(~mask, -1e9).softmax(-1)


def shared_equally(scores, mask):
    return mask / mask.sum(-1, keepdim=True).clamp(min=1)


# --- Bahdanau

def no_tanh(s, H, W, U, v):
    return ((W @ s + H @ U.T) @ v).softmax(0)


def scores_without_softmax(s, H, W, U, v):
    return torch.tanh(W @ s + H @ U.T) @ v


def tanh_of_the_score(s, H, W, U, v):
    return torch.tanh((W @ s + H @ U.T) @ v).softmax(0)


def two_tanhs(s, H, W, U, v):
    return ((torch.tanh(W @ s) + torch.tanh(H @ U.T)) @ v).softmax(0)


def summed_without_v(s, H, W, U, v):
    return torch.tanh(W @ s + H @ U.T).sum(1).softmax(0)


def state_left_out(s, H, W, U, v):
    return (torch.tanh(H @ U.T) @ v).softmax(0)


# --- merging

def plain_sums(one, two):
    (m1, l1, o1), (m2, l2, o2) = one, two
    return max(m1, m2), l1 + l2, o1 + o2


def only_the_sum_rescaled(one, two):
    (m1, l1, o1), (m2, l2, o2) = one, two
    m = max(m1, m2)
    return m, math.exp(m1 - m) * l1 + math.exp(m2 - m) * l2, o1 + o2


def wrong_sign(one, two):
    (m1, l1, o1), (m2, l2, o2) = one, two
    m = max(m1, m2)
    a, b = math.exp(min(m - m1, 50)), math.exp(min(m - m2, 50))
    return m, a * l1 + b * l2, a * o1 + b * o2


def only_the_first_rescaled(one, two):
    (m1, l1, o1), (m2, l2, o2) = one, two
    a = math.exp(m1 - max(m1, m2))
    return max(m1, m2), a * l1 + l2, a * o1 + o2


def maxima_added(one, two):
    (m1, l1, o1), (m2, l2, o2) = one, two
    m = max(m1, m2)
    a, b = math.exp(m1 - m), math.exp(m2 - m)
    return m1 + m2, a * l1 + b * l2, a * o1 + b * o2


def already_divided(one, two):
    (m1, l1, o1), (m2, l2, o2) = one, two
    m = max(m1, m2)
    a, b = math.exp(m1 - m), math.exp(m2 - m)
    l = a * l1 + b * l2
    return m, l, (a * o1 + b * o2) / l


def mean_of_the_halves(one, two):
    (m1, l1, o1), (m2, l2, o2) = one, two
    return max(m1, m2), (l1 + l2) / 2, (o1 + o2) / 2


# --- counting

def scores_alone(n, d):
    return 2 * n * n * d / (2 * n * n * d + 24 * d * d * n)


def weights_of_one_token(n, d):
    return 4 * n * n * d / (4 * n * n * d + 24 * d * d)


def no_feed_forward(n, d):
    return 4 * n * n * d / (4 * n * n * d + 8 * d * d * n)


def multiplications_against_operations(n, d):
    return 4 * n * n * d / (4 * n * n * d + 12 * d * d * n)


def ratio_instead_of_share(n, d):
    return 4 * n * n * d / (24 * d * d * n)


def as_a_percentage(n, d):
    return 100 * n / (n + 6 * d)


# --- bounded scores

def others_at_zero(n, weight):
    return math.log(weight * (n - 1) / (1 - weight))


def n_others(n, weight):
    return 0.5 * math.log(weight * n / (1 - weight))


def weight_for_odds(n, weight):
    return 0.5 * math.log(weight * (n - 1))


def upside_down(n, weight):
    return 0.5 * math.log((1 - weight) / weight * (n - 1))


def logarithm_to_base_two(n, weight):
    return 0.5 * math.log2(weight * (n - 1) / (1 - weight))


def log_n_alone(n, weight):
    return math.log(n)


WRONG = {
    "scaled_attention": {f.__name__.replace("_", " "): f for f in (
        no_scale, divided_by_d, times_root_d, hard_argmax, softmax_over_queries,
        root_of_the_number_of_keys, scaled_after_the_softmax, width_of_the_values)},
    "masked_weights": {f.__name__.replace("_", " "): f for f in (
        mask_after_softmax, score_zero, inverted_mask, transposed_mask, nan_for_an_empty_row,
        a_large_number_for_infinity, shared_equally)},
    "additive_weights": {f.__name__.replace("_", " "): f for f in (
        no_tanh, scores_without_softmax, tanh_of_the_score, two_tanhs, summed_without_v,
        state_left_out)},
    "merge": {f.__name__.replace("_", " "): f for f in (
        plain_sums, only_the_sum_rescaled, wrong_sign, only_the_first_rescaled, maxima_added,
        already_divided, mean_of_the_halves)},
    "attention_share": {f.__name__.replace("_", " "): f for f in (
        scores_alone, weights_of_one_token, no_feed_forward, multiplications_against_operations,
        ratio_instead_of_share, as_a_percentage)},
    "needed_score": {f.__name__.replace("_", " "): f for f in (
        others_at_zero, n_others, weight_for_odds, upside_down, logarithm_to_base_two,
        log_n_alone)},
}
