"""Mixtral and Qwen2-MoE: those of `transformers` on the same weights, both layouts on disk."""

import json
from dataclasses import replace

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

from llmbook.decoding import generate
from llmbook.models import load
from llmbook.models.mistral import MistralConfig
from llmbook.models.mixtral import Mixtral, MixtralConfig
from llmbook.models.qwen import WindowsConfig
from llmbook.models.qwen2_moe import Qwen2Moe, Qwen2MoeConfig

MIXTRAL = {
    "vocab_size": 101,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 36,
    "max_position_embeddings": 64,
    "num_local_experts": 4,
}
QWEN = {
    **{name: size for name, size in MIXTRAL.items() if name != "num_local_experts"},
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 28,
    "num_experts": 6,
    "num_experts_per_tok": 3,
}
CASES = {
    "plain": ("Mixtral", {}),
    "window": ("Mixtral", {"sliding_window": 5}),
    "odd sizes, one expert of seven": (
        "Mixtral",
        {
            "hidden_size": 21,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 10,
            "intermediate_size": 17,
            "num_local_experts": 7,
            "num_experts_per_tok": 1,
            "vocab_size": 77,
            "num_hidden_layers": 3,
            "tie_word_embeddings": True,
        },
    ),
    "shared expert": ("Qwen2Moe", {}),
    "shared expert, normalised": ("Qwen2Moe", {"norm_topk_prob": True, "qkv_bias": False}),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def theirs(case="plain", **changes):
    kind, own = CASES[case]
    library = transformers()
    sizes = {**(MIXTRAL if kind == "Mixtral" else QWEN), **own, **changes}
    config = getattr(library, f"{kind}Config")(**sizes)
    model = randomised(getattr(library, f"{kind}ForCausalLM")(config))
    model.set_experts_implementation("eager")
    return model


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_equal_theirs_eager_and_grouped_and_survive_the_way_back(case, tmp_path):
    model = theirs(case)
    ours = loaded(model, tmp_path / "theirs")
    ids, mask = batch(model.config.vocab_size, tokens=30, lengths=(30, 17, 3))
    close(ours(ids), model(ids).logits)
    close(ours(ids, mask), model(ids, attention_mask=mask).logits, where=mask)
    left = mask.flip(1)
    close(ours(ids, left), model(ids, attention_mask=left).logits, where=left)
    if model.config.hidden_size % 4 == 0:  # grouped_mm wants rows of a multiple of 16 bytes
        model.set_experts_implementation("grouped_mm")
        close(ours(ids), model(ids).logits)
    back = returned(ours, type(model), tmp_path / "ours")
    back.set_experts_implementation("eager")
    close(back(ids).logits, ours(ids))
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


@pytest.mark.parametrize("case", ["plain", "shared expert"])
@torch.no_grad()
def test_the_fused_layout_on_disk_is_read_and_written_too(case, tmp_path):
    model = theirs(case)
    model.save_pretrained(tmp_path / "fused", save_original_format=False)
    stored = load_file(tmp_path / "fused" / "model.safetensors")
    assert any(name.endswith("experts.gate_up_proj") for name in stored)
    ours = load(tmp_path / "fused")
    ids, _ = batch(101)
    close(ours(ids), model(ids).logits)
    ours.save(tmp_path / "ours")
    written = load_file(tmp_path / "ours" / "model.safetensors")
    assert written.keys() == stored.keys()
    assert all(torch.equal(written[name], stored[name]) for name in stored)


@torch.no_grad()
def test_the_split_layout_is_that_of_the_hub(tmp_path):
    ours = loaded(theirs(), tmp_path / "theirs")
    ours.save(tmp_path / "ours")
    held = load_file(tmp_path / "ours" / "model.safetensors")
    at = "model.layers.1.block_sparse_moe"
    assert held[f"{at}.gate.weight"].shape == (4, 24)
    experts = ours.blocks[1].ffn.experts
    for i in range(4):
        assert torch.equal(held[f"{at}.experts.{i}.w1.weight"], experts.in_weight[i, :36])
        assert torch.equal(held[f"{at}.experts.{i}.w3.weight"], experts.in_weight[i, 36:])
        assert torch.equal(held[f"{at}.experts.{i}.w2.weight"], experts.down_weight[i])


@pytest.mark.parametrize("case", ["window", "shared expert"])
@torch.no_grad()
def test_generation_with_a_cache_is_generation_without(case, tmp_path):
    model = theirs(case, eos_token_id=None)
    ours = loaded(model, tmp_path / "theirs")
    ids, _ = batch(101)
    ours_ids = generate(ours, ids, max_new_tokens=12)
    for end in range(9, 21):  # one token at a time, everything read anew
        again = ours(ours_ids[:, :end])[:, -1].argmax(-1)
        assert torch.equal(ours_ids[:, end], again)
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(ours_ids, model.generate(ids, **settings))


@torch.no_grad()
def test_the_window_hides_what_is_further_back(tmp_path):
    ours = loaded(theirs("window", num_hidden_layers=1), tmp_path / "theirs")
    ids, _ = batch(101, tokens=12)
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 101
    differs = (ours(ids) - ours(changed)).abs().amax((0, 2)) > 0
    assert differs.tolist() == [True] * 5 + [False] * 7


@pytest.mark.parametrize("case", ["plain", "window"])
def test_loss_with_balance_and_gradients_equal_theirs(case, tmp_path):
    model = theirs(case, output_router_logits=True, router_aux_loss_coef=0.3)
    ours = loaded(model, tmp_path / "theirs")
    ids, mask = batch(101)
    targets = ids.masked_fill(mask == 0, -100)
    expected = model(ids, attention_mask=mask, labels=targets).loss
    # Theirs shifts the labels itself; ours is told the next tokens.
    shifted = torch.cat([targets[:, 1:], torch.full((3, 1), -100)], 1)
    got = ours.loss(ids, shifted, mask)
    assert float(got.detach()) == pytest.approx(float(expected.detach()), abs=1e-4)
    expected.backward()
    got.backward()
    for ours_layer, their_layer in zip(ours.blocks, model.model.layers, strict=True):
        for mine, held in (
            (ours_layer.ffn.router.weight, their_layer.mlp.gate.weight),
            (ours_layer.ffn.experts.in_weight, their_layer.mlp.experts.gate_up_proj),
            (ours_layer.ffn.experts.down_weight, their_layer.mlp.experts.down_proj),
        ):
            scale = held.grad.abs().max()
            torch.testing.assert_close(mine.grad / scale, held.grad / scale, rtol=0, atol=1e-4)


def test_without_with_balance_the_loss_has_no_second_part(tmp_path):
    ours = loaded(theirs(), tmp_path / "theirs")
    ids, _ = batch(101)
    plain = torch.nn.functional.cross_entropy(
        ours(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    )
    shifted = torch.cat([ids[:, 1:], torch.full((3, 1), -100)], 1)
    assert float(ours.loss(ids, shifted).detach()) == pytest.approx(
        float(plain.detach()), abs=1e-5
    )


def test_mixtral_8x7b_has_exactly_the_published_parameters():
    assert parameter_count(Mixtral, MixtralConfig()) == 46_702_792_704
    with torch.device("meta"):
        assert Mixtral(MixtralConfig()).active_parameters == 12_879_925_248


def test_qwen_defaults_are_those_of_transformers():
    library = transformers()
    with torch.device("meta"):
        model = library.Qwen2MoeForCausalLM(library.Qwen2MoeConfig())
    count = sum(p.numel() for p in model.parameters())
    assert parameter_count(Qwen2Moe, Qwen2MoeConfig()) == count


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts_per_tok": 5}, "num_experts_per_tok must be at most num_local_experts"),
        ({"num_local_experts": 0}, "num_local_experts must be"),
        ({"sliding_window": 0}, "sliding_window must be"),
        ({"router_aux_loss_coef": -1.0}, "router_aux_loss_coef must be"),
        ({"router_jitter_noise": 0.1}, "router_jitter_noise must be 0.0"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(change, message, tmp_path):
    theirs().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_sizes_that_it_shares_with_llama_are_looked_at_and_ids_are_theirs():
    with pytest.raises(ValueError, match="n_layers must be a whole number of at least 1: got 0"):
        MixtralConfig(n_layers=0)
    ours, own = MixtralConfig(), transformers().MixtralConfig()
    assert (ours.bos_id, ours.eos_id) == (own.bos_token_id, own.eos_token_id)
    assert ours.with_balance is own.output_router_logits is False
    assert ours.balance == own.router_aux_loss_coef


def test_qwens_defaults_are_theirs_but_for_the_base_that_was_published():
    stored = json.loads(transformers().Qwen2MoeConfig().to_json_string(use_diff=False))
    assert Qwen2MoeConfig() == replace(Qwen2Moe.config_from(stored), rope_base=1e6)


def test_a_window_is_of_layers_that_there_are():
    assert WindowsConfig(n_layers=2, window=4, window_layers=(1,)).window_of(0) is None
    with pytest.raises(
        ValueError, match="window_layers must be a whole number from 0 to 1: got 2"
    ):
        WindowsConfig(n_layers=2, window=4, window_layers=(2,))


def test_a_window_of_one_token_is_a_window():
    assert MixtralConfig(window=1).window == MistralConfig(window=1).window == 1
    for config in (MixtralConfig, MistralConfig):
        with pytest.raises(ValueError, match="window must be a whole number of at least 1: got 0"):
            config(window=0)


@torch.no_grad()
def test_a_tied_head_may_be_stored_besides(tmp_path):
    model = theirs("odd sizes, one expert of seven")
    model.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    held["lm_head.weight"] = held["model.embed_tokens.weight"].clone()
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    ids, _ = batch(77)
    close(load(tmp_path)(ids), model(ids).logits)


def test_a_missing_expert_is_told(tmp_path):
    theirs().save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    held.pop("model.layers.0.block_sparse_moe.experts.2.w3.weight")
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks.*experts.2.w3"):
        load(tmp_path)
