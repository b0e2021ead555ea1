"""The Triton expert kernels in Triton's interpreter, on the CPU: outputs and every gradient.

As in test_kernels_interpreted.py: one process of its own in which Triton interprets.
"""

import json
import os

import pytest

pytest.importorskip("triton")

# name: (dtype, tokens, k, experts, d_model, d_expert, gated, only these experts, on_input)
CASES = {
    "float32": ("float32", 77, 2, 4, 40, 24, True, None, False),
    "odd sizes": ("float32", 63, 2, 5, 33, 17, True, None, False),
    "empty experts": ("float32", 40, 2, 9, 16, 24, True, [2, 3, 8], False),
    "all to the last": ("float32", 70, 1, 3, 16, 16, True, [2], False),
    "one token": ("float32", 1, 1, 4, 16, 16, True, None, False),
    "no tokens": ("float32", 0, 2, 4, 16, 24, True, None, False),
    "whole tiles": ("float32", 64, 1, 1, 64, 32, True, None, False),
    "not gated": ("float32", 33, 2, 3, 16, 48, False, None, False),
    "weights on the input": ("float32", 33, 2, 3, 16, 16, True, None, True),
    "float16": ("float16", 50, 2, 3, 32, 16, True, None, False),
    "bfloat16 runs": ("bfloat16", 20, 2, 3, 16, 16, True, None, False),
}


def run_case(dtype, tokens, k, n_experts, d_model, d_expert, gated, only, on_input):
    """In the interpreter: {name: [the kernel's error, the plain loop's]} against float64."""
    import torch

    from llmbook.moe import run_experts

    torch.manual_seed(0)
    dtype = getattr(torch, dtype)
    pool = torch.tensor(only or range(n_experts))
    picks = [pool[torch.randperm(len(pool))[:k]] for _ in range(tokens)]
    chosen = torch.stack(picks) if tokens else torch.empty(0, k, dtype=torch.int64)
    if tokens > 5:
        chosen[4] = chosen[2, 0] = -1
    shapes = [(tokens, d_model), (tokens, k)]
    shapes += [(n_experts, (1 + gated) * d_expert, d_model), (n_experts, d_model, d_expert)]
    inputs = [(torch.randn(s, dtype=torch.float64) / 2).to(dtype) for s in shapes]
    upstream = torch.randn(tokens, d_model, dtype=torch.float64).to(dtype)

    def run(backend, dtype):
        x, weights, *matrices = leaves = [t.to(dtype, copy=True).requires_grad_() for t in inputs]
        out = run_experts(x, chosen, weights, *matrices, on_input=on_input, backend=backend)
        return [out.detach(), *torch.autograd.grad((out * upstream.to(dtype)).sum(), leaves)]

    truth, plain = run("reference", torch.float64), run("reference", dtype)
    # Memory that a kernel forgot to write must show: what it allocates comes filled with NaN.
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = True
    poisoned = bool(torch.empty(3).isnan().all())
    ours = run("triton", dtype)
    torch.set_deterministic_debug_mode("default")
    result = {"poisoned": poisoned, "dtype": all(t.dtype == dtype for t in ours)}
    for name, t, p, o in zip(NAMES, truth, plain, ours, strict=True):
        assert t.shape == p.shape == o.shape, name
        gaps = [(v.double() - t).abs() for v in (o, p)]
        result[name] = [float(gap.max()) if gap.numel() else 0.0 for gap in gaps]
    return result


NAMES = ("out", "dx", "dweights", "din", "ddown")


@pytest.fixture(scope="module")
def results(fresh):
    """Every case's result, from one process in which Triton interprets."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]);"
        "import test_experts_interpreted as t, torch; torch.set_num_threads(1);"
        "print(json.dumps({name: t.run_case(*case) for name, case in t.CASES.items()}))"
    )
    done = fresh(code, os.path.dirname(__file__), TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_kernel_is_at_most_twice_as_far_from_the_truth_as_the_loop(results, name):
    result = results[name]
    assert result["poisoned"]
    assert result["dtype"]
    floor = 4e-6 if CASES[name][0] == "float32" else 1e-3
    if name == "bfloat16 runs":
        floor = 0.5  # its numbers mean nothing here: the interpreter has no bfloat16
    for what in NAMES:
        ours, plain = result[what]
        assert ours <= 2 * plain + floor, f"{what}: {ours:.2e} against {plain:.2e}"
