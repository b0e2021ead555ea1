"""Solutions of the exercises on scaling laws, and wrong answers that a student might give."""

import math


def tokens_per_parameter(flops, E, A, B, alpha, beta):
    g = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    n = g * (flops / 6) ** (beta / (alpha + beta))
    return flops / 6 / n / n


def excess_slope(sizes, losses, E):
    x = [math.log(n) for n in sizes]
    y = [math.log(loss - E) for loss in losses]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mx) * (b - my) for a, b in zip(x, y))
    return top / sum((a - mx) ** 2 for a in x)


def tokens_needed(loss, n, E, A, B, alpha, beta):
    left = loss - E - A / n**alpha
    return (B / left) ** (1 / beta) if left > 0 else math.inf


SOLUTIONS = {
    "tokens_per_parameter": tokens_per_parameter, "excess_slope": excess_slope,
    "tokens_needed": tokens_needed, "hundredfold": 10.6, "served": 499.5, "without_small": 0.609,
}


def _size(flops, A, B, alpha, beta):
    g = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    return g * (flops / 6) ** (beta / (alpha + beta))


def without_the_six(flops, E, A, B, alpha, beta):
    n = _size(6 * flops, A, B, alpha, beta)
    return flops / n / n


def parameters_per_token(flops, E, A, B, alpha, beta):
    return 1 / tokens_per_parameter(flops, E, A, B, alpha, beta)


def exponents_swapped(flops, E, A, B, alpha, beta):
    return tokens_per_parameter(flops, E, A, B, beta, alpha)


def twenty(flops, E, A, B, alpha, beta):
    return 20.0


def tokens_alone(flops, E, A, B, alpha, beta):
    return flops / 6 / _size(flops, A, B, alpha, beta)


def e_not_subtracted(sizes, losses, E):
    return excess_slope(sizes, losses, 0.0)


def e_after_the_logarithm(sizes, losses, E):
    return excess_slope(sizes, [math.exp(math.log(loss) - E) for loss in losses], 0.0)


def exponent_without_sign(sizes, losses, E):
    return -excess_slope(sizes, losses, E)


def size_not_logged(sizes, losses, E):
    return excess_slope([math.exp(n / 1e8) for n in sizes], losses, E)


def first_and_last(sizes, losses, E):
    top = math.log(losses[-1] - E) - math.log(losses[0] - E)
    return top / math.log(sizes[-1] / sizes[0])


def axes_swapped(sizes, losses, E):
    return 1 / excess_slope(sizes, losses, E)


def size_forgotten(loss, n, E, A, B, alpha, beta):
    return tokens_needed(loss, n, E, 0.0, B, alpha, beta)


def never_says_never(loss, n, E, A, B, alpha, beta):
    left = abs(loss - E - A / n**alpha)
    return (B / left) ** (1 / beta)


def root_forgotten(loss, n, E, A, B, alpha, beta):
    left = loss - E - A / n**alpha
    return B / left if left > 0 else math.inf


def root_of_the_other(loss, n, E, A, B, alpha, beta):
    return tokens_needed(loss, n, E, A, B, alpha, alpha)


def zero_for_never(loss, n, E, A, B, alpha, beta):
    return min(tokens_needed(loss, n, E, A, B, alpha, beta), 1e30)


def _named(*functions):
    return {f.__name__.replace("_", " "): f for f in functions}


WRONG = {
    "tokens_per_parameter": _named(without_the_six, parameters_per_token, exponents_swapped,
                                   twenty, tokens_alone),
    "excess_slope": _named(e_not_subtracted, e_after_the_logarithm, exponent_without_sign,
                           size_not_logged, first_and_last, axes_swapped),
    "tokens_needed": _named(size_forgotten, never_says_never, root_forgotten, root_of_the_other,
                            zero_for_never),
    "served": {
        "the valley": 18.1,
        "the printed constants": 1785.7,
        "ten trillion tokens": 89.4,
        "upside down": 1 / 499.5,
        "ten times as many tokens": 2990.8,
        "its parameters, in billions": 29.1,
    },
    "without_small": {
        "all runs": 0.664,
        "without embeddings": 0.675,
        "all runs, without embeddings": 0.801,
        "the exponent of D": 0.391,
        "alpha": 0.447,
        "beta": 0.697,
    },
    "hundredfold": {"all of it": 100.0, "half of it": 50.0, "square root of ten": 3.16,
                    "Kaplan's exponent": 28.8, "as a percentage": 51.3, "doubled": 2.0},
}
