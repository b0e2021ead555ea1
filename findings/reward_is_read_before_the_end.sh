#!/usr/bin/env bash
# With the end token for padding, a reward model never reads the end, whatever the mask says.
#
# Version:   transformers 5.23.0, torch 2.13.0 (CPU); GPT-2, Llama and Mixtral alike
# Behaviour: a `…ForSequenceClassification` of a decoder gives the score at the last token of a row that
#            is not `pad_token_id`. `attention_mask` has no part in the choice. Where padding and end
#            are one token, as in `tokenizer.pad_token = tokenizer.eos_token`, a row that ends with an
#            end token, unpadded and with a mask of ones, is scored one token earlier. So an answer
#            that stops and one that was cut off there get the same reward up to rounding, and
#            gradients never reach what the model makes of the end.
# Seen:      the score of [5 6 7], of [5 6 7 end] and of [5 6 7 end end] differ by less than 1e-5;
#            with another padding token the end moves the score by 0.17 to 2.7.
# Source:    modeling_layers.py, GenericForSequenceClassification.forward: `non_pad_mask` is where
#            input_ids differ from pad_token_id; modeling_gpt2.py has the same lines.
# Who meets it: whoever trains or uses a reward model for PPO, best-of-n or RLHF with that usual line,
#            and wonders why it cannot tell a finished answer from a cut one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "transformers==5.23.0" 2>/dev/null
HF_HUB_OFFLINE=1 "$work/env/bin/python" -W ignore - <<'PY'
import torch
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MixtralConfig,
    MixtralForSequenceClassification,
)

END, OTHER = 0, 1
sizes = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
kinds = {
    "GPT-2": (GPT2ForSequenceClassification, GPT2Config, {}),
    "Llama": (LlamaForSequenceClassification, LlamaConfig, {"intermediate_size": 64}),
    "Mixtral": (
        MixtralForSequenceClassification,
        MixtralConfig,
        {"intermediate_size": 64, "num_key_value_heads": 4, "num_local_experts": 4},
    ),
}


@torch.no_grad()
def scores(pad, kind, config, more):
    """Of a text cut off, of the same text ended, and of it with two end tokens; no padding."""
    special = dict(pad_token_id=pad, eos_token_id=END, bos_token_id=2, num_labels=1)
    torch.manual_seed(0)
    model = kind(config(**sizes, **more, **special, initializer_range=0.3)).eval()
    rows = ([5, 6, 7], [5, 6, 7, END], [5, 6, 7, END, END])
    ids = [torch.tensor([row]) for row in rows]
    return [model(row, attention_mask=torch.ones_like(row)).logits.item() for row in ids]


for name, kind in kinds.items():
    shared, apart = scores(END, *kind), scores(OTHER, *kind)
    moved = abs(shared[1] - shared[0]), abs(apart[1] - apart[0])
    print(f"{name}: the end moves the score by {moved[0]:.1g}; with a padding of its own {moved[1]:.2g}")
    assert max(abs(score - shared[0]) for score in shared) < 1e-5, "the behaviour has changed"
    assert moved[1] > 1e-3
print("as described")
PY
