#!/usr/bin/env bash
# LoRA on torch's own encoder layer learns in training mode and is not there in eval mode.
#
# Version:   peft 0.21.2, torch 2.13.0 (CPU)
# Behaviour: in eval mode `nn.TransformerEncoderLayer(batch_first=True)` leaves its Python code for one
#            fused call that it hands `linear1.weight` and `linear2.weight`. Wrapped by peft, a linear
#            layer answers to `.weight` with the frozen weight beneath, so the call gets the model
#            without the adapter. The layer's own test for the fused call asks for hooks and for weights
#            that need a gradient: adapters are neither, and so it happens with gradients on as well.
#            The training loss falls, the evaluation stays where it was. No warning, no error.
# Seen:      error of the task before training 1.00; after it 0.005 in training mode (no dropout) and 1.00
#            in eval mode, to the last bit that of the model with the adapter disabled. Merged 0.005 in
#            eval mode; unmerged as well after `torch.backends.mha.set_fastpath_enabled(False)`.
# Source:    torch/nn/modules/transformer.py, TransformerEncoderLayer.forward, `tensor_args`;
#            peft/tuners/tuners_utils.py, BaseTunerLayer.weight, "required for some transformers code".
# Who meets it: whoever adapts an encoder built from torch's layers (a classifier, a small vision or speech
#            model, a lesson) and validates it with model.eval(), as one should.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" 2>/dev/null
HF_HUB_OFFLINE=1 "$work/env/bin/python" -W ignore - 2>"$work/errors" <<'PY' || { tail -5 "$work/errors"; exit 1; }
import copy

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
WIDTH = 32
layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.0, batch_first=True)
base = nn.TransformerEncoder(layer, 2)
inputs = torch.randn(64, 8, WIDTH)
with torch.no_grad():  # the task: the same encoder with other feed-forward layers, of low rank apart
    other = copy.deepcopy(base)
    for part in other.layers:
        for linear in (part.linear1, part.linear2):
            rows, columns = linear.weight.shape
            linear.weight += torch.randn(rows, 2) @ torch.randn(2, columns) / 8
    target = other.train()(inputs)
    scale = (base.train()(inputs) - target).pow(2).mean()


@torch.no_grad()
def error(model, training=False):
    """Of the task, in units of the base model's; with the mode set first."""
    return ((model.train(training)(inputs) - target).pow(2).mean() / scale).item()


model = get_peft_model(copy.deepcopy(base), LoraConfig(r=8, target_modules=["linear1", "linear2"]))
before = error(model, training=True)
model.train()
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
for _ in range(600):
    loss = (model(inputs) - target).pow(2).mean() / scale
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

training, evaluated = error(model, training=True), error(model)
with torch.no_grad(), model.disable_adapter():
    without = model.eval()(inputs)
same = torch.equal(model.eval()(inputs), without)  # with gradients on
torch.backends.mha.set_fastpath_enabled(False)
slow = error(model)
torch.backends.mha.set_fastpath_enabled(True)
merged = error(copy.deepcopy(model).merge_and_unload())
print(f"before {before:.2f}; in training mode {training:.3f}, in eval mode {evaluated:.2f}")
print(f"eval mode without the fused call {slow:.3f}, merged {merged:.3f}; as if disabled: {same}")
assert abs(before - 1) < 1e-3 and training < 0.2, f"not as described: {before}, {training}"
assert same and abs(evaluated - 1) < 1e-3, f"the behaviour has changed: {evaluated}"
assert abs(slow - training) < 1e-3 and abs(merged - training) < 1e-3, f"{slow}, {merged}"
print("as described")
PY
