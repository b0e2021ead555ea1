"""Llama: that of `transformers` on the same weights, rotary scalings, the cache, the hub."""

import json

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
from llmbook.models.llama import Llama, LlamaConfig
from llmbook.positions import Llama3Scaling

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS = {
    "grouped queries": {"hidden_size": 24, "num_key_value_heads": 2},
    "tied, biases, one key head, own head_dim, eps": {
        "hidden_size": 21,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 10,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "rms_norm_eps": 1e-2,
    },
    "llama3 scaling": {"hidden_size": 64, "rope_parameters": LLAMA3},
    "linear scaling, theta, gelu": {
        "hidden_size": 32,
        "hidden_act": "gelu",
        "vocab_size": 77,
        "num_hidden_layers": 1,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 777.0, "factor": 2.5},
    },
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def theirs(case="grouped queries", **changes):
    sizes = {
        "vocab_size": 101,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "max_position_embeddings": 64,
        **CONFIGS[case],
        **changes,
    }
    library = transformers()
    return randomised(library.LlamaForCausalLM(library.LlamaConfig(**sizes)))


@pytest.mark.parametrize("case", CONFIGS)
@torch.no_grad()
def test_logits_and_hidden_states_equal_theirs_in_both_directions(case, tmp_path):
    model = theirs(case)
    ours = loaded(model, tmp_path / "theirs")
    assert ours.config.tied == ("tied" in case)
    ids, mask = batch(model.config.vocab_size, tokens=40, lengths=(40, 17, 3))
    close(ours(ids), model(ids).logits)
    close(ours.hidden(ids), model.model(ids).last_hidden_state)
    close(ours(ids, mask), model(ids, attention_mask=mask).logits, where=mask)
    left = mask.flip(1)
    positions = (left.cumsum(-1) - 1).clamp(min=0)
    expected = model(ids, attention_mask=left, position_ids=positions).logits
    close(ours(ids, left), expected, where=left)

    back = returned(ours, type(model), tmp_path / "ours")
    assert torch.equal(back(ids).logits, model(ids).logits)
    assert load(tmp_path / "ours").config == ours.config


def test_published_sizes_have_the_published_number_of_parameters():
    assert parameter_count(Llama, LlamaConfig()) == 6_738_415_616
    llama3 = LlamaConfig(128256, d_ff=14336, n_kv_heads=8, rope_base=500_000.0)
    assert parameter_count(Llama, llama3) == 8_030_261_248


def test_llama3s_scaling_leaves_fast_pairs_alone_and_slows_slow_ones():
    plain = LlamaConfig(rope_base=500_000.0).rotary().frequencies
    slowed = LlamaConfig(rope_base=500_000.0, rope_scaling=Llama3Scaling()).rotary().frequencies
    wavelength = 2 * torch.pi / plain
    fast, slow = wavelength < 8192 / 4, wavelength > 8192
    assert torch.equal(slowed[fast], plain[fast]) and torch.equal(slowed[slow], plain[slow] / 8)
    between = slowed[~fast & ~slow] / plain[~fast & ~slow]
    assert len(between) > 3 and ((between > 1 / 8) & (between < 1)).all()
    with pytest.raises(ValueError, match="low < high: got factor=8.0, low=4.0, high=4.0"):
        Llama3Scaling(low=4.0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_hubs_layout_loads(dtype, tmp_path):
    """Shards with an index, old `inv_freq` buffers, half precision, the old rope entries."""
    model = theirs("llama3 scaling")
    model.to(dtype).save_pretrained(tmp_path, max_shard_size="20KB")
    model = type(model).from_pretrained(tmp_path, dtype=torch.float32)  # exact frequencies
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    assert len(set(content["weight_map"].values())) > 2
    for i in range(2):
        name = f"model.layers.{i}.self_attn.rotary_emb.inv_freq"
        shard = content["weight_map"][f"model.layers.{i}.self_attn.q_proj.weight"]
        save_file({**load_file(tmp_path / shard), name: torch.ones(8)}, tmp_path / shard)
        content["weight_map"][name] = shard
    index.write_text(json.dumps(content))
    config = json.loads((tmp_path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    config |= {"eos_token_id": [2, 3], "pretraining_tp": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))

    ids, _ = batch(101, tokens=40, lengths=(40, 40, 40))
    ours = load(tmp_path)
    close(ours(ids), model(ids).logits)
    assert ours.config.eos_id == (2, 3) and ours.config.rope_base == 500.0
    assert load(tmp_path, dtype="auto").norm.weight.dtype == dtype

    content["weight_map"]["model.extra.weight"] = shard
    save_file(
        {**load_file(tmp_path / shard), "model.extra.weight": torch.ones(8)}, tmp_path / shard
    )
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is no Llama: it holds the unknown model.extra.weight"):
        load(tmp_path)


def test_a_described_model_keeps_its_rotary_frequencies():
    with torch.device("meta"):
        model = Llama(LlamaConfig(101, 33, 24, 1, 4, d_ff=20))
    assert model.blocks[0].attention.rotate.frequencies.device.type == "cpu"


@torch.no_grad()
def test_a_tied_head_may_be_stored_besides_and_must_be_what_it_is_tied_to(tmp_path):
    model = theirs("tied, biases, one key head, own head_dim, eps")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    ids, _ = batch(101)
    close(load(tmp_path)(ids), model(ids).logits)
    tensors["lm_head.weight"][3, 3] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="lm_head.weight .*differs from the weight that it is"):
        load(tmp_path)


def test_bad_input_is_refused_with_what_it_was(tmp_path):
    with pytest.raises(ValueError, match="n_kv_heads must divide n_heads: got n_heads=4, n_kv_he"):
        LlamaConfig(d_model=24, n_heads=4, n_kv_heads=3)
    with pytest.raises(TypeError, match="n_kv_heads must be a whole number .*: got 2.0"):
        LlamaConfig(d_model=24, n_heads=4, n_kv_heads=2.0)
    model = Llama(LlamaConfig(101, 33, 24, 1, 4, d_ff=20))
    with pytest.raises(TypeError, match="input_ids must be int64"):
        model(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"attention_mask must be .*=1, .*=5\): got .*\(1, 4\)"):
        model(torch.zeros(1, 5, dtype=torch.long), torch.ones(1, 4))
    theirs().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="rope_type must be 'default', 'linear' or 'llama3'"):
        load(tmp_path)
