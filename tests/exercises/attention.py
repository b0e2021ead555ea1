"""Solutions of the exercises on attention, and wrong answers that a student might give."""

import math

import torch


def scaled_attention(Q, K, V):
    scores = Q @ K.T / math.sqrt(K.shape[-1])
    return scores.softmax(-1) @ V


def masked_weights(scores, mask):
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    empty = ~mask.any(-1, keepdim=True)
    return weights.masked_fill(empty, 0.0)


def cosine_attention(Q, K, V, tau):
    Q = Q / Q.norm(dim=1, keepdim=True)
    K = K / K.norm(dim=1, keepdim=True)
    return (tau * Q @ K.T).softmax(-1) @ V


def glance(n, at, ahead):
    mask = torch.ones(n, n).tril().bool()
    mask[at, ahead] = True
    return mask


SOLUTIONS = {
    "scaled_attention": scaled_attention,
    "masked_weights": masked_weights,
    "cosine_attention": cosine_attention,
    "spread": 8,
    "no_such_day": "2001-02-31",
    "glance": glance,
}


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


# --- cosines


def lengths_kept(Q, K, V, tau):
    return (tau * Q @ K.T).softmax(-1) @ V


def queries_alone(Q, K, V, tau):
    return (tau * Q / Q.norm(dim=1, keepdim=True) @ K.T).softmax(-1) @ V


def columns_normalised(Q, K, V, tau):
    return (tau * (Q / Q.norm(dim=0)) @ (K / K.norm(dim=0)).T).softmax(-1) @ V


def root_as_well(Q, K, V, tau):
    return cosine_attention(Q, K, V, tau / math.sqrt(Q.shape[1]))


def divided_by_tau(Q, K, V, tau):
    return cosine_attention(Q, K, V, 1 / tau)


def values_too(Q, K, V, tau):
    return cosine_attention(Q, K, V / V.norm(dim=1, keepdim=True), tau)


def whole_matrix_normalised(Q, K, V, tau):
    return (tau * (Q / Q.norm()) @ (K / K.norm()).T).softmax(-1) @ V


# --- one glance ahead


def transposed(n, at, ahead):
    return glance(n, at, ahead).T


def inverted(n, at, ahead):
    return ~glance(n, at, ahead)


def causal_and_nothing_else(n, at, ahead):
    return torch.ones(n, n).tril().bool()


def all_of_the_rest(n, at, ahead):
    mask = glance(n, at, ahead)
    mask[at] = True
    return mask


def everybody_glances(n, at, ahead):
    mask = glance(n, at, ahead)
    mask[:, ahead] = True
    return mask


def as_numbers(n, at, ahead):
    return glance(n, at, ahead).float()


def itself_forbidden(n, at, ahead):
    return glance(n, at, ahead) & ~torch.eye(n).bool()


WRONG = {
    "scaled_attention": {
        f.__name__.replace("_", " "): f
        for f in (
            no_scale,
            divided_by_d,
            times_root_d,
            hard_argmax,
            softmax_over_queries,
            root_of_the_number_of_keys,
            scaled_after_the_softmax,
            width_of_the_values,
        )
    },
    "masked_weights": {
        f.__name__.replace("_", " "): f
        for f in (
            mask_after_softmax,
            score_zero,
            inverted_mask,
            transposed_mask,
            nan_for_an_empty_row,
            a_large_number_for_infinity,
            shared_equally,
        )
    },
    "cosine_attention": {
        f.__name__.replace("_", " "): f
        for f in (
            lengths_kept,
            queries_alone,
            columns_normalised,
            root_as_well,
            divided_by_tau,
            values_too,
            whole_matrix_normalised,
        )
    },
    "spread": {
        "the variance": 64,
        "one": 1,
        "the variance squared": 4096,
        "one over the root": 0.125,
        "of 16 terms": 4,
    },
    "no_such_day": {
        "the calendar's answer": "2001-03-03",
        "the last day of February": "2001-02-28",
        "a day too early": "2001-02-30",
        "as it was typed": "31 February 2001",
        "American": "02-31-2001",
    },
    "glance": {
        f.__name__.replace("_", " "): f
        for f in (
            transposed,
            inverted,
            causal_and_nothing_else,
            all_of_the_rest,
            everybody_glances,
            as_numbers,
            itself_forbidden,
        )
    },
}
