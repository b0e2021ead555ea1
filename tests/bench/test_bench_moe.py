"""The expert race runs against every peer, and shows no speed for a wrong result."""

import argparse
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmbook.bench import main, memory
from llmbook.bench import moe as race

TINY = ["moe", "--quick", "--device", "cpu", "--repeats", "1", "--parts", "race"]


def test_every_peer_runs_and_is_recorded(tmp_path):
    pytest.importorskip("transformers")
    file = tmp_path / "race.json"
    assert main([*TINY, "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    assert record["wrong"] == {}
    assert {o["peer"] for o in record["outcomes"]} == set(race.PEERS)
    cases = {o["case"] for o in record["outcomes"]}
    assert cases == {
        f"E=4 N=16 {routing} {passes}"
        for routing in ("balanced", "zipf")
        for passes in ("forward", "both")
    }
    for outcome in record["outcomes"]:
        assert all(error < 1e-4 for error in outcome["errors"].values())


def test_a_wrong_gradient_is_not_timed(monkeypatch, capsys):
    right = race.run_experts

    def wrong(x, chosen, weights, *rest, backend):
        if backend != "reference":
            weights = weights.detach() + 0 * weights
        return right(x, chosen, weights, *rest, backend=backend)

    monkeypatch.setattr(race, "run_experts", wrong)
    assert main([*TINY, "--peers", "dense", "--passes", "both"]) == 1
    assert "ours is wrong" in capsys.readouterr().out


def test_a_peer_that_would_not_fit_is_named(monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.setattr(race, "BATCHED_BYTES", 0)
    arguments = ["--peers", "batched_mm", "dense", "--routing", "zipf", "--passes", "forward"]
    assert main([*TINY, *arguments]) == 0
    printed = capsys.readouterr().out
    assert "batched_mm: left out" in printed and "dense" in printed


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_half_precision_races_too(dtype):
    assert main([*TINY, "--peers", "dense", "--dtype", dtype, "--routing", "balanced"]) == 0
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(not memory.is_told(), reason="this system does not tell a process's peak")
def test_the_memory_of_ours_and_of_every_peer_is_told(capsys):
    pytest.importorskip("transformers")
    more = ["--parts", "memory", "--passes", "both", "--routing", "balanced"]
    assert main([*TINY, *more, "--peers", "eager", "dense"]) == 0
    told = capsys.readouterr().out
    assert "memory above the inputs, E=4 N=16 balanced both: ours " in told
    assert "MB, eager " in told and "MB, dense " in told
    assert "vs eager" not in told  # no race


@pytest.mark.slow
@pytest.mark.skipif(not memory.is_told(), reason="this system does not tell a process's peak")
def test_the_peak_counts_what_a_run_makes_and_not_its_inputs():
    sizes = {"k": 2, "d_model": 256, "d_expert": 512, "dtype": "float32", "seed": 0}
    sizes |= {"quick": False, "backend": "auto"}
    for who in ("ours", "eager"):
        case = (8, 512, "balanced", "both")
        taken = memory.in_fresh_process(race.measured, who, case, sizes, **race._ALONE)
        gradients = 4 * 8 * 3 * 512 * 256  # of the experts alone: 12.6 MB
        assert gradients < taken < 6 * gradients


@pytest.mark.parametrize("passes", ["forward", "both"])
def test_the_products_alone_are_as_many_operations_as_ours(passes):
    options = argparse.Namespace(
        quick=True, d_model=None, d_expert=None, k=2, dtype="float32", seed=0, device="cpu"
    )
    chosen, leaves, upstream = race._inputs(4, 16, "zipf", options)
    alone = race._products_alone(chosen, leaves, passes)
    counted = []
    for run in (alone, lambda: race._step(race._ours(chosen, "sorted"), leaves, upstream, passes)):
        with FlopCounterMode(display=False) as counter:
            run()
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] == (1 + 2 * (passes == "both")) * 6 * 32 * 16 * 32
    assert main([*TINY[:-1], "products", "--passes", passes]) == 0


def test_no_share_is_shown_of_a_wrong_result(monkeypatch, capsys):
    right = race.run_experts

    def wrong(*inputs, backend):
        return right(*inputs, backend=backend) * (1 if backend == "reference" else 2)

    monkeypatch.setattr(race, "run_experts", wrong)
    assert main([*TINY[:-1], "products", "--passes", "forward"]) == 1
    assert "ours is wrong" in capsys.readouterr().out
