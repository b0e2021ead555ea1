"""Trained short, tested long: the source, the models' one difference, and what was recorded."""

import json

import numpy as np
import pytest
import torch

from llmbook.experiments import extrapolation as e
from llmbook.experiments import record
from llmbook.positions import Rotary

PAST = e.recorded()
ENDS = np.array(PAST["ends"])


def mean(curves, low, high):
    """The mean over seeds and over the bins from position low + 1 to high."""
    inside = (ENDS > low) & (ENDS <= high)
    return np.array(curves)[:, inside[: len(curves[0])]].mean()


def rise(curves):
    return mean(curves, 32, 64) - mean(curves, 0, 32)


def test_the_source_follows_the_last_two_tokens_and_its_own_loss_is_the_least():
    probabilities, lessons, exams = e.texts(3, steps=40)
    assert lessons.shape == (40 * 32, 32) and exams.shape == (64, 256)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(8, 8))
    counts = torch.zeros(8, 8, 8).index_put_(
        tuple(lessons[:, i : i + 30].flatten() for i in range(3)),
        torch.ones(lessons.shape[0] * 30),
        accumulate=True,
    )
    often = counts.sum(-1) > 400
    shares = counts[often] / counts[often].sum(-1, keepdim=True)
    assert (shares - probabilities[often]).abs().max() < 0.1


@pytest.mark.parametrize("kind", e.KINDS)
def test_a_model_is_causal_and_its_excess_reaches_as_far_as_its_positions(kind):
    torch.manual_seed(0)
    model = e.Small(kind)
    probabilities, _, exams = e.texts(1, steps=1)
    extra = e.excess(model, probabilities, exams)
    assert len(extra) == (30 if kind == "learned" else 254)
    assert len(e.curve(extra)) == (4 if kind == "learned" else 16)
    changed = exams[:, :20].clone()
    changed[:, 12:] = 0
    torch.testing.assert_close(model(changed)[:, :12], model(exams[:, :20])[:, :12])


def test_only_rotary_takes_a_rotation_and_an_unknown_kind_is_refused():
    model = e.Small("rotary", Rotary(8, base=100.0))
    assert model.layers[0][0].sublayer.rotate.base == 100.0
    model.turn_by(Rotary(8, base=8.0))
    assert {attend.sublayer.rotate.base for attend, _ in model.layers} == {8.0}
    assert e.Small("none", Rotary(8)).layers[0][0].sublayer.rotate is None
    with pytest.raises(ValueError, match="kind must be one of none, sinusoidal"):
        e.Small("binary")


def test_a_span_counts_positions_from_one():
    extra = torch.arange(3.0, 257.0)  # position 3 first: each holds its own number
    assert e.over((0, 32), extra) == np.mean(range(3, 33))
    assert e.over((32, 64), extra) == np.mean(range(33, 65))
    assert e.curve(extra)[0] == np.mean(range(3, 9)) and e.curve(extra)[-1] == np.mean(
        range(225, 257)
    )


def test_the_record_holds_every_arm_with_at_least_five_seeds():
    seeds = len(PAST["_run"]["seeds"])
    assert seeds >= 5 and PAST["_run"]["steps"] == e.STEPS
    assert set(PAST["bases"]) == {str(base) for base in e.BASES}
    assert set(PAST["kinds"]) == set(e.KINDS) - {"rotary"}
    for part in ("bases", "kinds", "stretched"):
        assert all(len(curves) == seeds for curves in PAST[part].values())


def test_what_the_chapter_says_of_the_record_is_so():
    guessing = np.log(8) - np.mean(PAST["entropy"])
    kinds, bases, slower = PAST["kinds"], PAST["bases"], PAST["stretched"]
    usual = rise(bases["10000"])
    assert mean(kinds["sinusoidal"], 32, 64) > guessing
    assert mean(bases["10000"], 48, 64) > guessing and usual > 0.8
    for base in ("100", "1000"):
        assert rise(bases[base]) < 0.5 * usual
    assert rise(bases["3000"]) > 0.8 and 0.3 < rise(bases["8"]) < usual
    assert rise(bases["500000"]) < 0.1 and mean(bases["500000"], 112, 128) > guessing
    assert all(mean(curves, 192, 224) > 0.9 for curves in bases.values())
    inside = {kind: mean(curves, 0, 32) for kind, curves in kinds.items()}
    assert inside["ALiBi"] > inside["T5"] and rise(kinds["ALiBi"]) < 0.1
    assert mean(kinds["ALiBi"], 128, 256) - inside["ALiBi"] < 0.2
    assert inside["T5"] < 0.1 < mean(kinds["T5"], 128, 256)
    assert mean(kinds["none"], 32, 256) < guessing
    # stretching: 4 to 8 about doubles the length at little cost; linear hurts at once
    for factor in ("4", "8"):
        assert mean(slower[f"ntk {factor}"], 32, 64) < 0.35 * mean(bases["10000"], 32, 64)
        assert mean(slower[f"ntk {factor}"], 0, 32) < mean(bases["10000"], 0, 32) + 0.1
        assert mean(slower[f"ntk {factor}"], 128, 256) > 0.9
    assert mean(slower["linear 2"], 0, 32) > mean(bases["10000"], 0, 32) + 0.3


def test_it_is_recorded_by_the_book_s_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(e, "BASES", (100, 10_000))
    out = tmp_path / "short.json"
    asked = ["extrapolation", "--seeds", "7", "--steps", "2", "--out", str(out)]
    assert record.main(asked) == 0 and "seed 7" in capsys.readouterr().out
    made = json.loads(out.read_text(encoding="utf-8"))
    assert made.keys() == PAST.keys() and set(made["bases"]) == {"100", "10000"}
    assert made["_run"]["seeds"] == [7] and made["_run"]["steps"] == 2
    assert made["_run"]["command"] == "python -m llmbook record " + " ".join(asked)


@pytest.mark.slow
@pytest.mark.parametrize("kind, base", [("sinusoidal", 0), ("rotary", 100)])
def test_one_seed_of_the_record_comes_out_again(kind, base):
    seed = PAST["_run"]["seeds"][0]
    probabilities, lessons, exams = e.texts(seed)
    model = e.train(kind, seed, lessons, rotary=Rotary(e.HEAD_DIM, base=float(base or 8)))
    old = (PAST["bases"][str(base)] if base else PAST["kinds"][kind])[0]
    new = e.curve(e.excess(model, probabilities, exams))
    np.testing.assert_allclose(new, old, atol=0.15)  # another processor adds in another order
