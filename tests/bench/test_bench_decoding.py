"""The decoding race: it runs, records, and shows no speed for a wrong text."""

import json

import pytest
import torch

from llmbook.bench import main
from llmbook.bench.decoding import errors
from llmbook.decoding import generate, step
from llmbook.models.gpt import GPT, GPTConfig

TINY = ["decoding", "--quick", "--device", "cpu", "--threads", "1"]
pytest.importorskip("transformers")


def test_it_runs_and_records(tmp_path, capsys):
    file = tmp_path / "race.json"
    assert main([*TINY, "--batches", "1", "3", "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    cases = [outcome["case"] for outcome in record["outcomes"]]
    assert cases == [f"{m}, {b} × 16 + 6" for m in ("tiny", "tiny llama") for b in (1, 3)]
    assert all(outcome["peer"] == "transformers" for outcome in record["outcomes"])
    assert all(max(outcome["errors"].values()) < 1e-4 for outcome in record["outcomes"])
    assert "WRONG" not in capsys.readouterr().out


def test_no_speed_is_shown_for_a_wrong_step(monkeypatch, capsys):
    right = step._product
    monkeypatch.setattr(step, "_product", lambda *how: lambda x: right(*how)(x) * 1.01)
    assert main([*TINY, "--sizes", "tiny"]) == 1
    printed = capsys.readouterr().out
    assert "WRONG" in printed and "ours is wrong" in printed and "warm-up" not in printed


def test_a_text_that_leaves_the_likeliest_is_wrong():
    torch.manual_seed(0)
    model = GPT(GPTConfig(31, 30, 16, 2, 2)).eval()
    ids = torch.tensor([[3, 4, 5]])
    text = generate(model, ids, max_new_tokens=5)
    other = text.clone()
    other[0, 5] = (other[0, 5] + 1) % 31

    class Theirs:
        def __call__(self, ids):
            return type("Out", (), {"logits": model(ids)})

    assert max(errors(model, Theirs(), text, text, 3).values()) < 1e-5
    assert errors(model, Theirs(), other, text, 3)["ours"] == float("inf")
    assert errors(model, Theirs(), text, other, 3)["transformers"] == float("inf")
