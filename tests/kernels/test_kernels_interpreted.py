"""The Triton attention kernels in Triton's interpreter, on the CPU: outputs and every gradient.

The interpreter must be chosen before Triton is first imported, and stays chosen: the cases run in
a process of their own, started once, and each is a test here. It shows wrong mathematics, not what
a chip does: TF32, races, bounds and shared memory are the compiler's and the GPU's tests.
"""

import json
import os

import pytest

pytest.importorskip("triton")

# name: (dtype, batch, heads, kv_heads, queries, keys, head_dim, causal)
CASES = {
    "float32 full": ("float32", 2, 1, 1, 77, 77, 32, False),
    "float32 causal": ("float32", 1, 2, 2, 77, 77, 32, True),
    "one token": ("float32", 1, 2, 2, 1, 1, 16, True),
    "one query": ("float32", 1, 2, 1, 1, 77, 16, True),
    "63, head_dim 40 padded": ("float32", 1, 1, 1, 63, 63, 40, True),
    "whole tiles": ("float32", 1, 1, 1, 128, 128, 16, True),
    "fewer queries": ("float32", 1, 1, 1, 63, 130, 16, True),
    "fewer keys, rows that see none": ("float32", 1, 1, 1, 130, 63, 16, True),
    "fewer keys, full": ("float32", 1, 1, 1, 77, 33, 16, False),
    "grouped": ("float32", 1, 4, 2, 40, 33, 16, True),
    "one key/value head": ("float32", 1, 3, 1, 33, 33, 24, False),
    "float16 causal": ("float16", 1, 2, 1, 77, 77, 64, True),
    "float16 full": ("float16", 1, 1, 1, 63, 77, 16, False),
    "bfloat16 runs": ("bfloat16", 1, 1, 1, 33, 33, 16, True),
}


def run_case(dtype, batch, heads, kv_heads, queries, keys, head_dim, causal):
    """In the interpreter: {name: [the kernel's error, the plain formula's]} against float64."""
    import torch

    from llmbook.attention import attention

    torch.manual_seed(0)
    dtype = getattr(torch, dtype)
    shapes = [(batch, heads, queries, head_dim), *[(batch, kv_heads, keys, head_dim)] * 2]
    # Layouts as a model has them: (batch, tokens, heads, head_dim) in memory for q alone.
    inputs = [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]
    inputs[0] = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
    upstream = torch.randn(shapes[0], dtype=torch.float64).to(dtype)

    def run(backend, dtype):
        xs = [x.detach().to(dtype, copy=True).requires_grad_() for x in inputs]
        out = attention(*xs, causal=causal, scale=0.3, backend=backend)
        return [out.detach(), *torch.autograd.grad((out * upstream.to(dtype)).sum(), xs)]

    truth, plain = run("reference", torch.float64), run("reference", dtype)
    # Memory that a kernel forgot to write must show: what it allocates comes filled with NaN.
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = True
    poisoned = bool(torch.empty(3).isnan().all())
    ours = run("triton", dtype)
    torch.set_deterministic_debug_mode("default")
    result = {"poisoned": poisoned, "dtype": all(x.dtype == dtype for x in ours)}
    for name, t, p, o in zip(["out", "dq", "dk", "dv"], truth, plain, ours, strict=True):
        result[name] = [float((x.double() - t).abs().max()) for x in (o, p)]
    empty = max(queries - keys, 0) if causal else 0
    result["empty rows"] = sum(float(x[:, :, :empty].abs().sum()) for x in ours[:2])
    return result


@pytest.fixture(scope="module")
def results(fresh):
    """Every case's result, from one process in which Triton interprets."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]);"
        "import test_kernels_interpreted as t, torch; torch.set_num_threads(1);"
        "print(json.dumps({name: t.run_case(*case) for name, case in t.CASES.items()}))"
    )
    done = fresh(code, os.path.dirname(__file__), TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_kernel_is_at_most_twice_as_far_from_the_truth_as_the_formula(results, name):
    result = results[name]
    assert result["poisoned"]
    assert result["dtype"]
    floor = 4e-6 if CASES[name][0] == "float32" else 1e-4
    if name == "bfloat16 runs":
        floor = 0.05  # its numbers mean nothing here: the interpreter has no bfloat16
    for what in ("out", "dq", "dk", "dv"):
        ours, plain = result[what]
        assert ours <= 2 * plain + floor, f"{what}: {ours:.2e} against {plain:.2e}"
    assert result["empty rows"] == 0
