"""The decoding race: it runs, records, and shows no speed for a wrong text."""

import json
import re

import pytest
import torch

from llmbook import native
from llmbook.bench import decoding, main
from llmbook.bench import decoding_memory as memory
from llmbook.bench import decoding_peers as peers
from llmbook.bench.decoding import SIZES, bytes_read, compared, dequantized, less_likely
from llmbook.decoding import generate, step
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.llama import Llama, LlamaConfig
from llmbook.quantization import quantize

TINY = ["decoding", "--quick", "--device", "cpu", "--threads", "1"]
pytest.importorskip("transformers")


def test_it_runs_and_records(tmp_path, capsys):
    file = tmp_path / "race.json"
    assert main([*TINY, "--batches", "1", "3", "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    found = {}
    for outcome in record["outcomes"]:
        found.setdefault(outcome["case"], []).append((outcome["ours"], outcome["peer"]))
        assert max(outcome["errors"].values()) < 1e-4
    assert list(found) == [f"{m}, {b} × 16 + 6" for m in ("tiny", "tiny llama") for b in (1, 3)]
    pairs = [("step", "transformers")]
    if native.compiler():
        pairs += [("compiled", "transformers"), ("compiled", "step")]
    assert found["tiny llama, 3 × 16 + 6"] == pairs
    assert found["tiny, 1 × 16 + 6"][: len(pairs) + 1] == [*pairs, ("int8", "float32")]
    printed = capsys.readouterr().out
    assert "WRONG" not in printed and "int8: " in printed
    assert re.search(r"tiny llama, 1 × 16 \+ 6 +float32: \d+% of [\d.]+ GB/s read", printed)
    assert peers.installed() or peers.NOT_INSTALLED in printed


def test_no_speed_is_shown_for_a_wrong_step(monkeypatch, capsys):
    right = step._product
    monkeypatch.setattr(step, "_product", lambda *how: lambda x: right(*how)(x) * 1.01)
    assert main([*TINY, "--sizes", "tiny"]) == 1
    printed = capsys.readouterr().out
    assert "WRONG" in printed and "step is wrong" in printed and "warm-up" not in printed


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

    assert max(compared(model, Theirs(), text, text, 3).values()) < 1e-5
    assert compared(model, Theirs(), other, text, 3)["ours"] == float("inf")
    assert compared(model, Theirs(), text, other, 3)["transformers"] == float("inf")


def test_a_step_s_bytes_are_all_weights_but_the_looked_up():
    model = GPT(GPTConfig(31, 30, 16, 2, 2))
    held = 4 * sum(p.numel() for p in model.parameters())
    assert bytes_read(model) == held - 4 * 30 * 16  # tied: the head reads the table
    model = GPT(GPTConfig(31, 30, 16, 2, 2, tied=False))
    held = 4 * sum(p.numel() for p in model.parameters())
    assert bytes_read(model) == held - 4 * (30 + 31) * 16

    llama = Llama(LlamaConfig(31, 30, 16, 2, 2, d_ff=40))  # its places are turns, no table
    assert bytes_read(llama) == 4 * sum(p.numel() for p in llama.parameters()) - 4 * 31 * 16


def test_the_billion_is_one():
    with torch.device("meta"):
        model = decoding.our_model(SIZES["1b"], 144)
    assert isinstance(model, Llama) and 1.0e9 < model.n_parameters < 1.2e9


@pytest.mark.parametrize("tied", [True, False])
def test_what_8_bits_are_held_to_is_the_rounded_model(tied):
    torch.manual_seed(0)
    model = quantize(GPT(GPTConfig(31, 30, 16, 2, 2, tied=tied)).eval(), 8)
    ids = torch.randint(31, (2, 9))
    torch.testing.assert_close(dequantized(model)(ids), model(ids).double(), atol=1e-5, rtol=1e-5)


def test_the_likelier_text_is_told():
    torch.manual_seed(0)
    model = GPT(GPTConfig(31, 30, 16, 2, 2)).eval()
    for p in model.parameters():
        p.data.mul_(4)
    text = generate(model, torch.tensor([[3, 4, 5]]), max_new_tokens=5)
    other = text.clone()
    other[0, 4] = (other[0, 4] + 1) % 31
    assert less_likely(model, text, other, 3) > 0 == less_likely(model, other, text, 3)


@pytest.mark.slow
def test_the_peak_of_memory_is_near_weights_and_cache():
    """At GPT-2's 124 million: no copy of the weights beside them."""
    assert 1.0 < memory.peak(SIZES["gpt2"], 16, 32) < 1.2
    assert memory.build_seconds() > 0.1 or native.compiler() is None
