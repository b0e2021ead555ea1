#!/usr/bin/env bash
# Several tokens given to a Mamba that has read a text already: the state is forgotten, unsaid.
#
# Version:   transformers 5.23.0, torch 2.13.0 (CPU, no mamba-ssm kernels)
# Behaviour: a cache that has read the first half of a text is handed back with the rest. One token
#            at a time gives the logits of the whole text read at once. Two or more tokens in a call
#            give others: the convolution goes on from what it had, while the scan begins at a
#            state of zeros, and the cache then holds that newer, wrong state. No warning, no error.
#            Mamba-2, in the same release and through the same call, is right.
# Seen:      largest difference from the whole text, logits of standard deviation about 2:
#            Mamba one token a call 1e-05, three 10, six 4; Mamba-2 1e-05 for all three.
# Source:    models/mamba/modeling_mamba.py, MambaMixer.forward: the branch "Full sequence form" calls
#            the scan without an initial state whatever the cache holds; modeling_mamba2.py passes it.
# Who meets it: whoever keeps the cache between the turns of a chat, reads a long prompt in pieces, or
#            checks several drafted tokens at once. `generate` from an empty cache is unharmed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "transformers==5.23.0" 2>/dev/null
HF_HUB_OFFLINE=1 "$work/env/bin/python" -W ignore - <<'PY'
import torch
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM

HALF, END = 6, 12
common = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8)
common["initializer_range"] = 0.5  # so that the state matters at once, as it does once trained
configs = {
    "Mamba": (MambaForCausalLM, MambaConfig(**common)),
    "Mamba-2": (Mamba2ForCausalLM, Mamba2Config(num_heads=4, head_dim=16, n_groups=1, **common)),
}


@torch.no_grad()
def off(model, ids, step):
    """How far the logits are from those of the whole text, the second half in pieces of `step`."""
    pieces = [model(ids[:, :HALF], use_cache=True)]
    cache = pieces[0].cache_params
    for at in range(HALF, END, step):
        pieces.append(model(ids[:, at : at + step], cache_params=cache, use_cache=True))
    logits = torch.cat([piece.logits for piece in pieces], dim=1)
    return (logits - model(ids).logits).abs().max().item()


for name, (kind, config) in configs.items():
    torch.manual_seed(0)
    model = kind(config).eval()
    ids = torch.randint(3, config.vocab_size, (1, END))
    found = {step: off(model, ids, step) for step in (1, 3, 6)}
    print(name, {step: f"{value:.1g}" for step, value in found.items()})
    assert found[1] < 1e-3
    for step in (3, 6):
        wrong = found[step] > 0.1
        assert wrong == (name == "Mamba"), f"the behaviour has changed: {name}, {step}, {found}"
print("as described")
PY
