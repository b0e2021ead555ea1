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


SOLUTIONS = {
    "turn": turn,
    "rotary_half": rotary_half,
    "to_half_split": to_half_split,
    "later_shuffle": "all but the last",
    "best_base": 8,
    "other_base": 0.02,
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
    "to_half_split": {
        "the other way": to_half_split_the_other_way,
        "all heads as one": to_half_split_over_all_heads,
        "columns": to_half_split_columns,
        "unchanged": to_half_split_unchanged,
        "odd rows first": to_half_split_odd_rows_first,
        "heads and pairs swapped": to_half_split_swaps_heads_and_pairs,
    },
    "later_shuffle": {
        "all of them": "all",
        "the last, which sees all": "only the last",
        "nothing, as attention is blind to order": "none",
        "the first sees itself": "all but the first",
        "the last sees itself": "the last",
    },
    "best_base": {
        "the usual base": 10_000,
        "the best at 64": 500_000,
        "the second best at 64": 300,
        "the second best at 200": 30,
        "the place of the slider, not the base": 1,
        "the length": 200,
    },
    "other_base": {
        "base 10,000 after all": 1.2,
        "base 100": 0.48,
        "the rise up to 128": 1.04,
        "the sign turned round, base 10,000": -1.2,
        "the base": 500_000.0,
        "in per cent of a nat": 2.0,
    },
}
