"""Mamba-2's scan and the delta rule by their fused loop, and all backends at odd lengths."""

import functools

import pytest
import torch
from helpers.matrix_cases import CASES, NAMES, draw_case, run_scan

from llmbook import native
from llmbook.ssm import explain_delta_backend, explain_ssd_backend, gated_delta_rule, ssd
from llmbook.ssm.matrix_state import LOOPS

SHAPES = {"ssd": (1, 2, 1, 3, 2), "delta": (1, 2, 2, 3, 2)}  # tokens are put behind the batch


@pytest.fixture(autouse=True)
def needs_a_compiler(request):
    backend = getattr(request.node, "callspec", None)
    if backend and backend.params.get("backend") == "compiled" and LOOPS.why_not():
        pytest.skip(LOOPS.why_not())


def case(scan, tokens, documents=False):
    batch, *rest = SHAPES[scan]
    return draw_case(scan, batch, tokens, *rest, documents)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", ["compiled"])
@pytest.mark.parametrize("name", CASES)
def test_fused_loop_and_all_gradients_equal_the_formula_in_float64(name, backend, threads):
    scan, (inputs, starts) = CASES[name][0], draw_case(*CASES[name])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, truth = (
            run_scan(scan, inputs, starts, b, high=True) for b in (backend, "reference")
        )
    finally:
        torch.set_num_threads(before)
    for what, o, t in zip(NAMES[scan], ours, truth, strict=True):
        torch.testing.assert_close(o, t, rtol=1e-9, atol=1e-9, msg=lambda m, w=what: f"{w}: {m}")


@pytest.mark.parametrize("backend", ["compiled", "chunked"])
@pytest.mark.parametrize("name", CASES)
def test_backend_is_as_near_to_float64_as_the_formula_in_float32(name, backend):
    scan, (inputs, starts) = CASES[name][0], draw_case(*CASES[name])
    truth = run_scan(scan, inputs, starts, "reference", high=True)
    plain = run_scan(scan, inputs, starts, "reference")
    ours = run_scan(scan, inputs, starts, backend)
    for what, t, p, o in zip(NAMES[scan], truth, plain, ours, strict=True):
        allowed = 2 * (p - t).abs().max() + 2e-6 * max(t.abs().max().item(), 1)
        assert (o - t).abs().max() <= allowed, what


@pytest.mark.parametrize("backend", ["associative", "chunked", "compiled"])
@pytest.mark.parametrize("scan", SHAPES)
def test_outputs_and_gradients_are_right_and_finite_at_every_length(scan, backend):
    for tokens in (1, 2, 15, 16, 17, 31, 63, 64, 65, 129):
        inputs, starts = case(scan, tokens, documents=True)
        ours, truth = (
            run_scan(scan, inputs, starts, b, high=True) for b in (backend, "reference")
        )
        for o, t in zip(ours, truth, strict=True):
            torch.testing.assert_close(o, t, rtol=1e-8, atol=1e-8)
        assert all(x.isfinite().all() for x in run_scan(scan, inputs, starts, backend))


@functools.cache
def long_truth(scan):
    """64k tokens, and what float64 makes of them: once for all backends."""
    inputs, _ = case(scan, 65536)
    return inputs, run_scan(scan, inputs, None, "chunked", high=True)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["chunked", "compiled"])
@pytest.mark.parametrize("scan", SHAPES)
def test_64k_tokens_in_float32_stay_near_float64(scan, backend):
    inputs, truth = long_truth(scan)
    ours = run_scan(scan, inputs, None, backend)
    for what, o, t in zip(NAMES[scan], ours, truth, strict=True):
        assert (o - t).abs().max() <= 2e-4 * max(t.abs().max().item(), 1), what


@pytest.mark.parametrize("backend", ["compiled", "chunked"])
def test_a_step_of_any_size_leaves_mamba_2s_gradients_finite(backend):
    torch.manual_seed(0)
    for size in (1e-12, 1e3, 1e15):
        x, B, C = (torch.randn(1, 70, n, 4).requires_grad_() for n in (2, 1, 1))
        delta = (size * torch.rand(1, 70, 2) * (torch.rand(1, 70, 2) < 0.5)).requires_grad_()
        A = torch.tensor([-0.1, -1.0], requires_grad=True)
        xs = [x, delta, A, B, C]
        y = ssd(*xs, backend=backend)
        truth = ssd(*[v.detach().double() for v in xs], backend="reference")
        assert (y - truth).abs().max() <= 2e-6 * truth.abs().max()
        grads = torch.autograd.grad((y / y.abs().max()).sum(), xs)
        assert all(g.isfinite().all() for g in grads)


def test_auto_takes_the_fused_loop_and_does_without_a_compiler(monkeypatch):
    (x, _, _, B, *_), _ = case("ssd", 9)
    explained = {ssd: lambda t: explain_ssd_backend(x[:, :t], B[:, :t])}
    explained[gated_delta_rule] = lambda t: explain_delta_backend(x[:, :t], x[:, :t])
    monkeypatch.setenv("LLMBOOK_COMPILER", "none")
    native._library.cache_clear()
    try:
        for explain in explained.values():
            assert explain(9).backend == "chunked"
            assert "no C compiler" in explain(9).others["compiled"]
            assert explain(1).backend == "reference"
        with pytest.raises(ValueError, match="backend='compiled' cannot run this scan"):
            gated_delta_rule(x, x, x, x[..., 0].abs(), backend="compiled")
    finally:
        native._library.cache_clear()
    monkeypatch.delenv("LLMBOOK_COMPILER")
    if native.compiler():
        for explain in explained.values():
            assert explain(9).backend == "compiled"
            assert "not triton: the Triton kernel needs a CUDA device" in str(explain(9))
    native._library.cache_clear()


def test_a_bias_in_another_precision_is_computed_in_the_state_s():
    g = torch.Generator().manual_seed(0)
    x, delta = torch.randn(1, 9, 2, 4, generator=g), torch.rand(1, 9, 2, generator=g)
    A, B, bias = -torch.ones(2), torch.randn(1, 9, 1, 3, generator=g), torch.rand(2).double()
    for backend in ("reference", "chunked", "auto"):
        given = dict(delta_bias=bias, backend=backend)
        assert torch.equal(
            ssd(x, delta, A, B, B, **given),
            ssd(x, delta, A, B, B, **{**given, "delta_bias": bias.float()}),
        )


def test_no_batch_at_all_has_gradients_too():
    x = torch.zeros(0, 5, 2, 4, requires_grad=True)
    B = torch.zeros(0, 5, 1, 3)
    ssd(x, torch.zeros(0, 5, 2), -torch.ones(2), B, B).sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3).double(), torch.zeros(2, 3).t()])
def test_c_refuses_what_it_would_misread(wrong):
    with pytest.raises(TypeError, match="must get contiguous torch.float32 on the CPU: got"):
        LOOPS.call("forward", torch.float32, (wrong,), ())
