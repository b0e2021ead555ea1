"""The alignment race: what both sides get, the parts of an iteration, the gate of the rollouts."""

import math

import pytest
import torch

from llmbook.bench import alignment, main, trl_peer
from llmbook.bench.memory import is_told
from llmbook.bench.race import WrongResultError
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer

TINY = trl_peer.Size(4, 2, 3, 2)


class Options:
    device, seed, repeats, warmup = torch.device("cpu"), 0, 1, 1


def test_prompts_are_of_one_length_so_that_nothing_is_padded():
    tokenizer = BPETokenizer.load(SHIPPED / "small")
    texts = trl_peer.questions(5, tokenizer)
    assert len(set(texts)) == 5
    assert {len(tokenizer.encode(text)) for text in texts} == {12}


def test_the_reward_is_the_share_of_vowels():
    assert trl_peer.share_of_vowels(["aeb", "", "xyz"], prompts=None) == [2 / 3, 0, 0]


def test_an_iteration_learns_from_answers_of_the_forced_length_and_tells_its_parts():
    model, tokenizer = alignment.subject("cpu")
    before = model.head.weight.clone()
    iteration = alignment.Iteration(model, tokenizer, TINY)
    iteration()
    rollouts = iteration.grpo.rollouts
    assert rollouts.lengths.tolist() == [3] * 4 and not rollouts.ended.any()
    assert not torch.equal(model.head.weight, before)
    parts = iteration.parts()
    assert set(parts) == {"rollout", "reward", "update"} and min(parts.values()) > 0


def test_rollouts_are_raced_only_while_their_log_probabilities_are_right(monkeypatch):
    outcome = alignment._rollouts("case", TINY, Options)
    assert outcome.errors["rollouts"] < 1e-4 and math.isfinite(outcome.speed.median)
    real = alignment.reference_log_probs
    monkeypatch.setattr(alignment, "reference_log_probs", lambda *a: real(*a) + 0.01)
    with pytest.raises(WrongResultError, match="rollouts is wrong"):
        alignment._rollouts("case", TINY, Options)


def test_without_trl_the_race_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trl", None)
    with pytest.raises(ValueError, match="pip install"):
        trl_peer.trl_and_datasets()


def test_a_dpo_update_reads_the_reference_and_learns():
    model, tokenizer = alignment.subject("cpu")
    reference, _ = alignment.subject("cpu")
    rows = trl_peer.preferences(2)
    columns = zip(*(trl_peer.preference(tokenizer, row) for row in rows), strict=True)
    batch = alignment.preference_batch(*columns)
    before = model.head.weight.clone()
    alignment.DPOUpdate(model, reference, batch, 2)()
    assert not torch.equal(model.head.weight, before)
    assert torch.equal(reference.head.weight, before)


@pytest.mark.skipif(not is_told(), reason="this system tells no peak of a process's memory")
def test_peaks_of_memory_are_told_for_a_model_of_more_ids_than_the_tokenizer_has(monkeypatch):
    def small():
        shape = {"max_len": 128, "d_model": 16, "n_layers": 1, "n_heads": 2}
        return GPT(GPTConfig(vocab_size=5000, **shape)), BPETokenizer.load(SHIPPED / "small")

    monkeypatch.setattr(alignment, "_gpt2", small)
    assert alignment.peak_of_grpo("ours") >= 0 and alignment.peak_of_dpo("ours") >= 0


@pytest.mark.slow
def test_the_race_against_trl_runs(capsys):
    pytest.importorskip("trl", reason="pip install llmbook[oracles]")
    assert main(["alignment", "--quick", "--device", "cpu", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "GRPO iteration" in printed and "DPO update" in printed and "rollout" in printed
