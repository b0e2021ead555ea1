"""The scan's kernels on the chip itself: what neither interpreter nor compiler can show."""

import pytest
import torch

from llmbook.ssm import explain_backend, selective_scan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# batch, tokens, channels, d_state, documents begin, options
CASES = {
    "Mamba's sizes": (2, 1000, 256, 16, False, True),
    "documents, odd sizes": (3, 333, 37, 5, True, True),
    "no options": (1, 64, 32, 16, False, False),
    "one of each": (1, 1, 1, 1, False, True),
    "32 states": (1, 130, 20, 32, True, True),
}


def make(case, dtype):
    torch.manual_seed(0)
    batch, tokens, channels, d_state, documents, options = CASES[case]
    full, narrow = (batch, tokens, channels), (batch, tokens, d_state)
    shapes = [full, full, (channels, d_state), narrow, narrow, (channels,), full, (channels,)]
    shapes.append((batch, channels, d_state))
    xs = [torch.randn(s, device="cuda") for s in shapes]
    xs[2] = -3 * torch.rand(shapes[2], device="cuda")
    if not options:
        xs[1] = xs[1].abs()
    xs = [x.to(torch.float32 if i in (2, 8) else dtype) for i, x in enumerate(xs)]
    starts = torch.rand(batch, tokens, device="cuda") < 0.1 if documents else None
    return xs, starts, options


def run(backend, xs, starts, options, high=False):
    xs = [(x.double() if high else x.detach().clone()).requires_grad_() for x in xs]
    xs = xs if options else xs[:5]
    more = dict(zip(("D", "z", "delta_bias", "initial_state"), xs[5:], strict=False))
    y, state = selective_scan(
        *xs[:5], **more, delta_softplus=options, starts=starts, return_state=True, backend=backend
    )
    torch.manual_seed(1)
    ups = [torch.randn(v.shape, device="cuda", dtype=torch.float64) for v in (y, state)]
    goal = (y.double() * ups[0]).sum() + (state.double() * ups[1]).sum()
    return [y.detach(), state.detach(), *torch.autograd.grad(goal, xs)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_scan_error_is_at_most_twice_that_of_the_formula(case, dtype):
    inputs = make(case, dtype)
    truth = run("reference", *inputs, high=True)
    plain = run("reference", *inputs)
    for t, p, o in zip(truth, plain, run("triton", *inputs), strict=True):
        floor = (3e-6 if dtype == torch.float32 else 2e-3) * max(t.abs().max().item(), 1)
        assert (o - t).abs().max() <= 2 * (p - t).abs().max() + floor


def test_scan_gradients_are_the_same_on_every_run_and_auto_takes_the_kernel():
    inputs = make("documents, odd sizes", torch.float32)
    assert explain_backend(inputs[0][0], inputs[0][2]).backend == "triton"
    first = run("triton", *inputs)
    for _ in range(3):
        for a, b in zip(first, run("auto", *inputs), strict=True):
            assert torch.equal(a, b)


def test_scan_memory_grows_linearly_with_length():
    peaks = []
    for tokens in (4096, 16384):
        xs = [torch.randn(1, tokens, n, device="cuda") for n in (256, 256, 16, 16)]
        A = -torch.rand(256, 16, device="cuda")
        xs = [x.requires_grad_() for x in xs]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        selective_scan(xs[0], xs[1], A, xs[2], xs[3], delta_softplus=True).sum().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 4.5 * peaks[0]
