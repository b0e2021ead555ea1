"""Solutions of the exercises on gates, and wrong answers that a student might give."""

import math

import numpy as np
import torch


def bias_for(steps):
    keep = 0.5 ** (1 / steps)
    return math.log(keep / (1 - keep))


def swap(weight):
    r, z, n = np.split(weight, 3)
    return np.concatenate([r, -z, n])


def start_for(net, lag):
    bias = math.log(0.5 ** (1 / lag) / (1 - 0.5 ** (1 / lag)))
    with torch.no_grad():
        net.layer.bias_ih_l0[:32] = -bias
        net.layer.bias_ih_l0[32:64] = bias
    return net


SOLUTIONS = {
    "half_life": bias_for,
    "swap": swap,
    "left": 0.014780882941434608,
    "answer": 0.66,
    "start_for": start_for,
}


# --- wrong answers


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


def set_biases(net, write, keep):
    with torch.no_grad():
        net.layer.bias_ih_l0[:32] = write
        net.layer.bias_ih_l0[32:64] = keep
    return net


def input_gate_open_too(net, lag):
    return set_biases(net, bias_for(lag), bias_for(lag))


def rows_exchanged(net, lag):
    return set_biases(net, bias_for(lag), -bias_for(lag))


def input_gate_as_it_was(net, lag):
    return set_biases(net, 0.0, bias_for(lag))


def the_lag_as_bias(net, lag):
    return set_biases(net, -lag, lag)


def the_logarithm_of_the_lag(net, lag):
    return set_biases(net, -math.log(lag), math.log(lag))


def both_biases(net, lag):
    net = start_for(net, lag)
    with torch.no_grad():
        net.layer.bias_hh_l0[:64] = net.layer.bias_ih_l0[:64]
    return net


def the_candidate_too(net, lag):
    net = start_for(net, lag)
    with torch.no_grad():
        net.layer.bias_ih_l0[64:96] = 1.0
    return net


WRONG = {
    "half_life": {
        "gives the gate, not the bias": lambda steps: 0.5 ** (1 / steps),
        "sign of the bias": lambda steps: -bias_for(steps),
        "life until 1/e": lambda steps: logit(math.exp(-1 / steps)),
        "gate 1 - 1/steps": lambda steps: logit(1 - 1 / steps),
        "logarithm of the gate": lambda steps: math.log(0.5) / steps,
        "logarithm of the lag": lambda steps: math.log(steps),
    },
    "swap": {
        "exchanges the rows of r and z": swap_rows,
        "negates everything": negate_all,
        "negates r": negate_reset,
        "1 - z on the weights": one_minus,
        "negates the candidate": negate_candidate,
        "changes nothing": lambda weight: weight.copy(),
    },
    "left": {
        "one step": 0.9,
        "what is lost": 1 - 0.9**40,
        "forty times": 36.0,
        "the half-life": 6.6,
        "at 0.5": 0.5**40,
    },
    "answer": {
        "its own gates": 0.96,
        "held at 0.8": 0.25,
        "held at 0.9": 0.9,
        "one decimal": 0.7,
        "the other answers": 0.34,
        "the power below it": 0.85**38,
    },
    "start_for": {
        "the input gate open too": input_gate_open_too,
        "rows exchanged": rows_exchanged,
        "the input gate as it was": input_gate_as_it_was,
        "the lag as the bias": the_lag_as_bias,
        "the logarithm of the lag": the_logarithm_of_the_lag,
        "both of PyTorch's biases": both_biases,
        "the candidate too": the_candidate_too,
    },
}
