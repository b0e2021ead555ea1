"""The table of published architectures: each row loads a folder of transformers' and goes back."""

from pathlib import Path

import pytest
import torch
from helpers.model_oracles import loaded, randomised, returned, transformers

from llmbook.decoding.generate import generate
from llmbook.models import load
from llmbook.models.pretrained.architectures import MODELS, REFUSED, TABLE, model_class, table

LIKE_BERT = {"vocab_size": 41, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
T5 = {"vocab_size": 41, "d_model": 24, "d_kv": 6, "d_ff": 37, "num_layers": 1, "num_heads": 4}
BART = {"vocab_size": 41, "d_model": 24, "max_position_embeddings": 64}
BART |= {f"{stack}_layers": 1 for stack in ("encoder", "decoder")}
BART |= {f"{stack}_attention_heads": 4 for stack in ("encoder", "decoder")}
BART |= {f"{stack}_ffn_dim": 37 for stack in ("encoder", "decoder")}
SIZES = {
    "gpt2": {"vocab_size": 41, "n_embd": 24, "n_head": 4, "n_layer": 1, "n_positions": 33},
    "t5": {**T5, "decoder_start_token_id": 0},
    "mt5": {**T5, "decoder_start_token_id": 0},
    "bart": BART,
    "distilbert": {"vocab_size": 41, "dim": 24, "n_heads": 4, "n_layers": 1, "hidden_dim": 37},
    "mamba": {"vocab_size": 41, "hidden_size": 24, "num_hidden_layers": 1},
    "mamba2": {
        "vocab_size": 41,
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_heads": 8,
        "head_dim": 6,
        "pad_token_id": 1,
    },
}
EXPERTS = {"moe_intermediate_size": 20, "shared_expert_intermediate_size": 28}
EXPERTS |= {"num_experts": 4, "num_experts_per_tok": 2, "num_local_experts": 4}
PUBLISHED = [row.name for row in TABLE if row.name != "Transformer"]


WRITERS = [
    n for n in PUBLISHED if n.endswith(("ForCausalLM", "LMHeadModel", "ConditionalGeneration"))
]


@pytest.fixture
def theirs(name):
    """A small model of the library's, with random weights."""
    torch.manual_seed(0)
    cls = getattr(transformers(), name)
    kind = cls.config_class.model_type
    sizes = SIZES.get(kind, {**LIKE_BERT, "intermediate_size": 36, "num_key_value_heads": 2})
    sizes = {**sizes, **EXPERTS} if kind in ("mixtral", "qwen2_moe") else sizes
    return randomised(cls(cls.config_class(**sizes)))


def same_weights(model, expected):
    for (name, got), want in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(got, want.to(got.dtype)), name


@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_a_folder_of_each_architecture_loads_as_its_class_and_goes_back(name, theirs, tmp_path):
    kind = theirs.config.model_type
    ours = loaded(theirs, tmp_path / "theirs")
    assert type(ours) is model_class({"architectures": [name]})
    row = next(row for row in TABLE if row.name == name)
    if row.model_type is not None:
        assert row.model_type == kind and type(ours) is model_class({"model_type": kind})
    same_weights(returned(ours, type(theirs), tmp_path / "ours"), theirs)


@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_each_loads_as_a_hub_has_it_in_half_precision_and_shards(name, theirs, tmp_path):
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "theirs", max_shard_size="12KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
    ours = load(tmp_path / "theirs", dtype="auto")
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    same_weights(returned(ours, type(theirs), tmp_path / "half"), theirs)
    ours = load(tmp_path / "theirs")
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    same_weights(returned(ours, type(theirs), tmp_path / "whole"), theirs)


@pytest.mark.parametrize("name", WRITERS)
@torch.no_grad()
def test_each_that_writes_writes_the_library_s_greedy_text(name, theirs, tmp_path):
    ours = loaded(theirs, tmp_path / "theirs")
    ids = torch.tensor([[5, 3, 8, 12, 9], [4, 2, 7, 6, 11]])
    settings = {"output_logits": True, "return_dict_in_generate": True, "max_new_tokens": 12}
    expected = theirs.generate(ids, do_sample=False, **settings)
    got = generate(ours, ids, max_new_tokens=12)
    assert got.shape == expected.sequences.shape
    start = 1 if ours.reads_source else ids.shape[1]
    compared = 0
    for row in range(len(ids)):
        for step, logits in enumerate(expected.logits):
            best, second = logits[row].topk(2).values
            if best - second <= 1e-3:
                break  # a tie: from here on both may be right
            at = start + step
            assert got[row, at] == expected.sequences[row, at], (row, step)
            compared += 1
    assert compared >= 6


def test_the_readme_shows_this_table():
    readme = Path(__file__).parents[2] / "README.md"
    assert table() in readme.read_text(encoding="utf-8")
    assert {row.where.partition(".")[0] for row in TABLE} == set(MODELS)
    assert not {row.name for row in TABLE} & set(REFUSED)
