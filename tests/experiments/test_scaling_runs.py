"""The sweep behind the scaling laws: each run is its key's, the rules of width as published."""

import json

import pytest
import torch

from llmbook.experiments import scaling

PARTS = ("rates", "sweep", "seeds", "widths", "repeat", "students", "sums", "ngram", "again")


@pytest.fixture
def text():
    """A text with something to learn: a walk in which the next id is one of two."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(1, 3, (9000,), generator=generator)
    ids = (steps.cumsum(0) % 24).int()
    return scaling.Text(ids[:8000], ids[8000:], 24, {})


def test_a_run_tells_its_size_tokens_and_loss_and_learns(text):
    short, long = (scaling.run_point(text, 16, 1, tokens, 8e-3) for tokens in (2_048, 50_000))
    assert long["tokens"] == 50_000 // 1024 * 1024
    assert long["loss"] < short["loss"] - 0.3 and abs(long["loss"] - long["train_loss"]) < 0.2
    blocks = (
        12 * 16 * 16 + 13 * 16
    )  # four matrices of attention, two of the network, norms, biases
    assert long["blocks"] == blocks
    assert long["embeddings"] == (2 * 24 + scaling.CONTEXT) * 16 + 2 * 16  # tables, head, norm


def test_the_same_key_is_the_same_run_and_another_seed_another(text):
    run = [scaling.run_point(text, 16, 1, 4_096, 8e-3, seed)["loss"] for seed in (0, 0, 1)]
    assert run[0] == run[1] != run[2]


def test_the_rate_rises_for_five_percent_and_falls_to_nothing():
    config = scaling.config_of(500_000, 1e-3)
    factors = [config.factor(step) for step in range(config.steps)]
    assert factors.index(max(factors)) == pytest.approx(0.05 * config.steps, abs=2)
    assert factors[-1] < 0.01


@pytest.mark.parametrize("maximal", [True, False])
def test_every_parameter_is_in_one_group_and_only_matrices_learn_slower(maximal):
    model = scaling.build(64, 2, 24)
    groups = scaling.width_groups(model, 0.01, maximal=maximal)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    if maximal:
        slow, rest = groups
        assert slow["lr"] == 0.01 / 4 and rest["lr"] == 0.01
        assert {p.ndim for p in slow["params"]} == {2} and len(slow["params"]) == 2 * 4 + 1
        assert model.head.weight.abs().max() == 0
        assert model.blocks[0].ffn.up.weight.std().item() == pytest.approx(0.02 / 2, rel=0.05)
    else:
        assert [group["lr"] for group in groups] == [0.01]


def test_at_the_base_width_both_rules_learn_at_the_same_rates():
    model = scaling.build(16, 2, 24)
    assert {g["lr"] for g in scaling.width_groups(model, 0.01)} == {0.01}


def test_a_student_of_the_model_reads_the_same_text_and_only_its_targets_differ(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(384, (3000,), generator=generator).int()
    text = scaling.Text(ids[:2000], ids[2000:], 384, {})
    plain, taught = (scaling.run_student(text, d, tokens=2_048, width=32) for d in (False, True))
    assert plain["loss"] != taught["loss"]

    class Certain(torch.nn.Module):  # a teacher that is certain of the next token: the text itself
        def forward(self, input_ids):
            following = torch.cat([input_ids[:, 1:], input_ids[:, :1]], 1)
            return 50.0 * torch.nn.functional.one_hot(following, 384)

    monkeypatch.setattr(scaling, "load", lambda name: Certain())
    sure = scaling.run_student(text, True, tokens=2_048, width=32)["loss"]
    assert sure == pytest.approx(plain["loss"], abs=0.03)  # but for each window's last target


def test_a_recording_goes_on_where_it_was_stopped(text, monkeypatch):
    monkeypatch.setattr(scaling, "SIZES", {16: 1})
    for name, value in {
        "RATES": (4e-3, 8e-3),
        "TOKENS": (2_048,),
        "TUNED_ON": 2_048,
        "AGAIN": (1,),
        "SEEDS": (1,),
        "SEEDS_AT": (16, 2_048),
        "WIDTHS": (16,),
        "WIDTH_RATES": (4e-3,),
        "REPEATED": (500,),
        "REPEAT_SIZES": (16,),
        "REPEAT_TOKENS": 2_048,
        "SUM_WIDTHS": (2,),
        "ORDERS": (2,),
    }.items():
        monkeypatch.setattr(scaling, name, value)
    monkeypatch.setattr(scaling.run_width, "__defaults__", (1_024, 0))
    monkeypatch.setattr(scaling, "run_student", lambda text, distilled, seed: {"loss": 1.0})
    monkeypatch.setattr(scaling, "run_sums", lambda width, seed: {"loss": 1.0})
    monkeypatch.setattr(scaling, "available", lambda name: False)

    class StoppedError(Exception):
        pass

    done, saved = {}, []

    def save():
        saved.append(json.dumps(done))
        if len(saved) == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        scaling.record(done, save, text, text, say=lambda *_: None)
    parts, whole = json.loads(saved[-1]), {}
    parts["sweep"] = {"16/2048/9.0": {"loss": 0.0}}  # of a rate that is no longer the best
    scaling.record(parts, lambda: saved.append(""), text, text, say=lambda *_: None)
    scaling.record(whole, lambda: None, text, text, say=lambda *_: None)
    strip = _without_seconds
    assert {p: strip(r) for p, r in parts.items()} == {p: strip(r) for p, r in whole.items()}
    assert len(saved) == 3 + 10 + 1 and set(parts) == set(PARTS)
    again = strip(parts["again"])
    assert list(again) == ["16/2048/0.008/1"] or list(again) == ["16/2048/0.004/1"]
    assert again != strip(parts["sweep"])


def test_a_recording_stops_when_its_minutes_are_over(text):
    done = {}
    with pytest.raises(scaling.OutOfTimeError, match="rates 16/0.01 is next"):
        scaling.record(done, lambda: None, text, text, until=0.0)
    assert done == {"rates": {}}


def test_the_model_to_beat_gains_from_order_and_text(text):
    runs = {o: scaling.run_ngram(text, o, 8000) for o in (1, 2)}
    assert runs[2]["loss"] < 0.75 < runs[1]["loss"]  # two ways to go on: log 2
    assert runs[2]["entries"] == 24 + 48
    assert scaling.run_ngram(text, 2, 100)["loss"] > runs[2]["loss"]


def test_bytes_are_the_text_with_a_zero_around_each_document():
    text = scaling.read_text("quick")
    assert text.vocab_size == 256 and text.validation[0] == 0 == text.validation[-1]
    first = bytes(text.validation[1:200].tolist()).split(b"\0")[0].decode()
    from llmbook.data import documentation

    assert next(iter(documentation("validation", "quick"))).text.startswith(first)


def test_what_ships_is_the_recording_that_the_code_asks_for(monkeypatch):
    """Every run that would be made is there, in order: nothing is trained, nothing is written."""
    content = {part: dict(runs) for part, runs in json.loads(scaling.OUT.read_text()).items()}
    monkeypatch.setattr(scaling, "available", lambda name: False)
    empty = scaling.Text(torch.zeros(0), torch.zeros(0), 256, {})
    scaling.record(content, pytest.fail, empty, empty, until=0.0)
    assert set(scaling.recorded()) == {*PARTS, "public", "_run"}


def test_in_the_recording_more_text_and_more_parameters_are_better():
    runs = {(r["width"], r["tokens"]): r["loss"] for r in scaling.recorded()["sweep"]}
    for (width, tokens), loss in runs.items():
        assert all(other < loss for (w, t), other in runs.items() if w > width and t == tokens)
        assert all(other < loss for (w, t), other in runs.items() if w == width and t > tokens)


def _without_seconds(runs):
    return {
        key: {name: value for name, value in run.items() if name != "seconds"}
        for key, run in runs.items()
    }
