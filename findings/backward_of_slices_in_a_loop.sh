#!/usr/bin/env bash
# A loop that reads x[t] step by step writes the whole of x once a step in its backward pass.
#
# Version:   torch 2.13.0 (CPU)
# Behaviour: the gradient of x[t] is a tensor as large as x, zero but for one row; a loop over T steps
#            makes T of them and adds them up. So the backward pass of a plain recurrence moves T²
#            rows where its forward pass moved T. `torch.unbind` (or `split`) gives the same rows
#            and the same gradient, and its backward stacks T rows once.
# Seen:      bytes that the backward pass allocates, in units of x, for 64, 256 and 1,024 steps:
#            64, 256 and 1,024 by index, 1 by unbind. The gradients are equal.
# Source:    tools/autograd/derivatives.yaml: select and slice have `select_backward` and
#            `slice_backward`, which fill zeros of the input's size; unbind has one stack.
# Who meets it: whoever writes an RNN, a scan or a delta rule as a loop over time, as teaching code and
#            fallbacks do: forward looks linear, and training on long texts is quadratic.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "numpy==2.4.6" 2>/dev/null
"$work/env/bin/python" -W ignore - <<'PY'
import torch
from torch.profiler import ProfilerActivity, profile

WAYS = {"by index": lambda x: [x[t] for t in range(len(x))], "by unbind": torch.unbind}


def backward(steps, rows_of):
    """(bytes allocated in the backward pass, in units of x; the gradient)"""
    x = torch.linspace(-1, 1, steps * 64).view(steps, 64).requires_grad_()
    state = torch.zeros(64)
    for row in rows_of(x):
        state = 0.5 * state + row
    # what the recurrence itself needs is left out: only the rows' gradients are looked at
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        state.sum().backward()
    names = ("aten::select_backward", "aten::unbind_backward", "aten::stack", "aten::cat", "aten::zeros")
    made = sum(
        event.self_cpu_memory_usage
        for event in told.key_averages()
        if event.key in names or event.key == "aten::empty"
    )
    return max(made, 0) / (steps * 256), x.grad


for steps in (64, 256, 1024):
    found = {way: backward(steps, rows_of) for way, rows_of in WAYS.items()}
    ratio = {way: round(made, 1) for way, (made, _) in found.items()}
    print(steps, ratio)
    assert torch.equal(found["by index"][1], found["by unbind"][1])
    assert ratio["by index"] > 0.9 * steps, f"the behaviour has changed: {ratio}"
    assert ratio["by unbind"] < 4, f"the behaviour has changed: {ratio}"
print("as described")
PY
