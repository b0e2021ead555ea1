"""Solutions of the exercises on recurrent networks, and wrong answers of students."""

import numpy as np
import torch


def truncated(W_hh, states, errors, k):
    gradient = np.zeros_like(W_hh)
    for t in range(len(errors)):
        error = errors[t]
        for s in range(t, max(t - k, -1), -1):
            delta = (1 - states[s + 1] ** 2) * error
            gradient += np.outer(delta, states[s])
            error = W_hh.T @ delta
    return gradient


def last_states(outputs, lengths):
    half = outputs.shape[-1] // 2
    rows = np.arange(len(outputs))
    forward = outputs[rows, lengths - 1, :half]
    backward = outputs[:, 0, half:]
    return np.concatenate([forward, backward], axis=1)


def join(first, second):
    a1, b1 = first
    a2, b2 = second
    return a2 * a1, a2 * b1 + b2


def late_marks(n, length, first, gen):
    ids = torch.randint(2, 8, (n, length), generator=gen)
    place = torch.rand(n, 8, generator=gen).argsort(1)[:, :2] + first
    ids.scatter_(1, place, torch.tensor([0, 1]).expand(n, 2))
    return ids, (place[:, 0] < place[:, 1]).long()


SOLUTIONS = {
    "truncated": truncated,
    "last": last_states,
    "join": join,
    "wavefront": 101,
    "reading": 2.0,
    "late_marks": late_marks,
}


# --- wrong answers


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


def marks_in_front(n, length, first, gen):
    return late_marks(n, length, 0, gen)


def marks_anywhere(n, length, first, gen):
    ids = torch.randint(2, 8, (n, length), generator=gen)
    place = torch.rand(n, length, generator=gen).argsort(1)[:, :2]
    ids.scatter_(1, place, torch.tensor([0, 1]).expand(n, 2))
    return ids, (place[:, 0] < place[:, 1]).long()


def noise_holds_marks_too(n, length, first, gen):
    ids = torch.randint(0, 8, (n, length), generator=gen)
    place = torch.rand(n, 8, generator=gen).argsort(1)[:, :2] + first
    ids.scatter_(1, place, torch.tensor([0, 1]).expand(n, 2))
    return ids, (place[:, 0] < place[:, 1]).long()


def answers_the_other_way(n, length, first, gen):
    ids, y = late_marks(n, length, first, gen)
    return ids, 1 - y


def a_is_always_first(n, length, first, gen):
    ids, _ = late_marks(n, length, first, gen)
    ids[:, first:] = 2
    ids[:, first], ids[:, first + 1] = 0, 1
    return ids, torch.ones(n, dtype=torch.int64)


def marks_side_by_side(n, length, first, gen):
    ids = torch.randint(2, 8, (n, length), generator=gen)
    y = torch.randint(2, (n,), generator=gen)
    place = torch.randint(7, (n,), generator=gen) + first
    ids[torch.arange(n), place], ids[torch.arange(n), place + 1] = 1 - y, y
    return ids, y


def one_hot_already(n, length, first, gen):
    ids, y = late_marks(n, length, first, gen)
    return torch.nn.functional.one_hot(ids, 8), y


WRONG = {
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
    "last": {
        "last column, padding and all": lambda outputs, lengths: outputs[:, -1],
        "both halves at the end": forward_half_everywhere,
        "forward half in the padding": last_step_of_the_padding,
        "one step early": one_step_early,
        "halves swapped": halves_swapped,
        "backward half at the last column": backward_at_the_longest_end,
        "mean over the steps": lambda outputs, lengths: outputs.mean(1),
    },
    "join": {
        "wrong order": lambda p, q: (p[0] * q[0], p[0] * q[1] + p[1]),
        "b's only added": lambda p, q: (p[0] * q[0], p[1] + q[1]),
        "a's added": lambda p, q: (p[0] + q[0], q[0] * p[1] + q[1]),
        "second b multiplied": lambda p, q: (p[0] * q[0], p[1] + q[0] * q[1]),
        "first step forgotten": lambda p, q: (q[0], q[1]),
        "b's multiplied": lambda p, q: (p[0] * q[0], p[1] * q[1]),
    },
    "wavefront": {
        "layer after layer": 200,
        "one layer for nothing": 100,
        "both layers a step": 102,
        "half": 50,
        "log of the length": 7,
    },
    "reading": {
        "the sum": 42.0,
        "in bits": 2.885,
        "of the default text": 2.32,
        "with a capital T": 2.06,
        "a percentage": 26,
        "probability": 0.135,
    },
    "late_marks": {
        "marks in front as before": marks_in_front,
        "marks anywhere": marks_anywhere,
        "noise holds marks too": noise_holds_marks_too,
        "answers the other way": answers_the_other_way,
        "A is always first": a_is_always_first,
        "marks side by side": marks_side_by_side,
        "one-hot already": one_hot_already,
    },
}
