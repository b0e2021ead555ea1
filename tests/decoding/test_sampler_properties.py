"""Samplers for any logits: who stays is found again by sorting and adding up, token by token."""

import math

import torch
from helpers.properties import settings
from hypothesis import given
from hypothesis import strategies as st

from llmbook.decoding.samplers import min_p, probabilities, repetition_penalty, top_k, top_p

LOGITS = st.lists(
    st.one_of(st.integers(-6, 6).map(float), st.floats(-30, 30, width=32), st.just(-math.inf)),
    min_size=1,
    max_size=12,
).filter(lambda values: max(values) > -math.inf)
SHARE = st.floats(0.01, 1.0)


def shares(values):
    """Probabilities in plain Python."""
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    return [weight / math.fsum(weights) for weight in weights]


def stay(cut):
    return [math.isfinite(value) for value in cut.tolist()]


@settings()
@given(LOGITS, st.integers(1, 14))
def test_top_k_keeps_the_k_likeliest(values, k):
    x = torch.tensor(values, dtype=torch.float64)
    kept = top_k(x, k)
    finite = sum(math.isfinite(value) for value in values)
    assert sum(stay(kept)) == min(k, finite)
    left_out = [v for v, s in zip(values, stay(kept), strict=True) if not s]
    assert min(kept[torch.isfinite(kept)].tolist()) >= max(left_out, default=-math.inf)


@settings()
@given(LOGITS, SHARE)
def test_top_p_keeps_the_smallest_set_that_is_large_enough(values, p):
    kept = stay(top_p(torch.tensor(values, dtype=torch.float64), p))
    probability = shares(values)
    inside = math.fsum(q for q, s in zip(probability, kept, strict=True) if s)
    least = min(q for q, s in zip(probability, kept, strict=True) if s)
    assert inside >= p - 1e-5  # sums are taken in float32
    assert inside - least < p + 1e-5 or sum(kept) == 1
    outside = [q for q, s in zip(probability, kept, strict=True) if not s]
    assert least >= max(outside, default=0.0) - 1e-12


@settings()
@given(LOGITS, st.floats(0.0, 0.99))
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(values, p):
    kept = stay(min_p(torch.tensor(values, dtype=torch.float64), p))
    probability = shares(values)
    for q, s in zip(probability, kept, strict=True):
        bound = p * max(probability)
        if not math.isclose(q, bound, rel_tol=1e-9):
            assert s == (q >= bound and q > 0)


@settings()
@given(
    LOGITS,
    st.floats(0.05, 5.0),
    st.one_of(st.none(), st.integers(1, 12)),
    st.one_of(st.none(), SHARE),
    st.one_of(st.none(), st.floats(0.0, 0.99)),
    st.floats(-50, 50, width=32),
)
def test_probabilities_sum_to_one_keep_the_likeliest_and_ignore_a_constant(
    values, temperature, k, p, m, shift
):
    x = torch.tensor(values, dtype=torch.float32)
    found = probabilities(x, temperature, k, p, m)
    assert math.isclose(found.sum().item(), 1.0, abs_tol=1e-5) and (found >= 0).all()
    assert found[x == x.max()].max() > 0  # of several likeliest, one
    if k is None and p is None and m is None:
        moved = probabilities(x + shift, temperature)
        assert (found - moved).abs().max() < 1e-3  # float32 at a distance of 50


@settings()
@given(st.data(), st.floats(0.5, 2.0))
def test_the_penalty_meets_the_text_s_own_tokens_and_no_others(data, penalty):
    vocabulary, length = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    values = data.draw(
        st.lists(st.floats(-9, 9, width=32), min_size=vocabulary, max_size=vocabulary)
    )
    tokens = data.draw(st.lists(st.integers(0, vocabulary - 1), min_size=length, max_size=length))
    keep = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    x = torch.tensor([values])
    found = repetition_penalty(x, torch.tensor([tokens]), penalty, torch.tensor([keep]))[0]
    said = {token for token, here in zip(tokens, keep, strict=True) if here}
    for token, value in enumerate(values):
        rarer = value / penalty if value > 0 else value * penalty
        want = rarer if token in said else value
        assert math.isclose(found[token].item(), want, rel_tol=1e-5, abs_tol=1e-6)
