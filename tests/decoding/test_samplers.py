"""Samplers: each is what enumeration says, draws come as often as they should."""

import math

import pytest
import torch
from helpers.decoding_subject import Fixed, chi_squared

from llmbook.decoding import generate, probabilities, samplers


def enumerated(logits, temperature=1.0, k=None, p=None, m=None):
    """The distribution, by a loop over the tokens, the likeliest first."""
    weights = [math.exp(v / temperature) for v in logits]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])[:k]
    whole, kept = sum(weights[i] for i in order), []
    for i in order:  # the smallest set of likeliest tokens that reaches p
        kept.append(i)
        if p is not None and sum(weights[j] for j in kept) >= p * whole:
            break
    kept = [i for i in kept if m is None or weights[i] >= m * weights[order[0]]]
    share = sum(weights[i] for i in kept)
    return [weights[i] / share if i in kept else 0.0 for i in range(len(weights))]


CUTS = [
    (1.0, None, 0.6, None),
    (0.7, 3, None, None),
    (1.4, 5, 0.8, None),
    (1.0, 1, 0.01, None),
    (1.0, None, None, 0.2),
    (2.5, None, None, 0.5),
    (1.3, 5, 0.9, 0.3),
    (1.0, None, 1.0, 0.0),
]


@pytest.mark.parametrize("how", CUTS)
def test_the_cuts_are_what_enumeration_says(how):
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(50, 7, generator=g)
    got = probabilities(logits, *how)
    want = torch.tensor([enumerated(row, *how) for row in logits.tolist()])
    torch.testing.assert_close(got, want)
    assert torch.equal(got > 0, want > 0)


def test_the_order_is_temperature_top_k_top_p_min_p():
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0]])
    by_hand = samplers.temperature(logits, 0.5)
    by_hand = samplers.min_p(samplers.top_p(samplers.top_k(by_hand, 4), 0.95), 0.05)
    torch.testing.assert_close(by_hand.softmax(-1), probabilities(logits, 0.5, 4, 0.95, 0.05))
    other = samplers.temperature(samplers.min_p(logits, 0.05), 0.5).softmax(-1)
    assert not torch.equal(other > 0, probabilities(logits, 0.5, None, None, 0.05) > 0)


def test_cuts_are_unmoved_by_a_constant_and_take_any_shape():
    logits = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(1))
    for cut, value in ((samplers.top_k, 3), (samplers.top_p, 0.7), (samplers.min_p, 0.2)):
        got = cut(logits, value)
        assert got.shape == logits.shape
        assert torch.equal(got == -math.inf, cut(logits.log_softmax(-1), value) == -math.inf)
        kept = got > -math.inf
        assert torch.equal(got[kept], logits[kept]) and not kept.all()


def test_ties_keep_exactly_k_and_at_least_one():
    p = probabilities(torch.zeros(3, 6), top_k=4)
    assert ((p > 0).sum(-1) == 4).all() and torch.allclose(p.sum(-1), torch.ones(3))
    p = probabilities(torch.tensor([50.0, 0, 0]), top_p=1e-9)
    assert p.tolist() == [1.0, 0.0, 0.0]
    assert (probabilities(torch.zeros(4), top_p=0.5) > 0).sum() == 2
    assert (probabilities(torch.zeros(4), min_p=0.999) > 0).all()


def test_the_penalty_divides_what_is_above_0_and_multiplies_what_is_below():
    logits = torch.tensor([[2.0, -1.0, 3.0, -4.0], [2.0, -1.0, 3.0, -4.0]])
    tokens = torch.tensor([[0, 1, 1], [2, 0, 3]])
    got = samplers.repetition_penalty(logits, tokens, 2.0)
    assert got.tolist() == [[1.0, -2.0, 3.0, -4.0], [1.0, -1.0, 1.5, -8.0]]
    keep = torch.tensor([[True, True, True], [False, True, True]])
    got = samplers.repetition_penalty(logits, tokens, 2.0, keep)
    assert got.tolist() == [[1.0, -2.0, 3.0, -4.0], [1.0, -1.0, 3.0, -8.0]]


def test_the_penalty_is_transformers():
    logits_process = pytest.importorskip("transformers.generation.logits_process")
    g = torch.Generator().manual_seed(2)
    logits, tokens = torch.randn(5, 30, generator=g), torch.randint(30, (5, 12), generator=g)
    for penalty in (0.5, 1.3):
        theirs = logits_process.RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits.clone())
        got = samplers.repetition_penalty(logits, tokens, penalty)
        torch.testing.assert_close(got, theirs, atol=0, rtol=0)


@pytest.mark.parametrize("how", [*CUTS[2:3], *CUTS[4:7], (0.8, 4, None, None)])
def test_samples_come_as_often_as_their_probability(how):
    logits = torch.tensor([1.0, 0.5, 0.0, -1.0, -3.0])
    names = dict(zip(("temperature", "top_k", "top_p", "min_p"), how, strict=True))
    model, rows = Fixed(logits), torch.zeros(400, 1, dtype=torch.int64)
    text = generate(model, rows, max_new_tokens=50, seed=5, **names)[:, 1:]
    counts = torch.bincount(text.flatten(), minlength=5)
    assert chi_squared(counts, enumerated(logits.tolist(), *how)) > 1e-6
    assert chi_squared(counts, enumerated(logits.tolist(), how[0] * 1.5, *how[1:])) < 1e-6
    again, other = (
        generate(model, rows, max_new_tokens=5, temperature=1.0, seed=s) for s in (5, 6)
    )
    assert torch.equal(again, generate(model, rows, max_new_tokens=5, temperature=1.0, seed=5))
    assert not torch.equal(again, other)


@pytest.mark.parametrize(
    "sampler, value, error",
    [
        (samplers.temperature, 0.0, "temperature must be a number above 0: got 0.0"),
        (samplers.top_k, 0, "top_k must be a whole number of at least 1: got 0"),
        (samplers.top_p, 0.0, "top_p must be a number above 0 and at most 1: got 0.0"),
        (samplers.min_p, 1.0, "min_p must be a number at least 0 and below 1: got 1.0"),
        (samplers.min_p, math.nan, "min_p must be a number at least 0 and below 1: got nan"),
    ],
)
def test_values_out_of_range_are_refused(sampler, value, error):
    with pytest.raises(ValueError, match=error):
        sampler(torch.zeros(3), value)
    with pytest.raises(TypeError, match=error.split(":")[0]):
        sampler(torch.zeros(3), "0.5")
