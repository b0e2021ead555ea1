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


def cosine_attention(Q, K, V, tau):
    Q = Q / Q.norm(dim=1, keepdim=True)
    K = K / K.norm(dim=1, keepdim=True)
    return (tau * Q @ K.T).softmax(-1) @ V


SOLUTIONS = {f.__name__: f for f in (
    scaled_attention, masked_weights, additive_weights, cosine_attention)}


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
    "cosine_attention": {f.__name__.replace("_", " "): f for f in (
        lengths_kept, queries_alone, columns_normalised, root_as_well, divided_by_tau,
        values_too, whole_matrix_normalised)},
}
