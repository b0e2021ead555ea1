#!/usr/bin/env bash
# Whether packed texts see one another depends on `use_cache`.
#
# Version:   transformers 5.24.0, torch 2.13.0 (CPU), attention "sdpa" and "eager"; Llama, Qwen3, Gemma 3
# Behaviour: several texts in one row, with `position_ids` that begin anew at each, are kept apart by a
#            mask that the model makes from the positions, but only if it has no cache and is given no
#            `attention_mask`. A model makes an empty cache by itself as long as `use_cache` is on, which
#            it is by default, in training mode too. So the plain call lets the second text read
#            the first, at positions that say it cannot; with `use_cache=False` the logits are those of
#            the text alone. A mask of ones does the same harm. No warning.
# Seen:      the second text's logits, standard deviation about 1.8, differ from those of the text alone by
#            5 to 6 by default and with a mask of ones; with `use_cache=False` by less than 1e-5.
# Source:    masking_utils.py, _preprocess_mask_arguments: `attention_mask is None and cache is None`,
#            "generally a training setup". The page on padding-free training asks for FlashAttention
#            (which reads the positions itself) and for no mask; it does not speak of the cache.
# Who meets it: whoever packs texts in a loop of their own, for training, for perplexities or for the
#            log-probabilities of a reference. Trainer and trl's trainers switch the cache off and are
#            right, so the same batch scores differently outside of them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "transformers==5.24.0" 2>/dev/null
HF_HUB_OFFLINE=1 "$work/env/bin/python" -W ignore - 2>"$work/errors" <<'PY' || { tail -5 "$work/errors"; exit 1; }
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3Config

size = dict(
    vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, initializer_range=0.3, pad_token_id=0, eos_token_id=1,
)
first, second = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
packed = torch.cat([first, second])[None]
positions = torch.cat([torch.arange(9), torch.arange(9)])[None]
ways = {
    "as it comes": {},
    "no cache": {"use_cache": False},
    "no cache, mask of ones": {"use_cache": False, "attention_mask": torch.ones_like(packed)},
}


@torch.no_grad()
def off(model):
    """{way: how far the second text's logits are from those of the text alone}"""
    alone = model(second[None]).logits
    found = {}
    for way, more in ways.items():
        there = model(packed, position_ids=positions, **more).logits[:, 9:]
        found[way] = (there - alone).abs().max().item()
    return found


for config in (LlamaConfig, Qwen3Config, Gemma3TextConfig):
    for attention in ("sdpa", "eager"):
        for training in (False, True):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config(**size), attn_implementation=attention)
            found = off(model.train(training))
            mode = "training" if training else "eval"
            told = {way: f"{value:.1g}" for way, value in found.items()}
            print(config.model_type, attention, mode, told)
            assert found["no cache"] < 1e-4, f"not as described: {found}"
            assert found["as it comes"] > 0.5, f"the behaviour has changed: {found}"
            assert found["no cache, mask of ones"] > 0.5, f"the behaviour has changed: {found}"
print("as described")
PY
