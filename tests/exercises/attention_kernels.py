"""Solutions of the exercises on what attention costs, and wrong answers of students."""

import math

import torch


def merge(one, two):
    (m1, l1, o1), (m2, l2, o2) = one, two
    m = max(m1, m2)
    a, b = math.exp(m1 - m), math.exp(m2 - m)
    return m, a * l1 + b * l2, a * o1 + b * o2


def attention_share(n, d, causal=False):
    attention = (2 if causal else 4) * n * n * d  # Q Kᵀ, and weights times V
    weights = 24 * d * d * n  # 12 d² weights, 2 operations, n tokens
    return attention / (attention + weights)


def needed_score(n, weight):
    odds = weight / (1 - weight)
    return 0.5 * math.log(odds * (n - 1))


def windowed(Q, K, V, window, block=64):
    out = []
    for i in range(0, len(Q), block):
        q = Q[i : i + block] / math.sqrt(K.shape[-1])
        first, last = max(0, i - window + 1), i + len(q)
        rows = torch.arange(i, last)[:, None]
        keys = torch.arange(first, last)
        seen = (keys <= rows) & (keys > rows - window)
        s = (q @ K[first:last].T).masked_fill(~seen, -math.inf)
        out.append(s.softmax(-1) @ V[first:last])
    return torch.cat(out)


SOLUTIONS = {
    "merge": merge,
    "attention_share": attention_share,
    "needed_score": needed_score,
    "tiles_left": 2080,
    "fade": 0.135,
    "windowed": windowed,
}


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
    m, total, o = merge(one, two)
    return m, total, o / total


def mean_of_the_halves(one, two):
    (m1, l1, o1), (m2, l2, o2) = one, two
    return max(m1, m2), (l1 + l2) / 2, (o1 + o2) / 2


# --- counting


def half(causal):
    return 0.5 if causal else 1


def scores_alone(n, d, causal=False):
    work = 2 * half(causal) * n * n * d
    return work / (work + 24 * d * d * n)


def weights_of_one_token(n, d, causal=False):
    work = 4 * half(causal) * n * n * d
    return work / (work + 24 * d * d)


def no_feed_forward(n, d, causal=False):
    work = 4 * half(causal) * n * n * d
    return work / (work + 8 * d * d * n)


def multiplications_against_operations(n, d, causal=False):
    work = 4 * half(causal) * n * n * d
    return work / (work + 12 * d * d * n)


def ratio_instead_of_share(n, d, causal=False):
    return 4 * half(causal) * n * n * d / (24 * d * d * n)


def mask_forgotten(n, d, causal=False):
    return attention_share(n, d)


def everything_halved(n, d, causal=False):
    return half(causal) * attention_share(n, d)


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


# --- a window


def banded(Q, K, V, seen):
    s = (Q @ K.T / math.sqrt(K.shape[-1])).masked_fill(~seen, -math.inf)
    return s.softmax(-1) @ V


def places_back(Q):
    return torch.arange(len(Q))[:, None] - torch.arange(len(Q))


def everything_computed_and_thrown_away(Q, K, V, window, block=64):
    back = places_back(Q)
    return banded(Q, K, V, (back >= 0) & (back < window))


def one_key_too_many(Q, K, V, window, block=64):
    back = places_back(Q)
    return banded(Q, K, V, (back >= 0) & (back <= window))


def window_on_both_sides(Q, K, V, window, block=64):
    return banded(Q, K, V, places_back(Q).abs() < window)


def itself_left_out(Q, K, V, window, block=64):
    back = places_back(Q)
    return banded(Q, K, V, (back > 0) & (back <= window))


def causal_alone(Q, K, V, window, block=64):
    return banded(Q, K, V, places_back(Q) >= 0)


def its_own_block_alone(Q, K, V, window, block=64):
    back, blocks = places_back(Q), torch.arange(len(Q)) // block
    return banded(Q, K, V, (back >= 0) & (blocks[:, None] == blocks))


WRONG = {
    "merge": {
        f.__name__.replace("_", " "): f
        for f in (
            plain_sums,
            only_the_sum_rescaled,
            wrong_sign,
            only_the_first_rescaled,
            maxima_added,
            already_divided,
            mean_of_the_halves,
        )
    },
    "attention_share": {
        f.__name__.replace("_", " "): f
        for f in (
            scores_alone,
            weights_of_one_token,
            no_feed_forward,
            multiplications_against_operations,
            ratio_instead_of_share,
            mask_forgotten,
            everything_halved,
        )
    },
    "needed_score": {
        f.__name__.replace("_", " "): f
        for f in (
            others_at_zero,
            n_others,
            weight_for_odds,
            upside_down,
            logarithm_to_base_two,
            log_n_alone,
        )
    },
    "tiles_left": {
        "all of them": 4096,
        "half of them": 2048,
        "without the diagonal": 2016,
        "the diagonal alone": 64,
        "scores instead of tiles": 8_390_656,
    },
    "fade": {
        "the inverse": 7.389,
        "the largest of all minus the second": 0.368,
        "after the first block": 1.0,
        "from the first score": 0.0067,
        "the difference": -2.0,
    },
    "windowed": {
        f.__name__.replace("_", " "): f
        for f in (
            everything_computed_and_thrown_away,
            one_key_too_many,
            window_on_both_sides,
            itself_left_out,
            causal_alone,
            its_own_block_alone,
        )
    },
}
