"""The chapter on experts: break what a claim stands on, and it must not hold."""

import re

import pytest
import torch
from helpers.chapter_cells import execute

from llmbook.book.claims import ClaimError
from llmbook.experiments import moe as runs
from llmbook.moe import limit_capacity, route

BALANCE = ["setup", "balance", "conventions", "claims-balance"]
BROKEN = {
    "a collapse that is none": ("fallen = pairs[:1].repeat(8, 1)", "fallen = pairs"),
    "one convention twice": (
        'in ("switch", "transformers")]\n        for',
        'in 2 * ("switch",)]\n        for',
    ),
    "k counted twice": ("share = counts / chosen.numel()", "share = counts / len(chosen)"),
}


def test_the_claim_on_balance_holds_on_the_code_as_it_is():
    printed = execute("moe", BALANCE)
    assert "k = 2, at balance  divided by k 1.00   transformers 2.00" in printed
    assert "k = 2, at collapse divided by k 4.00   transformers 8.00" in printed
    # each half of the batch looks collapsed on half of the experts; the whole batch is even
    assert re.findall(r"E Σ f P (\S+)", printed) == ["2.00", "2.00", "1.00"]
    small, large = map(float, re.findall(r"z-loss (\S+)", printed))
    assert large == pytest.approx(4 * small, rel=0.02)


@pytest.mark.parametrize("name", BROKEN)
def test_the_claim_on_balance_fails_when_the_code_under_it_is_broken(name):
    with pytest.raises(ClaimError, match="moe-load-balancing-loss"):
        execute("moe", BALANCE, *BROKEN[name])


@pytest.mark.parametrize(("arm", "value"), [("none", 1.1), ("bias", 3.0), ("loss 0.1", 3.0)])
def test_the_claim_on_balance_fails_when_the_record_says_otherwise(monkeypatch, arm, value):
    told = runs.spread

    def otherwise(part, which, name="loss"):
        found = told(part, which, name)
        return [*found[:-1], value] if (which, name) == (arm, "balance loss") else found

    monkeypatch.setattr(runs, "spread", otherwise)
    with pytest.raises(ClaimError, match="moe-load-balancing-loss"):
        execute("moe", BALANCE)


def test_the_chapter_drops_what_the_package_drops():
    printed = execute("moe", ["setup", "capacity-code", "drops"])
    told = re.findall(r": +(\d+) of 1,024 choices dropped, +(\d+) tokens", printed)
    g = torch.Generator().manual_seed(1)
    routing = route(torch.linspace(2, 0, 8) + torch.randn(512, 8, generator=g), 2)
    for (slots, tokens), factor in zip(told, (1, 1.25, 2, 8), strict=True):
        limited = limit_capacity(routing, factor)
        assert limited.dropped == int(slots)
        assert int((limited.chosen < 0).all(1).sum()) == int(tokens)
    assert told[-1] == ("0", "0") and int(told[0][0]) > int(told[1][0]) > int(told[2][0])
