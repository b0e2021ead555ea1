"""Abilities under several measures: the sums are right, and learned; a summary of scores."""

import torch

from llmbook.experiments import emergence


def test_sums_have_no_carry_and_their_answers_are_right():
    ids = emergence.sums(500, torch.Generator().manual_seed(0))
    a, b = ids[:, 0:12:2], ids[:, 1:12:2]
    assert torch.equal(ids[:, 12:], a + b) and ids.max() == 9 and ids.min() == 0


def test_a_wide_model_learns_sums_and_a_narrow_one_does_not():
    narrow, wide = (emergence.run_sums(width, seed=1, steps=250) for width in (2, 16))
    assert narrow["match"] < 0.05 and wide["match"] > 0.9
    for run in (narrow, wide):
        assert run["match"] <= run["digit"] and (run["loss"] < 0.2) == (run["match"] > 0.9)


def test_public_scores_are_medians_by_half_decade(monkeypatch):
    rows = [(2e20, 0.0, 0.1, 0.0), (2.5e20, 0.2, 0.3, 0.5), (9e20, 0.5, 0.9, 1.0)]
    keys = ("flops", "match", "bleu", "addition")
    monkeypatch.setattr(emergence, "emergence", lambda: [dict(zip(keys, r)) for r in rows])
    first, second = emergence.public_scores()["rows"]
    assert (first["models"], first["match"], first["bleu"]) == (2, 0.1, 0.2)
    assert first["addition"] == [0.0, 0.5] and second["addition"] == [1.0, 1.0]
    assert 1e20 < first["flops"] < 10**20.5 < second["flops"] < 1e21
