#!/usr/bin/env bash
# LoRA on "all-linear" trains the experts of some mixtures and passes over those of others, unsaid.
#
# Version:   peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU)
# Behaviour: transformers 5 keeps the experts of a layer as stacked parameters, which are no linear
#            layers. For model types that peft has a table for, `target_modules="all-linear"` is turned
#            into adapters on the stacks and on the router as well. For others it adapts attention and,
#            where there is one, the shared expert, and leaves the routed experts, most of the weights,
#            as they were. No warning, no error; the printed share of trainable weights is plausible.
# Seen:      Mixtral, OLMoE, Qwen3-MoE: experts and router adapted. Qwen2-MoE and gpt-oss: none of the
#            experts, which hold 79% and 88% of the weights of the models below.
# Source:    peft/utils/transformers_weight_conversion.py has the table; which types it knows is not
#            said where "all-linear" is documented.
# Who meets it: whoever tunes such a model with the setting that QLoRA's authors advise, and compares
#            families or ranks. `target_parameters=["experts.gate_up_proj", …]` names the stacks.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "transformers==5.23.0" "peft==0.21.2" 2>/dev/null
HF_HUB_OFFLINE=1 "$work/env/bin/python" -W ignore - <<'PY'
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    MixtralConfig,
    OlmoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

size = dict(
    vocab_size=100,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_experts_per_tok=2,
    eos_token_id=1,
    pad_token_id=0,
)
configs = {
    "Mixtral": MixtralConfig(**size, num_local_experts=8),
    "OLMoE": OlmoeConfig(**size, num_experts=8),
    "Qwen3-MoE": Qwen3MoeConfig(**size, num_experts=8, moe_intermediate_size=64, head_dim=8),
    "Qwen2-MoE": Qwen2MoeConfig(
        **size, num_experts=8, moe_intermediate_size=64, shared_expert_intermediate_size=64
    ),
    "gpt-oss": GptOssConfig(**size, num_local_experts=8, head_dim=8),
}
reached = {}
for name, config in configs.items():
    model = AutoModelForCausalLM.from_config(config)
    total = sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapters = [n for n, p in tuned.named_parameters() if p.requires_grad]
    reached[name] = any(".experts." in n for n in adapters)
    attention = any("q_proj" in n for n in adapters)
    print(f"{name}: experts {experts / total:.0%} of the weights, adapted: {reached[name]}")
    assert attention and experts > total / 2
expected = {name: name in ("Mixtral", "OLMoE", "Qwen3-MoE") for name in configs}
assert reached == expected, f"the behaviour has changed: {reached}"
print("as described")
PY
