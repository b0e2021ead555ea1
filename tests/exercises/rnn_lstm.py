"""Solutions of the exercises on RNN and LSTM, and wrong answers that a student might give."""

import math

import numpy as np


def bias_for(steps):
    keep = 0.5 ** (1 / steps)
    return math.log(keep / (1 - keep))


def clip(gradients, limit):
    norm = math.sqrt(sum((g**2).sum() for g in gradients))
    factor = min(1.0, limit / norm)
    return [g * factor for g in gradients]


def join(first, second):
    a1, b1 = first
    a2, b2 = second
    return a2 * a1, a2 * b1 + b2


def swap(weight):
    r, z, n = np.split(weight, 3)
    return np.concatenate([r, -z, n])


def last_states(outputs, lengths):
    half = outputs.shape[-1] // 2
    rows = np.arange(len(outputs))
    forward = outputs[rows, lengths - 1, :half]
    backward = outputs[:, 0, half:]
    return np.concatenate([forward, backward], axis=1)


def truncated(W_hh, states, errors, k):
    gradient = np.zeros_like(W_hh)
    for t in range(len(errors)):
        error = errors[t]
        for s in range(t, max(t - k, -1), -1):
            delta = (1 - states[s + 1] ** 2) * error
            gradient += np.outer(delta, states[s])
            error = W_hh.T @ delta
    return gradient


SOLUTIONS = {
    "half_life": bias_for, "clip": clip, "join": join, "swap": swap, "last": last_states,
    "truncated": truncated,
}


def clip_each_array(gradients, limit):
    return [g * min(1.0, limit / np.linalg.norm(g)) for g in gradients]


def clip_without_root(gradients, limit):
    norm = sum((g**2).sum() for g in gradients)
    return [g * min(1.0, limit / norm) for g in gradients]


def clip_with_sum_of_norms(gradients, limit):
    norm = sum(np.linalg.norm(g) for g in gradients)
    return [g * min(1.0, limit / norm) for g in gradients]


def clip_always(gradients, limit):
    norm = math.sqrt(sum((g**2).sum() for g in gradients))
    return [g * limit / norm for g in gradients]


def clip_upside_down(gradients, limit):
    norm = math.sqrt(sum((g**2).sum() for g in gradients))
    return [g * min(1.0, norm / limit) for g in gradients]


def clip_by_largest_entry(gradients, limit):
    norm = max(np.abs(g).max() for g in gradients)
    return [g * min(1.0, limit / norm) for g in gradients]


def without_slopes(W_hh, states, errors, k):
    gradient = np.zeros_like(W_hh)
    for t in range(len(errors)):
        error = errors[t]
        for s in range(t, max(t - k, -1), -1):
            gradient += np.outer(error, states[s])
            error = W_hh.T @ error
    return gradient


def with_the_new_state(W_hh, states, errors, k):
    gradient = np.zeros_like(W_hh)
    for t in range(len(errors)):
        error = errors[t]
        for s in range(t, max(t - k, -1), -1):
            delta = (1 - states[s + 1] ** 2) * error
            gradient += np.outer(delta, states[s + 1])
            error = W_hh.T @ delta
    return gradient


def first_step_left_out(W_hh, states, errors, k):
    gradient = np.zeros_like(W_hh)
    for t in range(1, len(errors)):
        error = errors[t]
        for s in range(t, max(t - k, 0), -1):
            delta = (1 - states[s + 1] ** 2) * error
            gradient += np.outer(delta, states[s])
            error = W_hh.T @ delta
    return gradient


def only_the_last_loss(W_hh, states, errors, k):
    silent = np.zeros_like(errors)
    silent[-1] = errors[-1]
    return truncated(W_hh, states, silent, k)


def forward_half_everywhere(outputs, lengths):
    return outputs[np.arange(len(outputs)), lengths - 1]


def last_step_of_the_padding(outputs, lengths):
    return np.concatenate([outputs[:, -1, :3], outputs[:, 0, 3:]], axis=1)


def one_step_early(outputs, lengths):
    rows = np.arange(len(outputs))
    return np.concatenate([outputs[rows, lengths - 2, :3], outputs[:, 0, 3:]], axis=1)


def halves_swapped(outputs, lengths):
    rows = np.arange(len(outputs))
    return np.concatenate([outputs[:, 0, :3], outputs[rows, lengths - 1, 3:]], axis=1)


def backward_at_the_longest_end(outputs, lengths):
    rows = np.arange(len(outputs))
    return np.concatenate([outputs[rows, lengths - 1, :3], outputs[:, -1, 3:]], axis=1)


def swap_rows(weight):
    r, z, n = np.split(weight, 3)
    return np.concatenate([z, r, n])


def negate_all(weight):
    return -weight


def negate_reset(weight):
    r, z, n = np.split(weight, 3)
    return np.concatenate([-r, z, n])


def one_minus(weight):
    r, z, n = np.split(weight, 3)
    return np.concatenate([r, 1 - z, n])


def negate_candidate(weight):
    r, z, n = np.split(weight, 3)
    return np.concatenate([r, z, -n])


def logit(p):
    return math.log(p / (1 - p))


WRONG = {
    "half_life": {
        "gives the gate, not the bias": lambda steps: 0.5 ** (1 / steps),
        "sign of the bias": lambda steps: -bias_for(steps),
        "life until 1/e": lambda steps: logit(math.exp(-1 / steps)),
        "gate 1 - 1/steps": lambda steps: logit(1 - 1 / steps),
        "logarithm of the gate": lambda steps: math.log(0.5) / steps,
        "logarithm of the lag": lambda steps: math.log(steps),
    },
    "clip": {
        "each array by its own norm": clip_each_array,
        "each component": lambda gradients, limit: [np.clip(g, -limit, limit) for g in gradients],
        "squared norm": clip_without_root,
        "sum of the norms": clip_with_sum_of_norms,
        "also lengthens small gradients": clip_always,
        "fraction upside down": clip_upside_down,
        "largest entry for the norm": clip_by_largest_entry,
    },
    "join": {
        "wrong order": lambda p, q: (p[0] * q[0], p[0] * q[1] + p[1]),
        "b's only added": lambda p, q: (p[0] * q[0], p[1] + q[1]),
        "a's added": lambda p, q: (p[0] + q[0], q[0] * p[1] + q[1]),
        "second b multiplied": lambda p, q: (p[0] * q[0], p[1] + q[0] * q[1]),
        "first step forgotten": lambda p, q: (q[0], q[1]),
        "b's multiplied": lambda p, q: (p[0] * q[0], p[1] * q[1]),
    },
    "swap": {
        "exchanges the rows of r and z": swap_rows,
        "negates everything": negate_all,
        "negates r": negate_reset,
        "1 - z on the weights": one_minus,
        "negates the candidate": negate_candidate,
        "changes nothing": lambda weight: weight.copy(),
    },
    "last": {
        "last column, padding and all": lambda outputs, lengths: outputs[:, -1],
        "both halves at the end": forward_half_everywhere,
        "forward half in the padding": last_step_of_the_padding,
        "one step early": one_step_early,
        "halves swapped": halves_swapped,
        "backward half at the last column": backward_at_the_longest_end,
        "mean over the steps": lambda outputs, lengths: outputs.mean(1),
    },
    "truncated": {
        "no slope of tanh": without_slopes,
        "W_hh not transposed": lambda W, states, errors, k: truncated(W.T, states, errors, k),
        "h_t in place of h_(t-1)": with_the_new_state,
        "one mark too many": lambda W, states, errors, k: truncated(W, states, errors, k + 1),
        "one mark too few": lambda W, states, errors, k: truncated(W, states, errors, k - 1),
        "never truncates": lambda W, states, errors, k: truncated(W, states, errors, len(errors)),
        "the first step left out": first_step_left_out,
        "only the last loss": only_the_last_loss,
    },
}
