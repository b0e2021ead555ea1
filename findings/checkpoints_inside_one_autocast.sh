#!/usr/bin/env bash
# Inside one autocast, every checkpoint scores as the first, and a training loop trains nothing.
#
# Version:   torch 2.13.0 (CPU), autocast to bfloat16
# Behaviour: autocast keeps the low-precision copy that it makes of a weight until its outermost context
#            ends. It does not look whether the weight has changed since: `load_state_dict`, `copy_` and
#            `optimizer.step()` write in place, and the next forward pass takes the old copy. It is so
#            under `no_grad` too, but not for weights with requires_grad=False nor in inference_mode,
#            so the same loop is right or wrong by how gradients were switched off. No warning.
# Seen:      two checkpoints with losses 1.49 and 1.34: one context around both gives 1.49 and 1.49, a
#            context for each, frozen weights, inference_mode or `cache_enabled=False` the right ones.
#            Twenty steps of SGD: one context around the loop 31.4 throughout, one a step 31.4 to 0.1.
# Source:    aten/src/ATen/autocast_mode.cpp, `cached_cast`: a leaf that requires a gradient is looked up
#            by its address alone; torch/amp/autocast_mode.py clears the copies when the nesting ends. Its
#            docstring wants "only the forward pass(es)" inside, without saying why; a loop that scores
#            checkpoints has nothing else.
# Who meets it: whoever scores several checkpoints, averages of weights or a reference and a policy loaded
#            by turns into one model under one `with torch.autocast(...)`: equal scores, a KL of zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "numpy==2.4.6" 2>/dev/null
"$work/env/bin/python" -W ignore - <<'PY'
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn


def half(**more):
    return torch.autocast("cpu", dtype=torch.bfloat16, **more)


torch.manual_seed(0)
model = nn.Linear(16, 4)
checkpoints = [{n: w.clone() for n, w in nn.Linear(16, 4).state_dict().items()} for _ in range(2)]
inputs, labels = torch.randn(8, 16), torch.randint(4, (8,))


def scores(gradients, around, each):
    """The checkpoints' losses: `around` is one context for both, `each` makes one for each."""
    found = []
    with gradients, around:
        for checkpoint in checkpoints:
            model.load_state_dict(checkpoint)
            with each():
                found.append(F.cross_entropy(model(inputs).float(), labels).item())
    return found


right = scores(torch.no_grad(), nullcontext(), half)
print("a context for each", [f"{score:.3f}" for score in right])
assert abs(right[0] - right[1]) > 0.1
together = scores(torch.no_grad(), half(), nullcontext)
print("one for both", [f"{score:.3f}" for score in together])
assert together == [right[0], right[0]], f"the behaviour has changed: {together}"
nested = scores(torch.no_grad(), half(), half)
assert nested == together, f"the behaviour has changed: {nested}"
assert scores(torch.inference_mode(), half(), nullcontext) == right
assert scores(torch.no_grad(), half(cache_enabled=False), nullcontext) == right
model.requires_grad_(False)
assert scores(torch.no_grad(), half(), nullcontext) == right


def trained(around, each, steps=20):
    """The losses of a linear regression by SGD."""
    torch.manual_seed(0)
    line = nn.Linear(4, 1)
    x = torch.randn(32, 4)
    y = x @ torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    optimizer = torch.optim.SGD(line.parameters(), lr=0.1)
    losses = []
    with around:
        for _ in range(steps):
            with each():
                loss = (line(x).float() - y).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


for name, losses in {
    "around the loop": trained(half(), nullcontext),
    "around each step": trained(nullcontext(), half),
}.items():
    print(f"{name}: {losses[0]:.1f} to {losses[-1]:.1f}")
    if name == "around the loop":
        assert len(set(losses)) == 1, f"the behaviour has changed: {losses}"
    else:
        assert losses[-1] < 0.2 * losses[0]
print("as described")
PY
