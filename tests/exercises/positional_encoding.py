"""Solutions of the chapter on positions, and wrong answers that its checks must reject."""

import math

import torch
from einops import rearrange

# --- turn


def turn(pe, k):
    d = pe.shape[1]
    omega = 10_000 ** (-torch.arange(0, d, 2, dtype=pe.dtype) / d)
    sin, cos = pe[:, 0::2], pe[:, 1::2]
    c, s = torch.cos(k * omega), torch.sin(k * omega)
    turned = torch.stack([sin * c + cos * s, cos * c - sin * s], dim=-1)
    return turned.flatten(1)


def turn_backwards(pe, k):
    return turn(pe, -k)


def turn_forward_only(pe, k):
    return turn(pe, abs(k))


def turn_rolls_the_rows(pe, k):
    return pe.roll(-k, 0)


def turn_one_frequency_for_all(pe, k):
    sin, cos = pe[:, 0::2], pe[:, 1::2]
    c, s = math.cos(k), math.sin(k)
    return torch.stack([sin * c + cos * s, cos * c - sin * s], dim=-1).flatten(1)


def turn_i_for_2i(pe, k):
    d = pe.shape[1]
    omega = 10_000 ** (-torch.arange(d // 2, dtype=pe.dtype) / d)
    sin, cos = pe[:, 0::2], pe[:, 1::2]
    c, s = torch.cos(k * omega), torch.sin(k * omega)
    return torch.stack([sin * c + cos * s, cos * c - sin * s], dim=-1).flatten(1)


def turn_sines_then_cosines(pe, k):
    d = pe.shape[1]
    omega = 10_000 ** (-torch.arange(0, d, 2, dtype=pe.dtype) / d)
    sin, cos = pe[:, 0::2], pe[:, 1::2]
    c, s = torch.cos(k * omega), torch.sin(k * omega)
    return torch.cat([sin * c + cos * s, cos * c - sin * s], dim=-1)


def turn_assumes_it_starts_at_zero(pe, k):
    n, d = pe.shape
    omega = 10_000 ** (-torch.arange(0, d, 2, dtype=pe.dtype) / d)
    angle = (torch.arange(n, dtype=pe.dtype) + k)[:, None] * omega
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


# --- rotary_half


def rotary_half(x, positions):
    d = x.shape[-1]
    omega = 10_000 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
    angles = positions[:, None] * omega
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def rotary_half_interleaved(x, positions):
    d = x.shape[-1]
    omega = 10_000 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
    angles = positions[:, None] * omega
    a, b = x[:, 0::2], x[:, 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(1)


def rotary_half_other_direction(x, positions):
    return rotary_half(x, -positions)


def rotary_half_counts_rows(x, positions):
    return rotary_half(x, torch.arange(len(x)))


def rotary_half_adds_the_angle(x, positions):
    d = x.shape[-1]
    omega = 10_000 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
    angles = positions[:, None] * omega
    return x + torch.cat([angles.sin(), angles.cos()], dim=-1)


def rotary_half_forgets_the_cross_terms(x, positions):
    d = x.shape[-1]
    omega = 10_000 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
    angles = positions[:, None] * omega
    return x * torch.cat([angles.cos(), angles.cos()], dim=-1)


def rotary_half_frequencies_over_half(x, positions):
    d = x.shape[-1] // 2
    omega = 10_000 ** (-torch.arange(0, 2 * d, 2, dtype=x.dtype) / d)
    angles = positions[:, None] * omega
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def rotary_half_pairs_with_the_sign_on_the_wrong_half(x, positions):
    d = x.shape[-1]
    omega = 10_000 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
    angles = positions[:, None] * omega
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos + b * sin, a * sin + b * cos], dim=-1)


# --- alibi


def alibi(heads, queries, keys):
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
    query = torch.arange(queries)[:, None] + keys - queries
    distance = query - torch.arange(keys)
    bias = -slopes[:, None, None] * distance
    return bias.masked_fill(distance < 0, -torch.inf)


def alibi_top_left(heads, queries, keys):
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
    distance = torch.arange(queries)[:, None] - torch.arange(keys)
    bias = -slopes[:, None, None] * distance
    return bias.masked_fill(distance < 0, -torch.inf)


def alibi_rewards_distance(heads, queries, keys):
    bias = alibi(heads, queries, keys)
    return torch.where(bias.isinf(), bias, -bias)


def alibi_without_mask(heads, queries, keys):
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
    query = torch.arange(queries)[:, None] + keys - queries
    return -slopes[:, None, None] * (query - torch.arange(keys)).abs()


def alibi_hides_the_query_itself(heads, queries, keys):
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
    query = torch.arange(queries)[:, None] + keys - queries
    distance = query - torch.arange(keys)
    bias = -slopes[:, None, None] * distance
    return bias.masked_fill(distance <= 0, -torch.inf)


def alibi_slopes_from_one(heads, queries, keys):
    slopes = 2.0 ** (-8 * torch.arange(heads) / heads)
    query = torch.arange(queries)[:, None] + keys - queries
    distance = query - torch.arange(keys)
    bias = -slopes[:, None, None] * distance
    return bias.masked_fill(distance < 0, -torch.inf)


def alibi_as_for_eight_heads(heads, queries, keys):
    slopes = 2.0 ** -torch.arange(1.0, heads + 1)
    query = torch.arange(queries)[:, None] + keys - queries
    distance = query - torch.arange(keys)
    bias = -slopes[:, None, None] * distance
    return bias.masked_fill(distance < 0, -torch.inf)


def alibi_transposed(heads, queries, keys):
    return alibi(heads, keys, queries).transpose(1, 2)


# --- to_half_split


def to_half_split(weight, n_heads):
    return rearrange(weight, "(h i two) d -> (h two i) d", h=n_heads, two=2)


def to_half_split_the_other_way(weight, n_heads):
    return rearrange(weight, "(h two i) d -> (h i two) d", h=n_heads, two=2)


def to_half_split_over_all_heads(weight, n_heads):
    return rearrange(weight, "(i two) d -> (two i) d", two=2)


def to_half_split_columns(weight, n_heads):
    even, odd = weight[:, 0::2], weight[:, 1::2]
    return torch.cat([even, odd], dim=1)


def to_half_split_unchanged(weight, n_heads):
    return weight


def to_half_split_odd_rows_first(weight, n_heads):
    return rearrange(weight, "(h i two) d -> (h two i) d", h=n_heads, two=2).roll(
        weight.shape[0] // n_heads // 2, 0
    )


def to_half_split_swaps_heads_and_pairs(weight, n_heads):
    return rearrange(weight, "(i h two) d -> (h two i) d", h=n_heads, two=2)


# --- never_round


def never_round(head_dim, base, length):
    count = 0
    for i in range(head_dim // 2):
        omega = base ** (-2 * i / head_dim)
        count += (length - 1) * omega < 2 * math.pi
    return count


def never_round_counts_those_that_did(head_dim, base, length):
    return head_dim // 2 - never_round(head_dim, base, length)


def never_round_counts_dimensions(head_dim, base, length):
    return 2 * never_round(head_dim, base, length)


def never_round_a_turn_is_one_radian(head_dim, base, length):
    return sum((length - 1) * base ** (-2 * i / head_dim) < 1 for i in range(head_dim // 2))


def never_round_a_turn_is_pi(head_dim, base, length):
    return sum((length - 1) * base ** (-2 * i / head_dim) < math.pi for i in range(head_dim // 2))


def never_round_i_for_2i(head_dim, base, length):
    return sum((length - 1) * base ** (-i / head_dim) < 2 * math.pi for i in range(head_dim // 2))


def never_round_always_base_10000(head_dim, base, length):
    return never_round(head_dim, 10_000, length)


def never_round_off_by_one_position(head_dim, base, length):
    return never_round(head_dim, base, length + 1)


SOLUTIONS = {
    "turn": turn,
    "rotary_half": rotary_half,
    "alibi": alibi,
    "to_half_split": to_half_split,
    "never_round": never_round,
}
WRONG = {
    "turn": {
        "the other direction": turn_backwards,
        "never back": turn_forward_only,
        "rows rolled": turn_rolls_the_rows,
        "one frequency for all pairs": turn_one_frequency_for_all,
        "i where 2i belongs": turn_i_for_2i,
        "sines first, then cosines": turn_sines_then_cosines,
        "assumes that the rows start at 0": turn_assumes_it_starts_at_zero,
    },
    "rotary_half": {
        "interleaved pairs": rotary_half_interleaved,
        "the other direction": rotary_half_other_direction,
        "rows counted, positions ignored": rotary_half_counts_rows,
        "added, not rotated": rotary_half_adds_the_angle,
        "no cross terms": rotary_half_forgets_the_cross_terms,
        "frequencies over d/2": rotary_half_frequencies_over_half,
        "a sign wrong": rotary_half_pairs_with_the_sign_on_the_wrong_half,
    },
    "alibi": {
        "aligned top-left": alibi_top_left,
        "distance rewarded": alibi_rewards_distance,
        "no mask": alibi_without_mask,
        "the token itself hidden": alibi_hides_the_query_itself,
        "slopes start at 1": alibi_slopes_from_one,
        "slopes of eight heads": alibi_as_for_eight_heads,
        "transposed": alibi_transposed,
    },
    "to_half_split": {
        "the other way": to_half_split_the_other_way,
        "all heads as one": to_half_split_over_all_heads,
        "columns": to_half_split_columns,
        "unchanged": to_half_split_unchanged,
        "odd rows first": to_half_split_odd_rows_first,
        "heads and pairs swapped": to_half_split_swaps_heads_and_pairs,
    },
    "never_round": {
        "counts those that did": never_round_counts_those_that_did,
        "counts dimensions": never_round_counts_dimensions,
        "a turn is one radian": never_round_a_turn_is_one_radian,
        "a turn is pi": never_round_a_turn_is_pi,
        "i where 2i belongs": never_round_i_for_2i,
        "base ignored": never_round_always_base_10000,
        "off by one position": never_round_off_by_one_position,
    },
}
