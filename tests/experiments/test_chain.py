"""The source of known entropy: its numbers are right, and its models approach them from above."""

import math

import pytest
import torch

from llmbook.experiments.chain import Chain, run_pairs, sweep


def test_rows_are_distributions_and_the_stationary_one_stays():
    chain = Chain(states=40)
    assert torch.allclose(chain.p.sum(-1), torch.ones(40).double())
    assert torch.allclose(chain.pi @ chain.p, chain.pi) and chain.pi.sum().item() == pytest.approx(
        1
    )


def test_the_entropy_lies_between_nothing_and_that_of_single_tokens():
    chain = Chain()
    single = -(chain.pi * chain.pi.log()).sum().item()
    assert 0.5 < chain.entropy < single - 0.5 < math.log(256)


def test_no_model_is_below_the_entropy_and_the_chain_itself_is_at_it():
    chain = Chain(states=30)
    assert chain.loss(chain.p.log()) == chain.entropy
    g = torch.Generator().manual_seed(1)
    for scale in (0.01, 1.0):
        noise = torch.randn(30, 30, generator=g, dtype=torch.float64)
        assert chain.loss((chain.p.log() + scale * noise).log_softmax(-1)) > chain.entropy


def test_drawn_pairs_have_the_chains_frequencies():
    chain = Chain(states=6)
    v, w = chain.draw(200_000, torch.Generator().manual_seed(0))
    joint = torch.bincount(v * 6 + w, minlength=36).double().view(6, 6) / 200_000
    assert (joint - chain.pi[:, None] * chain.p).abs().max() < 4e-3


def test_more_pairs_and_more_width_bring_a_model_nearer():
    runs = sweep(Chain(), widths=(2, 16), pairs=(16_000, 128_000))
    few_narrow, few_wide, many_narrow, many_wide = (run["loss"] for run in runs)
    assert few_narrow > many_narrow > many_wide > Chain().entropy
    assert few_wide > many_wide
    assert [run["n"] for run in runs[:2]] == [2 * 256 * d + 256 for d in (2, 16)]


def test_the_same_seed_is_the_same_run():
    losses = [run_pairs(Chain(states=20), 2, 8_192, seed)["loss"] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_one_state_is_refused():
    with pytest.raises(ValueError, match="states must be"):
        Chain(states=1)
