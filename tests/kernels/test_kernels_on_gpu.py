"""The attention kernels on the chip itself: what neither interpreter nor compiler can show.

TF32 in place of float32, miscompiled products, races and reads out of bounds appear here alone.
"""

import pytest
import torch

from llmbook.attention import attention
from llmbook.device import capability

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DTYPES = [torch.float16, torch.bfloat16, torch.float32]

# heads, kv_heads, queries, keys, head_dim, causal
CASES = {
    "full": (4, 4, 512, 512, 64, False),
    "causal": (4, 4, 512, 512, 128, True),
    "odd causal": (2, 2, 577, 577, 64, True),
    "odd full": (2, 2, 577, 333, 128, False),
    "one token": (2, 2, 1, 1, 64, True),
    "one query": (4, 1, 1, 777, 64, True),
    "63": (2, 2, 63, 63, 16, True),
    "fewer queries": (4, 2, 130, 777, 64, True),
    "fewer keys, rows that see none": (2, 2, 777, 130, 64, True),
    "grouped": (8, 2, 300, 300, 128, True),
    "padded 24": (2, 2, 200, 200, 24, True),
    "padded 80": (2, 2, 200, 200, 80, True),
    "256": (2, 1, 300, 300, 256, True),
}


def run(backend, inputs, upstream, dtype, causal):
    xs = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
    out = attention(*xs, causal=causal, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, xs, upstream.to(dtype))]


def make(case, dtype):
    heads, kv_heads, queries, keys, head_dim, causal = CASES[case]
    chip = capability("cuda")
    if dtype == torch.bfloat16 and chip < (8, 0):
        pytest.skip("bfloat16 needs compute capability 8.0")
    if head_dim > 128 and (dtype == torch.float32 or chip not in ((8, 0), (9, 0), (10, 0))):
        pytest.skip("head_dim above 128 is for half precision on the large chips")
    torch.manual_seed(0)
    shapes = [(2, heads, queries, head_dim), *[(2, kv_heads, keys, head_dim)] * 2]
    inputs = [torch.randn(shape, device="cuda").to(dtype) for shape in shapes]
    return inputs, torch.randn(shapes[0], device="cuda").to(dtype), causal


@pytest.mark.parametrize("backend", ["triton", "sdpa"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_error_is_at_most_twice_that_of_the_formula(case, dtype, backend):
    inputs, upstream, causal = make(case, dtype)
    truth = run("reference", inputs, upstream, torch.float64, causal)
    plain = run("reference", inputs, upstream, dtype, causal)
    ours = run(backend, inputs, upstream, dtype, causal)
    for name, t, p, o in zip(["out", "dq", "dk", "dv"], truth, plain, ours, strict=True):
        error, allowed = ((x.double() - t).abs().max().item() for x in (o, p))
        floor = 2e-5 if dtype == torch.float32 else 1e-4
        assert error <= 2 * allowed + floor, f"{name}: {error:.2e} against {allowed:.2e}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_are_the_same_on_every_run(dtype):
    inputs, upstream, causal = make("grouped", dtype)
    first = run("triton", inputs, upstream, dtype, causal)
    for _ in range(5):
        for a, b in zip(first, run("triton", inputs, upstream, dtype, causal), strict=True):
            assert torch.equal(a, b)


def test_memory_grows_linearly_with_length():
    dtype = torch.float16
    peaks = []
    for tokens in (2048, 4096, 8192):
        inputs = [torch.randn(1, 4, tokens, 64, device="cuda", dtype=dtype) for _ in range(3)]
        run("triton", inputs, inputs[0], dtype, True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run("triton", inputs, inputs[0], dtype, True)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[2] < 4.4 * peaks[0]
