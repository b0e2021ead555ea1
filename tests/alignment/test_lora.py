"""Low-rank adapters: what they compute, what rests, and peft's files."""

import json
import math

import pytest
import torch

from llmbook.alignment import sft
from llmbook.alignment.chat import Encoded
from llmbook.alignment.lora import LoRA, LoRAConfig, fingerprint, load_adapter, matrices
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.llama import Llama, LlamaConfig
from llmbook.training import TrainConfig, train

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def gpt(seed=0):
    torch.manual_seed(seed)
    return GPT(GPTConfig(vocab_size=30, max_len=16, d_model=12, n_layers=2, n_heads=2)).eval()


def llama(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=30, d_model=12, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=20)
    return Llama(config).eval()


def stirred(model, config=None):
    """An adapter whose B is not zero."""
    lora = LoRA(model, config or LoRAConfig(rank=3, alpha=6.0, targets=("in_proj", "out_proj")))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for B in lora.B.values():
            B.copy_(torch.randn(B.shape, generator=draw))
    return lora


@pytest.mark.parametrize("make", [gpt, llama])
def test_an_adapter_begins_as_the_base_and_leaves_its_weights_alone(make):
    model = make()
    before = fingerprint(model)
    lora = LoRA(model, LoRAConfig(rank=3, targets=("in_proj", "out_proj")))
    torch.testing.assert_close(lora(IDS), model(IDS))
    lora.loss(IDS[:, :-1], IDS[:, 1:]).backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(B.grad.abs().sum() > 0 for B in lora.B.values())
    assert all(A.grad.abs().sum() == 0 for A in lora.A.values()), "B is zero, so A has no gradient"
    assert fingerprint(model) == before


@pytest.mark.parametrize("stabilised, scale", [(False, 6 / 3), (True, 6 / math.sqrt(3))])
def test_the_change_is_the_scaled_product(stabilised, scale):
    model = gpt()
    lora = stirred(model, LoRAConfig(3, 6.0, ("ffn.up",), stabilised))
    assert lora.names == ["blocks.0.ffn.up.weight", "blocks.1.ffn.up.weight"]
    W, x = model.blocks[1].ffn.up.weight, torch.randn(4, 12)
    A, B = lora.A["blocks/1/ffn/up/weight"], lora.B["blocks/1/ffn/up/weight"]
    two_steps = x @ W.T + scale * ((x @ A.T) @ B.T)  # as it is usually written
    changed = W + lora.change("blocks.1.ffn.up.weight")
    torch.testing.assert_close(x @ changed.T, two_steps, atol=1e-5, rtol=1e-5)
    assert torch.linalg.matrix_rank(lora.change("blocks.1.ffn.up.weight")) == 3


@pytest.mark.parametrize("make", [gpt, llama])
def test_merged_equals_unmerged_and_is_a_plain_model(make):
    lora = stirred(make())
    merged = lora.merged()
    torch.testing.assert_close(merged(IDS), lora(IDS), atol=1e-5, rtol=0)
    assert not torch.allclose(merged(IDS), lora.base(IDS), atol=1e-2)
    assert type(merged) is type(lora.base) and all(p.requires_grad for p in merged.parameters())


def test_gradients_are_those_of_the_merged_weight_by_the_chain_rule():
    lora = stirred(gpt())
    name = "blocks.0.attention.in_proj_weight"
    lora.loss(IDS[:, :-1], IDS[:, 1:]).backward()
    merged = lora.merged()
    merged.loss(IDS[:, :-1], IDS[:, 1:]).backward()
    G = dict(merged.named_parameters())[name].grad
    key = name.replace(".", "/")
    A, B, s = lora.A[key], lora.B[key], lora.lora.scale
    torch.testing.assert_close(A.grad, s * B.T @ G, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(B.grad, s * G @ A.T, atol=1e-5, rtol=1e-4)


def test_the_training_loop_trains_the_adapter_alone():
    model = gpt()
    before = fingerprint(model)
    lora = LoRA(model, LoRAConfig(rank=4, alpha=8.0))
    one = [Encoded([1, 2, 3, 4, 5], [False, False, True, True, True])] * 4
    config = TrainConfig(steps=30, batch_size=4, lr=1e-2, warmup=0)
    history = train(lora, lambda step: sft.collate(one), config, loss=sft.sft_loss)
    assert history.losses[-1] < history.losses[0] - 0.1  # embeddings rest, and are small
    assert fingerprint(model) == before
    assert lora.n_trained == sum(
        4 * sum(dict(model.named_parameters())[n].shape) for n in lora.names
    )


# --- files


@pytest.mark.parametrize("make", [gpt, llama])
def test_an_adapter_comes_back_from_its_folder(make, tmp_path):
    lora = stirred(make())
    lora.save(tmp_path, base="small")
    again = load_adapter(make(), tmp_path)
    torch.testing.assert_close(again(IDS), lora(IDS))
    assert again.lora.scale == lora.lora.scale and again.names == lora.names


def test_the_files_are_as_peft_writes_them(tmp_path):
    """Names and shapes as recorded from peft 0.21.2 on GPT-2."""
    from safetensors.torch import load_file

    stirred(gpt(), LoRAConfig(3, 6.0, ("attention.in_proj",))).save(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        f"base_model.model.transformer.h.{i}.attn.c_attn.lora_{half}.weight": shape
        for i in range(2)
        for half, shape in (("A", (3, 12)), ("B", (36, 3)))
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["fan_in_fan_out"] is True
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (3, 6.0, False)


@pytest.mark.slow
@pytest.mark.parametrize("make", [gpt, llama])
@pytest.mark.parametrize("stabilised", [False, True])
def test_peft_reads_ours_and_we_read_theirs(make, stabilised, tmp_path):
    peft = pytest.importorskip("peft", reason="pip install llmbook[oracles]")
    transformers = pytest.importorskip("transformers")
    lora = stirred(make(), LoRAConfig(3, 6.0, ("in_proj", "out_proj"), stabilised))
    lora.base.save(tmp_path / "base")
    lora.save(tmp_path / "ours", base=str(tmp_path / "base"))
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    torch.testing.assert_close(theirs(IDS).logits, lora(IDS), atol=1e-5, rtol=0)

    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    targets = ["c_attn"] if make is gpt else ["q_proj", "v_proj"]
    config = peft.LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=targets,
        use_rslora=stabilised,
        fan_in_fan_out=make is gpt,
    )
    theirs = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "lora_B" in name:
                p.normal_()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_adapter(make(), tmp_path / "theirs")
    torch.testing.assert_close(ours(IDS), theirs(IDS).logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.merged()(IDS), theirs(IDS).logits, atol=1e-5, rtol=0)


# --- what is refused


@pytest.mark.parametrize("target", ["q_proj", "tokens", "head", "norm1", "j"])
def test_a_target_that_names_no_matrix_is_refused_with_those_that_there_are(target):
    with pytest.raises(ValueError, match=f"got '{target}', which names none; it has attention.in"):
        LoRA(gpt(), LoRAConfig(targets=("ffn.up", target)))


def test_every_matrix_of_the_blocks_is_found_once():
    found = matrices(gpt(), ("in_proj", "attention.in_proj", "down"))
    assert found == [
        f"blocks.{i}.{n}" for i in (0, 1) for n in ("attention.in_proj_weight", "ffn.down.weight")
    ]


def test_an_adapter_of_another_base_is_refused(tmp_path):
    stirred(gpt()).save(tmp_path)
    with pytest.raises(ValueError, match="another base: their weights differ"):
        load_adapter(gpt(seed=1), tmp_path)
    with pytest.raises(ValueError, match="another base"):
        load_adapter(llama(), tmp_path)


def test_an_adapter_without_our_mark_is_held_to_names_and_shapes(tmp_path):
    from safetensors.torch import load_file, save_file

    stirred(gpt()).save(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    plain = load_file(weights)
    save_file(plain, weights)  # as peft has it: no mark of the base
    assert load_adapter(gpt(seed=1), tmp_path).names
    wide = GPT(GPTConfig(vocab_size=30, max_len=16, d_model=16, n_layers=2, n_heads=2))
    with pytest.raises(ValueError, match=r"another base: .*c_attn is \(48, 16\) here, \(36, 12\)"):
        load_adapter(wide, tmp_path)
    with pytest.raises(ValueError, match="another base: the model has no base_model"):
        load_adapter(llama(), tmp_path)
    save_file({k: v for k, v in plain.items() if "h.1.attn.c_attn.lora_A" not in k}, weights)
    with pytest.raises(ValueError, match="damaged: it has one half"):
        load_adapter(gpt(), tmp_path)


@pytest.mark.parametrize(
    "key, value", [("peft_type", "IA3"), ("use_dora", True), ("rank_pattern", {"c_attn": 2})]
)
def test_what_we_do_not_compute_is_refused(tmp_path, key, value):
    stirred(gpt()).save(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match=key):
        load_adapter(gpt(), tmp_path)


@pytest.mark.parametrize(
    "fields, error, words",
    [
        (dict(rank=0), ValueError, "rank must be"),
        (dict(alpha=0.0), ValueError, "alpha must be"),
        (dict(targets="in_proj"), ValueError, "targets must be names"),
        (dict(targets=()), ValueError, "targets must be names"),
        (dict(stabilised=1), TypeError, "stabilised must be"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(fields, error, words):
    with pytest.raises(error, match=words):
        LoRAConfig(**fields)


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold adapter_config.json"):
        load_adapter(gpt(), tmp_path)
