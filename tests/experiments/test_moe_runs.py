"""The runs behind the chapter on experts: short ones run, and do what their names say."""

import json

import pytest
import torch

from llmbook.experiments import moe
from llmbook.experiments.record import main
from llmbook.moe import MoE, collect_routings


@pytest.fixture(scope="module")
def text():
    return moe.read_text()


def test_arms_have_equal_active_or_equal_total_width():
    sizes = {arm: moe.run_facts(arm, 0, 2)["parameters"] for arm in moe.FACT_ARMS}
    router = moe.FACT_WIDTH * moe.N_EXPERTS
    assert sizes["mixture"] - router == sizes["wide"] == 4 * sizes["dense"]
    layer = moe.fact_layer("mixture")
    assert layer.parameter_counts[1] - router == sizes["dense"]


def test_a_run_is_a_function_of_its_key():
    first, again, other = (moe.run_facts("mixture", seed, 30)["known"] for seed in (1, 1, 2))
    assert first == again != other


def test_controls_learn_no_routing(text):
    ids = text.train[:192].long().view(3, 64)
    for arm in ("hash", "random"):
        model = moe.build_text(arm, text.vocab_size, 0)
        with collect_routings(model) as routings:
            model(ids)
            model(ids)
        first, _, again, _ = (r.chosen for r in routings)
        assert torch.equal(first, again) == (arm == "hash")
        if arm == "hash":  # the same token, the same experts
            same = ids.flatten()[:, None] == ids.flatten()
            assert (first[:, 0][:, None] == first[:, 0])[same].all()


def test_the_router_begins_with_a_favourite(text):
    found = moe.run_balance(text, "bias", 0, steps=10)
    assert found["largest loads"][0] > 0.5
    assert found["largest load"] <= 1


def test_upcycling_begins_where_the_dense_model_stopped(text):
    found = moe.run_upcycle(text, "upcycled", 0, steps=4)
    assert found["copied"] == pytest.approx(found["before"], abs=1e-4)


def test_mutual_information_by_hand():
    expert = torch.tensor([0, 0, 1, 1])
    assert moe.mutual_information(expert, torch.tensor([5, 5, 2, 2])) == pytest.approx(1.0)
    assert moe.mutual_information(expert, torch.tensor([0, 1, 0, 1])) == pytest.approx(0.0)
    assert moe.mutual_information(torch.zeros(4, dtype=torch.int64), expert) == 0


def test_a_recording_goes_on_where_it_stopped(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(moe, "run_facts", lambda *key: made.append(key) or {"known": 1.0})
    monkeypatch.setattr(moe, "read_text", lambda: None)
    monkeypatch.setattr(moe, "SEEDS", (0, 1))
    out = tmp_path / "runs.json"
    assert main(["moe", "--only", "facts", "--out", str(out)]) == 0
    held = json.loads(out.read_text())
    assert len(made) == 6 and len(held["facts"]) == 6
    assert held["_run"]["commit"]
    assert main(["moe", "--only", "facts", "--out", str(out)]) == 0
    assert len(made) == 6


def test_every_router_of_a_mixture_is_seen(text):
    model = moe.build_text("mixture", text.vocab_size, 0)
    assert sum(isinstance(module, MoE) for module in model.modules()) == moe.LAYERS


def test_a_curve_is_off_the_clock_and_ends_at_the_last_step(text, monkeypatch):
    class Clock:
        now = 0.0

        def process_time(self):
            Clock.now += 1.0  # each look takes a second
            return Clock.now

    def slow(model, text):
        model.eval()
        Clock.now += 1000.0
        return 5.0

    monkeypatch.setattr(moe, "time", Clock())
    monkeypatch.setattr(moe, "PROBE_EVERY", 3)
    monkeypatch.setattr(moe, "LONGER", 8)
    monkeypatch.setattr(moe, "held_out", slow)
    found = moe.run_text(text, "dense longer", 0, steps=2)
    steps, losses, seconds = zip(*found["curve"], strict=True)
    assert steps == (3, 6, 8) and losses[-1] == found["loss"]
    assert 0 < seconds[0] < seconds[1] < seconds[2] == found["seconds"] < 100
    assert "loads" not in found


def test_measuring_on_the_way_changes_nothing(text, monkeypatch):
    ends = []
    for every in (2, 100):
        monkeypatch.setattr(moe, "PROBE_EVERY", every)
        model = moe.build_text("mixture", text.vocab_size, 0)
        moe.train_text(model, text, 0, 5, probe=lambda *_, model=model: model.eval())
        ends.append(model.tokens.weight.detach().clone())
    assert torch.equal(*ends)


@pytest.mark.slow
def test_recorded_runs_come_out_again(text):
    past = moe.recorded()
    for arm in ("dense", "mixture"):
        again = moe.run_facts(arm, 0)["known"]
        assert again == pytest.approx(past["facts"][f"{arm}/0"]["known"], abs=0.02)
        found = []
        model = moe.build_text(arm, text.vocab_size, 0)
        moe.train_text(
            model,
            text,
            0,
            3 * moe.PROBE_EVERY + 1,
            total=moe.TEXT_STEPS,
            probe=lambda *_, model=model: found.append(moe.held_out(model, text)),
        )
        curve = [loss for _, loss, _ in past["text"][f"{arm}/0"]["curve"][:3]]
        assert found == pytest.approx(curve, abs=0.05)


def test_the_record_is_whole():
    past = moe.recorded()
    arms = {"facts": moe.FACT_ARMS, "text": moe.TEXT_ARMS, "balance": moe.BALANCE_ARMS}
    for part, named in arms.items():
        assert set(past[part]) == {f"{arm}/{seed}" for arm in named for seed in moe.SEEDS}
    assert all(
        run["curve"][-1][0] == (moe.LONGER if key.startswith("dense longer") else moe.TEXT_STEPS)
        for key, run in past["text"].items()
    )
    assert len(past["upcycle"]) == 2 * len(moe.SEEDS) and len(past["more experts"]) == 5


def test_without_a_remedy_the_recorded_routers_stay_collapsed_and_with_one_they_do_not():
    """E Σ f P is 1 at balance and 8 at collapse; the load of the busiest is 1/8 and 1."""
    ends = moe.recorded()["balance"]
    load = {arm: moe.spread(ends, arm, "largest load") for arm in moe.BALANCE_ARMS}
    loss = {arm: moe.spread(ends, arm, "balance loss") for arm in moe.BALANCE_ARMS}
    assert min(load["none"]) > 0.6 and min(loss["none"]) > 3
    for arm in ("bias", "loss 0.1"):
        assert max(load[arm]) < 0.3 and max(loss[arm]) < 1.5
