"""GPT: GPT-2 of `transformers` on the same weights, the cache, and the checkpoints on the hub."""

import json

import numpy as np
import pytest
import torch
from helpers.model_oracles import (
    batch,
    close,
    loaded,
    parameter_count,
    randomised,
    returned,
    transformers,
)
from safetensors.torch import load_file, save_file

from llmbook.models import load
from llmbook.models.gpt import GPT, GPTConfig

CONFIGS = {
    "tied": {"n_embd": 24, "n_head": 4},
    "untied, odd sizes, eps": {
        "n_embd": 21,
        "n_head": 3,
        "n_inner": 37,
        "layer_norm_epsilon": 1e-3,
        "tie_word_embeddings": False,
    },
    "one head, relu": {"n_embd": 10, "n_head": 1, "activation_function": "relu", "vocab_size": 77},
    "exact gelu": {"n_embd": 16, "n_head": 8, "activation_function": "gelu", "n_layer": 1},
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def theirs(case="tied", **changes):
    sizes = {
        "vocab_size": 101,
        "n_layer": 3,
        "n_positions": 33,
        "eos_token_id": 0,
        "bos_token_id": 0,
        **CONFIGS[case],
        **changes,
    }
    library = transformers()
    return randomised(library.GPT2LMHeadModel(library.GPT2Config(**sizes)))


@pytest.mark.parametrize("case", CONFIGS)
@torch.no_grad()
def test_logits_and_hidden_states_equal_gpt2s_in_both_directions(case, tmp_path):
    model = theirs(case)
    ours = loaded(model, tmp_path / "theirs")
    assert ours.config.tied == ("untied" not in case) and not ours.training
    ids, mask = batch(model.config.vocab_size)
    close(ours(ids), model(ids).logits)
    close(ours.hidden(ids), model.transformer(ids).last_hidden_state)
    close(ours(ids, mask), model(ids, attention_mask=mask).logits, where=mask)

    back = returned(ours, type(model), tmp_path / "ours")
    assert torch.equal(back(ids).logits, model(ids).logits)
    assert back.config.eos_token_id == 0


@pytest.mark.parametrize(
    ("d_model", "n_layers", "n_heads", "count"),
    [
        (768, 12, 12, 124_439_808),
        (1024, 24, 16, 354_823_168),
        (1280, 36, 20, 774_030_080),
        (1600, 48, 25, 1_557_611_200),
    ],
)
def test_published_sizes_have_the_published_count(d_model, n_layers, n_heads, count):
    assert parameter_count(GPT, GPTConfig(50257, 1024, d_model, n_layers, n_heads)) == count


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_hubs_layout_loads(dtype, tmp_path):
    """No `transformer.` prefix, the causal mask as a buffer in each layer, no tied head."""
    model = theirs()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {k.removeprefix("transformer."): v.to(dtype) for k, v in tensors.items()}
    for i in range(3):
        tensors[f"h.{i}.attn.bias"] = torch.ones(1, 1, 33, 33, dtype=torch.uint8).tril()
        tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    assert "lm_head.weight" not in tensors
    save_file(tensors, tmp_path / "model.safetensors")
    ids, _ = batch(101)
    model = model.to(dtype).float()
    close(load(tmp_path)(ids), model(ids).logits)
    assert load(tmp_path, dtype="auto").tokens.weight.dtype == dtype

    tensors["lm_head.weight"] = tensors["wte.weight"].clone()  # some files repeat it
    save_file(tensors, tmp_path / "model.safetensors")
    close(load(tmp_path)(ids), model(ids).logits)
    tensors["lm_head.weight"][3, 3] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="lm_head.weight .*differs from the weight that it is"):
        load(tmp_path)


def test_loaded_tied_weights_are_one_parameter(tmp_path):
    ours = loaded(theirs(), tmp_path)
    assert ours.head.weight is ours.tokens.weight
    untied = loaded(theirs("untied, odd sizes, eps"), tmp_path / "untied")
    assert untied.head.weight is not untied.tokens.weight
    assert not torch.equal(untied.head.weight, untied.tokens.weight)


def test_dropout_only_while_training(tmp_path):
    ours = loaded(theirs(), tmp_path)
    ids, _ = batch(101)
    assert torch.equal(ours(ids), ours(ids))
    ours.train()
    assert ours.config.dropout == 0.1 and not torch.equal(ours(ids), ours(ids))


def test_each_dropout_comes_from_its_own_entry(tmp_path):
    config = {"embd_pdrop": 0.1, "attn_pdrop": 0.2, "resid_pdrop": 0.3}
    ours = loaded(theirs(**config), tmp_path / "theirs")
    block = ours.blocks[0]
    assert (ours.dropout.p, block.attention.dropout, block.dropout.p) == (0.1, 0.2, 0.3)
    again = returned(ours, transformers().GPT2LMHeadModel, tmp_path / "ours").config
    assert {key: getattr(again, key) for key in config} == config


def test_a_dropout_that_a_file_does_not_name_is_theirs(tmp_path):
    theirs().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config = {key: value for key, value in config.items() if not key.endswith("_pdrop")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours, own = load(tmp_path), transformers().GPT2Config()
    block = ours.blocks[0]
    found = (ours.dropout.p, block.attention.dropout, block.dropout.p)
    assert found == (own.embd_pdrop, own.attn_pdrop, own.resid_pdrop)


def test_what_we_do_not_compute_is_refused(tmp_path):
    for change in (
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"activation_function": "tanh"},
    ):
        theirs(**change).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="config.json: .*(must be)"):
            load(tmp_path)


def test_a_config_of_numpys_numbers_is_saved_as_any_other(tmp_path):
    sizes = np.array([7, 8, 6, 1, 2])
    GPT(GPTConfig(*sizes, dropout=np.float32(0.5), eos_id=np.int64(3))).save(tmp_path)
    config = load(tmp_path).config
    assert config == GPTConfig(7, 8, 6, 1, 2, dropout=0.5, eos_id=3)
