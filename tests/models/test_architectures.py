"""The table of published architectures: each row loads a folder of transformers' and goes back."""

from pathlib import Path

import pytest
import torch
from helpers.model_oracles import loaded, randomised, returned, transformers

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


@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_a_folder_of_each_architecture_loads_as_its_class_and_goes_back(name, tmp_path):
    torch.manual_seed(0)
    cls = getattr(transformers(), name)
    kind = cls.config_class.model_type
    sizes = SIZES.get(kind, {**LIKE_BERT, "intermediate_size": 36, "num_key_value_heads": 2})
    sizes = {**sizes, **EXPERTS} if kind in ("mixtral", "qwen2_moe") else sizes
    model = randomised(cls(cls.config_class(**sizes)))
    ours = loaded(model, tmp_path / "theirs")
    assert type(ours) is model_class({"architectures": [name]})
    row = next(row for row in TABLE if row.name == name)
    if row.model_type is not None:
        assert row.model_type == kind and type(ours) is model_class({"model_type": kind})
    back = returned(ours, cls, tmp_path / "ours")
    for (weight, mine), held in zip(back.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, held), weight


def test_the_readme_shows_this_table():
    readme = Path(__file__).parents[2] / "README.md"
    assert table() in readme.read_text(encoding="utf-8")
    assert {row.where.partition(".")[0] for row in TABLE} == set(MODELS)
    assert not {row.name for row in TABLE} & set(REFUSED)
