#!/usr/bin/env bash
# Rounded to int8, a mixture of experts keeps its experts in float: the file hardly shrinks.
#
# Version:   torchao 0.18.0, transformers 5.23.0, torch 2.13.0 (CPU)
# Behaviour: `quantize_(model, Int8WeightOnlyConfig())` goes through the `nn.Linear` layers. The experts
#            of Mixtral and its like are stacked parameters since transformers 5, so it skips them and
#            says nothing. A dense Llama of the same shape comes down to nearly a quarter of its bytes.
# Seen:      bytes left of a model in float32: Llama 0.29, Mixtral with 8 experts 0.94, whose attention
#            alone is rounded.
# Source:    torchao/quantization/quant_api.py, `_is_linear`, the default `filter_fn` of quantize_;
#            transformers/models/mixtral/modeling_mixtral.py, MixtralExperts.
# Who meets it: whoever sizes a machine by "int8 is a byte a weight" and loads a mixture with it. A count
#            of parameters by dtype afterwards tells.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "transformers==5.23.0" "torchao==0.18.0" 2>/dev/null
HF_HUB_OFFLINE=1 "$work/env/bin/python" -W ignore - 2>"$work/errors" <<'PY' || { tail -5 "$work/errors"; exit 1; }
import io

import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

size = dict(vocab_size=64, hidden_size=128, num_hidden_layers=2, num_attention_heads=4)
size |= dict(intermediate_size=256, num_key_value_heads=4)
models = {
    "Llama": LlamaForCausalLM(LlamaConfig(**size)),
    "Mixtral": MixtralForCausalLM(MixtralConfig(**size, num_local_experts=8)),
}


def bytes_of(model):
    """Of its weights, as torch.save writes them."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


left = {}
for name, model in models.items():
    before = bytes_of(model)
    quantize_(model, Int8WeightOnlyConfig())
    left[name] = bytes_of(model) / before
    kinds = {n: type(p).__name__ for n, p in model.named_parameters() if "layers.0" in n}
    rounded = [n for n, kind in kinds.items() if kind != "Parameter"]
    print(f"{name}: {left[name]:.2f} of the bytes; rounded in a layer: {len(rounded)} of {len(kinds)}")
    assert any("q_proj" in n for n in rounded)
    assert not any(".experts." in n for n in rounded), "the behaviour has changed"
assert left["Llama"] < 0.5 and left["Mixtral"] > 0.85, f"the behaviour has changed: {left}"
print("as described")
PY
