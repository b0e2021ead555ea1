"""The loading race: it runs, tells memory, and shows no speed for other weights."""

import json

import pytest
import torch

from llmbook.bench import loading, main
from llmbook.models.pretrained import layout

TINY = ["loading", "--quick", "--device", "cpu", "--threads", "1"]
pytest.importorskip("transformers")


def test_it_runs_and_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "peak_memory", lambda *what: None)
    file = tmp_path / "race.json"
    assert main([*TINY, "--folder", str(tmp_path), "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    assert [outcome["case"].split()[0] for outcome in record["outcomes"]] == ["load", "save"]
    assert all(
        outcome["errors"] == {"ours": 0, "transformers": 0} for outcome in record["outcomes"]
    )
    assert "WRONG" not in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["race.json"]


def test_no_speed_is_shown_for_a_weight_that_is_another(monkeypatch, capsys):
    right = layout._read

    def off(slot, *how):
        out = right(slot, *how)
        return out * 1.001 if slot.ours.endswith("out_proj.weight") else out

    monkeypatch.setattr(layout, "_read", off)
    monkeypatch.setattr(loading, "peak_memory", lambda *what: None)
    assert main([*TINY, "--work", "load"]) == 1
    printed = capsys.readouterr().out
    assert "ours is wrong" in printed and "warm-up" not in printed


def test_every_byte_of_a_model_is_looked_at():
    model = torch.nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        model.weight.view(torch.int32).copy_(torch.arange(8).view(2, 4))
    assert loading.read_through(model) == sum((2 * i) + ((2 * i + 1) << 32) for i in range(4))


@pytest.mark.slow
def test_a_model_is_read_in_little_more_than_its_weights(tmp_path):
    """64 MB of packed and unpacked weights: what was copied does not stay in memory twice."""
    from llmbook.models.llama import Llama, LlamaConfig

    model = Llama(LlamaConfig(512, 64, 1024, 4, 8, d_ff=1024)).half()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    loading.save(model, tmp_path / "model")
    peak = loading.peak_memory("load", "ours", tmp_path)
    if peak is None:
        pytest.skip("this system does not tell a process's memory")
    assert 0.95 * weights < peak < 1.15 * weights
