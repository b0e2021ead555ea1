"""The recorded runs on states of fixed size: the tasks' answers, the models, the record's form."""

import json

import pytest
import torch

from llmbook.experiments import mamba
from llmbook.experiments.record import main
from llmbook.seeds import generator


def test_copying_asks_for_the_symbols_in_their_order():
    x, y = mamba.copying(50, generator(0, "x"))
    for row, answer in zip(x, y, strict=True):
        assert torch.equal(row[row >= 2] - 2, answer)
        assert (row[-mamba.KEPT :] == 1).all()
        assert (row == 0).sum() == mamba.SPREAD - mamba.KEPT


def test_loops_repeat_with_their_period():
    ids, length = mamba.loops(20, generator(0, "x"))
    for row, n in zip(ids, length.flatten().tolist(), strict=True):
        assert torch.equal(row[n:], row[:-n])
    assert (mamba.loops(3, generator(0, "x"), 9)[1] == 9).all()


def test_tones_hold_the_note_that_the_answer_names():
    x, which = mamba.tones(40, generator(0, "x"))
    t = torch.arange(mamba.SAMPLES)
    power = [(x[..., 0] * torch.exp(1j * note * t)).sum(-1).abs() for note in mamba.NOTES]
    assert torch.equal((power[1] > power[0]).long(), which)
    assert 0 < which.sum() < 40


@pytest.mark.parametrize("kind", [*mamba.ARMS, "s4d"])
def test_every_mixer_is_causal_and_trains(kind):
    torch.manual_seed(0)
    model = mamba.Model([kind, kind], 6, 6, 32)
    x = torch.randint(6, (2, 11))
    y = x.clone()
    y[:, 7] = (y[:, 7] + 1) % 6
    with torch.no_grad():
        gap = (model(x) - model(y)).abs().amax((0, 2))
    assert gap[:7].max() < 1e-6
    assert gap[7] > 1e-4
    model(x).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_only_the_fixed_scan_ignores_what_a_token_is():
    torch.manual_seed(0)
    x = torch.randn(1, 5, 32)
    for kind, moves in (("fixed", False), ("selective", True)):
        mix = mamba.MIXERS[kind](32)
        terms = mix.terms(x)
        assert any((t - t[:, :1]).abs().max() > 1e-3 for t in terms) == moves


def test_the_record_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    made = []

    def run(key):
        made.append(key)
        if key == "c" and len(made) < 4:
            raise KeyboardInterrupt
        return {"accuracy": 1.0, "seconds": 2.0}

    monkeypatch.setattr(mamba, "points", lambda: [("copying", k, (run, k)) for k in "abc"])
    out = tmp_path / "runs.json"
    with pytest.raises(KeyboardInterrupt):
        main(["mamba", "--out", str(out)])
    assert set(json.loads(out.read_text())["copying"]) == {"a", "b"}
    made.append("again")
    assert main(["mamba", "--out", str(out)]) == 0
    assert made == ["a", "b", "c", "again", "c"]
    done = json.loads(out.read_text())
    assert done["_run"]["command"] == f"python -m llmbook record mamba --out {out}"
