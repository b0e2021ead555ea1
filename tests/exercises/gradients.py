"""Solutions of the exercises on vanishing gradients, and wrong answers of students."""

import math

import numpy as np
import torch
from torch import nn


def clip(gradients, limit):
    norm = math.sqrt(sum((g**2).sum() for g in gradients))
    factor = min(1.0, limit / norm)
    return [g * factor for g in gradients]


def horizon(sigma, slope, floor):
    factor = slope * sigma
    if factor >= 1:
        return math.inf
    return math.ceil(math.log(floor) / math.log(factor) - 1e-9)


def start_at(net, keep):
    with torch.no_grad():
        nn.init.eye_(net.layer.weight_hh_l0)
        net.layer.weight_hh_l0 *= keep
    return net


SOLUTIONS = {
    "clip": clip,
    "horizon": horizon,
    "sigmoid": 0.0009765625,
    "reach": 31,
    "start_at": start_at,
}


# --- wrong answers


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


def clip_in_place(gradients, limit):
    for g, clipped in zip(gradients, clip(gradients, limit)):
        g[...] = clipped


def clip_by_largest_entry(gradients, limit):
    norm = max(np.abs(g).max() for g in gradients)
    return [g * min(1.0, limit / norm) for g in gradients]


def with_the_singular_value_alone(sigma, slope, floor):
    return horizon(sigma, 1.0, floor)


def never_infinite(sigma, slope, floor):
    return math.ceil(math.log(floor) / math.log(min(slope * sigma, 0.999)) - 1e-9)


def rounded_down(sigma, slope, floor):
    if slope * sigma >= 1:
        return math.inf
    return math.floor(math.log(floor) / math.log(slope * sigma))


def not_rounded(sigma, slope, floor):
    return math.log(floor) / math.log(slope * sigma) if slope * sigma < 1 else math.inf


def by_division(sigma, slope, floor):
    return math.ceil(slope * sigma / floor) if slope * sigma < 1 else math.inf


def identity_alone(net, keep):
    with torch.no_grad():
        nn.init.eye_(net.layer.weight_hh_l0)
    return net


def scales_what_is_there(net, keep):
    with torch.no_grad():
        net.layer.weight_hh_l0 *= keep
    return net


def a_rotation(net, keep):
    nn.init.orthogonal_(net.layer.weight_hh_l0, keep)
    return net


def biases_too(net, keep):
    with torch.no_grad():
        net.layer.bias_ih_l0.zero_()
    return start_at(net, keep)


def the_input_weights(net, keep):
    with torch.no_grad():
        net.layer.weight_ih_l0 *= keep
    return net


def the_matrix(net, keep):
    return keep * torch.eye(32)


WRONG = {
    "clip": {
        "each array by its own norm": clip_each_array,
        "each component": lambda gradients, limit: [np.clip(g, -limit, limit) for g in gradients],
        "squared norm": clip_without_root,
        "sum of the norms": clip_with_sum_of_norms,
        "also lengthens small gradients": clip_always,
        "fraction upside down": clip_upside_down,
        "largest entry for the norm": clip_by_largest_entry,
        "in place": clip_in_place,
    },
    "horizon": {
        "the singular value alone": with_the_singular_value_alone,
        "never infinite": never_infinite,
        "rounded down": rounded_down,
        "not rounded": not_rounded,
        "a division": by_division,
    },
    "sigmoid": {
        "without the slope": 1024.0,
        "the slope alone": 0.25**10,
        "one step": 0.5,
        "ten times a half": 5.0,
        "a square root": 0.03125,
    },
    "reach": {
        "factor 0.9": 66,
        "factor 0.5": 10,
        "one before": 30,
        "the size there": 0.00099,
        "where it ends": 100,
    },
    "start_at": {
        "the identity, not scaled": identity_alone,
        "scales what is there": scales_what_is_there,
        "a rotation": a_rotation,
        "biases too": biases_too,
        "the input weights": the_input_weights,
        "returns the matrix": the_matrix,
    },
}
