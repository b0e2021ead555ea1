"""Every model in float16, bfloat16 and under autocast, against float64, with large weights.

Deep published models add up large numbers: streams in the thousands, T5's beyond 65,504, where
float16 ends. Judged as transformers' own model in the same precision: at most twice its error.
"""

import pytest
import torch
from helpers.model_oracles import randomised, transformers

from llmbook.models import load

IDS = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(0))
TARGETS = IDS[:, :5]
LLAMA = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
BART = {"vocab_size": 50, "d_model": 32, "init_std": 0.3, "max_position_embeddings": 40}
BART |= {f"{stack}_layers": 2 for stack in ("encoder", "decoder")}
BART |= {f"{stack}_attention_heads": 4 for stack in ("encoder", "decoder")}
BART |= {f"{stack}_ffn_dim": 48 for stack in ("encoder", "decoder")}
T5 = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
T5 |= {"decoder_start_token_id": 0, "pad_token_id": 0}
# name: (class, config, what a weight's name holds → its standard deviation)
MODELS = {
    "GPT-2": (
        "GPT2LMHeadModel",
        {"vocab_size": 50, "n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 33},
        {"mlp.c_proj.weight": 15.0, "mlp.c_fc.weight": 4.0},
    ),
    "Llama": (
        "LlamaForCausalLM",
        {**LLAMA, "num_key_value_heads": 2},
        {"down_proj": 20.0, "up_proj": 4.0, "gate_proj": 1.0},
    ),
    "BERT": ("BertForMaskedLM", LLAMA, {"intermediate": 4.0, "output.dense.weight": 8.0}),
    "RoBERTa": ("RobertaForMaskedLM", LLAMA, {"intermediate": 4.0, "output.dense.weight": 8.0}),
    "BART": ("BartForConditionalGeneration", BART, {"fc1.weight": 4.0, "fc2.weight": 8.0}),
    "T5 1.0": ("T5ForConditionalGeneration", T5, {".wi.": 30.0, ".wo.": 60.0}),
    "T5 1.1": (
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        {".wi_": 9.0, ".wo.": 18.0},
    ),
}


@pytest.fixture
def theirs(name, tmp_path):
    torch.manual_seed(0)
    library, (architecture, sizes, large) = transformers(), MODELS[name]
    cls = getattr(library, architecture)
    model = randomised(cls(cls.config_class(**sizes)))
    with torch.no_grad():
        for weight, tensor in model.named_parameters():
            for part, std in large.items():
                if part in weight:
                    tensor.normal_(std=std)
            if "norm" in weight.lower() or "ln_" in weight:
                tensor.abs_().add_(0.5)
    model.save_pretrained(tmp_path)
    return model


def ours_of(model):
    with torch.no_grad():
        return model(IDS, TARGETS) if model.reads_source else model(IDS)


def theirs_of(model):
    inputs = {"decoder_input_ids": TARGETS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=IDS, **inputs).logits


def error(found, truth):
    return (found.double() - truth).abs().max() / truth.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_the_stream_is_as_large_as_a_deep_models(name, theirs, tmp_path):
    """Otherwise the tests below would say nothing."""
    model, largest = load(tmp_path), []
    blocks = [*getattr(model, "blocks", []), *getattr(model, "encoder", [])]
    for block in blocks or model.body.layers:
        inner = getattr(block, "ffn", None) or block.transform.sublayer
        inner.register_forward_hook(lambda m, i, out: largest.append(out.abs().max().item()))
    ours_of(model)
    assert max(largest) > (65_504 if name.startswith("T5") else 500)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_at_most_twice_as_far_from_float64_as_theirs(
    name, dtype, autocast, theirs, tmp_path
):
    truth = ours_of(load(tmp_path, dtype="float64"))
    if autocast:
        with torch.autocast("cpu", dtype=dtype):
            found, other = ours_of(load(tmp_path)), theirs_of(theirs)
    else:
        found = ours_of(load(tmp_path, dtype=dtype))
        other = theirs_of(type(theirs).from_pretrained(tmp_path, dtype=dtype).eval())
    assert found.isfinite().all()
    bound = error(other, truth) if other.isfinite().all() else torch.inf
    assert error(found, truth) <= max(2 * bound, torch.finfo(dtype).eps) and error(
        found, truth
    ) < (0.05 if dtype == torch.float16 else 0.3)


@pytest.mark.parametrize("name", MODELS)
def test_float32_is_float64s(name, theirs, tmp_path):
    truth = ours_of(load(tmp_path, dtype="float64"))
    assert error(ours_of(load(tmp_path)), truth) < 1e-5
