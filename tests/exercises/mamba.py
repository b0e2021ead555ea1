"""Solutions of the exercises on state spaces, and wrong answers of students."""

import math

import torch

from llmbook.experiments.mamba import KEPT, SPREAD, SYMBOLS


def scan(u, delta, A, B, C):
    h, ys = torch.zeros_like(A), []
    for t in range(len(u)):
        h = torch.exp(delta[t] * A) * h + delta[t] * u[t] * B[t]
        ys.append(h @ C[t])
    return torch.stack(ys)


def compose(first, then):
    (a1, b1), (a2, b2) = first, then
    return a2 * a1, a2 * b1 + b2


def fixed_places(n, gen):
    symbols = torch.randint(SYMBOLS, (n, KEPT), generator=gen)
    x = torch.zeros(n, SPREAD + KEPT, dtype=torch.int64)
    x[:, :KEPT] = symbols + 2
    x[:, SPREAD:] = 1
    return x, symbols


SOLUTIONS = {
    "scan": scan,
    "compose": compose,
    "left": math.exp(-20 * 0.1),
    "tree": 10 + 9 + 7 + 3,
    "fixed_places": fixed_places,
}


# --- wrong answers


def scan_with(step):
    """A loop with another step: h, u_t, delta_t, A, B_t, C_t → h, y."""

    def run(u, delta, A, B, C):
        h, ys = torch.zeros_like(A), []
        for t in range(len(u)):
            h, y = step(h, u[t], delta[t], A, B[t], C[t])
            ys.append(y)
        return torch.stack(ys)

    return run


def scan_without_the_exponential(u, delta, A, B, C):
    def step(h, u, d, A, B, C):
        h = d * A * h + d * u * B
        return h, h @ C

    return scan_with(step)(u, delta, A, B, C)


def scan_by_euler(u, delta, A, B, C):
    def step(h, u, d, A, B, C):
        h = (1 + d * A) * h + d * u * B
        return h, h @ C

    return scan_with(step)(u, delta, A, B, C)


def scan_without_the_step_on_the_input(u, delta, A, B, C):
    def step(h, u, d, A, B, C):
        h = torch.exp(d * A) * h + u * B
        return h, h @ C

    return scan_with(step)(u, delta, A, B, C)


def scan_by_the_exact_hold(u, delta, A, B, C):
    def step(h, u, d, A, B, C):
        h = torch.exp(d * A) * h + torch.expm1(d * A) / A * u * B
        return h, h @ C

    return scan_with(step)(u, delta, A, B, C)


def scan_that_reads_the_old_state(u, delta, A, B, C):
    def step(h, u, d, A, B, C):
        return torch.exp(d * A) * h + d * u * B, h @ C

    return scan_with(step)(u, delta, A, B, C)


def scan_with_the_last_c(u, delta, A, B, C):
    return scan(u, delta, A, B, C[-1:].expand_as(C) * 1.0 + (C[:1] - C[:1]) + 0.1)


def join_in_the_other_order(first, then):
    (a1, b1), (a2, b2) = first, then
    return a1 * a2, a1 * b2 + b1


def join_adding_the_inputs(first, then):
    (a1, b1), (a2, b2) = first, then
    return a1 * a2, b1 + b2


def join_adding_the_factors(first, then):
    (a1, b1), (a2, b2) = first, then
    return a1 + a2, a2 * b1 + b2


def join_that_forgets_the_first(first, then):
    return then


def join_with_both_factors_on_the_input(first, then):
    (a1, b1), (a2, b2) = first, then
    return a1 * a2, a1 * a2 * b1 + b2


def join_returning_the_input_alone(first, then):
    (_, b1), (a2, b2) = first, then
    return a2 * b1 + b2


def places_left_to_chance(n, gen):
    from llmbook.experiments.mamba import copying

    return copying(n, gen)


def places_the_same_symbols_everywhere(n, gen):
    x, y = fixed_places(n, gen)
    return x[:1].expand(n, -1), y[:1].expand(n, -1)


def places_without_marks(n, gen):
    x, y = fixed_places(n, gen)
    x[:, SPREAD:] = 0
    return x, y


def places_with_answers_in_the_inputs_numbers(n, gen):
    x, y = fixed_places(n, gen)
    return x, y + 2


def places_with_the_noise_cut_out(n, gen):
    x, y = fixed_places(n, gen)
    return x[:, [*range(KEPT), *range(SPREAD, SPREAD + KEPT)]], y


def places_with_answers_backwards(n, gen):
    x, y = fixed_places(n, gen)
    return x, y.flip(1)


WRONG = {
    "scan": {
        "no exponential": scan_without_the_exponential,
        "Euler": scan_by_euler,
        "the input without its step": scan_without_the_step_on_the_input,
        "the exact hold of B": scan_by_the_exact_hold,
        "reads the old state": scan_that_reads_the_old_state,
        "one C for all": scan_with_the_last_c,
    },
    "compose": {
        "the other order": join_in_the_other_order,
        "inputs added": join_adding_the_inputs,
        "factors added": join_adding_the_factors,
        "the first forgotten": join_that_forgets_the_first,
        "both factors on the input": join_with_both_factors_on_the_input,
        "no pair": join_returning_the_input_alone,
    },
    "left": {
        "one token only": math.exp(-0.1),
        "the exponent, not its exponential": 20 * 0.1,
        "a straight line": 1 - 0.1,
        "Euler's product": (1 - 0.1) ** 20,
        "grown": math.exp(2.0),
        "halved each time": 0.5**20,
    },
    "tree": {
        "rounds": math.ceil(math.log2(11)),
        "the loop's": 11 - 1,
        "n log n": 11 * 4,
        "the full tree of 16": 15 + 14 + 12 + 8,
        "halved each round": 5 + 2 + 1,
        "one round short": 10 + 9 + 7,
    },
    "fixed_places": {
        "left to chance": places_left_to_chance,
        "the same symbols everywhere": places_the_same_symbols_everywhere,
        "no marks": places_without_marks,
        "answers as input numbers": places_with_answers_in_the_inputs_numbers,
        "noise cut out": places_with_the_noise_cut_out,
        "answers backwards": places_with_answers_backwards,
    },
}
