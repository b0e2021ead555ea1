"""The selective scan: every backend is the formula, cut anywhere, in documents, at extremes."""

import functools

import pytest
import torch

from llmbook import native
from llmbook.ssm import compiled, document_starts, explain_backend, selective_scan, selective_step
from llmbook.ssm.scan import BACKENDS

HERE = [name for name in BACKENDS if name not in ("reference", "triton")]


def make(batch=2, tokens=77, channels=5, d_state=3, documents=False, dtype=torch.float64):
    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    full, narrow = (batch, tokens, channels), (batch, tokens, d_state)
    rate = -3 * torch.rand(channels, d_state, dtype=torch.float64)
    xs = [draw(*full), draw(*full), rate, draw(*narrow), draw(*narrow), draw(channels)]
    xs += [draw(*full), draw(channels), draw(batch, channels, d_state)]
    starts = torch.rand(batch, tokens) < 0.1 if documents else None
    return [x.to(dtype).requires_grad_() for x in xs], starts


def run(xs, starts, backend, up):
    u, delta, A, B, C, D, z, bias, state = xs
    y, last = selective_scan(
        u,
        delta,
        A,
        B,
        C,
        D=D,
        z=z,
        delta_bias=bias,
        delta_softplus=True,
        initial_state=state,
        starts=starts,
        return_state=True,
        backend=backend,
    )
    goal = (y.double() * up[0]).sum() + (last.double() * up[1]).sum()
    return [y.detach(), last.detach(), *torch.autograd.grad(goal, xs)]


def upstream(xs):
    return [torch.randn(x.shape, dtype=torch.float64) for x in (xs[0], xs[-1])]


def need(backend):
    if backend == "compiled" and compiled.why_not():
        pytest.skip(compiled.why_not())


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("shape", [(2, 77, 5, 3), (1, 1, 33, 16), (2, 130, 70, 4), (1, 64, 32, 1)])
@pytest.mark.parametrize("backend", HERE)
def test_backend_and_all_gradients_equal_the_formula_in_float64(backend, shape, documents):
    need(backend)
    torch.manual_seed(0)
    xs, starts = make(*shape, documents=documents)
    up = upstream(xs)
    for ours, truth in zip(
        run(xs, starts, backend, up), run(xs, starts, "reference", up), strict=True
    ):
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", HERE)
def test_backend_is_as_near_to_float64_as_the_formula_in_float32(backend):
    need(backend)
    torch.manual_seed(1)
    xs, starts = make(tokens=130, channels=40, d_state=16, documents=True)
    up, half = upstream(xs), [x.detach().float().requires_grad_() for x in xs]
    truth = run(xs, starts, "reference", up)
    plain = run(half, starts, "reference", up)
    for t, p, o in zip(truth, plain, run(half, starts, backend, up), strict=True):
        assert o.dtype == torch.float32
        allowed = 2 * (p - t).abs().max() + 3e-7 * t.abs().max()
        assert (o - t).abs().max() <= allowed


@pytest.mark.parametrize("backend", ["reference", *HERE])
def test_a_sequence_cut_anywhere_and_carried_on_is_equal(backend):
    need(backend)
    torch.manual_seed(2)
    (u, delta, A, B, C, *_), starts = make(tokens=50, documents=True)
    delta = delta.abs()
    whole, end = selective_scan(u, delta, A, B, C, starts=starts, return_state=True)
    for cut in (1, 33, 49):
        state, ys = None, []
        for at in (slice(0, cut), slice(cut, 50)):
            parts = [x[:, at] for x in (u, delta)], [x[:, at] for x in (B, C)]
            y, state = selective_scan(
                *parts[0],
                A,
                *parts[1],
                starts=starts[:, at],
                initial_state=state,
                return_state=True,
                backend=backend,
            )
            ys.append(y)
        torch.testing.assert_close(torch.cat(ys, 1), whole)
        torch.testing.assert_close(state, end)


def test_single_steps_equal_the_scan():
    torch.manual_seed(3)
    (u, delta, A, B, C, D, z, bias, state), _ = make(tokens=9)
    options = {"D": D, "delta_bias": bias, "delta_softplus": True}
    whole = selective_scan(u, delta, A, B, C, z=z, initial_state=state, **options)
    for t in range(9):
        one = [x[:, t] for x in (u, delta)], [x[:, t] for x in (B, C)]
        y, state = selective_step(*one[0], A, *one[1], state, z=z[:, t], **options)
        torch.testing.assert_close(y, whole[:, t])


def test_packed_documents_equal_each_document_alone():
    torch.manual_seed(4)
    lengths = [3, 1, 11, 6]
    (u, delta, A, B, C, *_), _ = make(batch=1, tokens=sum(lengths))
    starts = document_starts(lengths)
    assert starts.nonzero().flatten().tolist() == [0, 3, 4, 15]
    packed = selective_scan(u, delta.abs(), A, B, C, starts=starts[None])
    at = 0
    for n in lengths:
        own = [x[:, at : at + n] for x in (u, delta.abs())]
        alone = selective_scan(*own, A, *[x[:, at : at + n] for x in (B, C)])
        torch.testing.assert_close(packed[:, at : at + n], alone)
        at += n
    assert document_starts([2, 1], tokens=5).tolist() == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("lengths", "tokens", "error", "words"),
    [
        ([], None, ValueError, "tokens must be a whole number of at least 1: got 0"),
        ([2, 0], None, ValueError, "lengths must be a whole number of at least 1: got 0"),
        ([2, 1.0], None, TypeError, "lengths must be a whole number of at least 1: got 1.0"),
        ([2, 1], 2, ValueError, "tokens must be a whole number of at least 3: got 2"),
    ],
)
def test_documents_without_tokens_are_refused(lengths, tokens, error, words):
    with pytest.raises(error, match=words):
        document_starts(lengths, tokens)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("size", [1e-12, 1e-3, 1e3, 1e30])
def test_extreme_steps_neither_overflow_nor_lose_the_state(backend, size):
    need(backend)
    torch.manual_seed(5)
    u, B, C = torch.randn(1, 70, 4), torch.randn(1, 70, 2), torch.randn(1, 70, 2)
    delta = size * torch.rand(1, 70, 4) * (torch.rand(1, 70, 4) < 0.5)  # half of them exactly 0
    A = -torch.rand(4, 2) - 0.1
    xs = [x.requires_grad_() for x in (u, delta, A, B, C)]
    y, state = selective_scan(*xs, return_state=True, backend=backend)
    truth = selective_scan(*[x.detach().double() for x in xs], backend="reference")
    assert torch.isfinite(y).all()
    assert (y - truth).abs().max() <= 2e-6 * truth.abs().max()
    grads = torch.autograd.grad((y / y.abs().max()).sum(), xs)
    if size < 1e30:
        assert all(torch.isfinite(g).all() for g in grads)


@functools.cache
def long_truth():
    """64k tokens, the weights of the goal, and what float64 makes of them: for all backends."""
    torch.manual_seed(6)
    xs, _ = make(batch=1, tokens=65536, channels=8, d_state=4, dtype=torch.float32)
    up = upstream(xs)
    high = [x.detach().double().requires_grad_() for x in xs]
    return xs, up, run(high, None, "loop", up)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["chunked", "loop", "compiled"])
def test_64k_tokens_in_float32_stay_near_float64(backend):
    need(backend)
    xs, up, truth = long_truth()
    ours = run(xs, None, backend, up)
    for o, t in zip(ours, truth, strict=True):
        assert (o - t).abs().max() <= 2e-4 * t.abs().max()


def test_half_precision_input_keeps_its_state_in_float32():
    torch.manual_seed(7)
    xs = [torch.randn(1, 40, 3).bfloat16(), torch.rand(1, 40, 3).bfloat16(), -torch.rand(3, 2)]
    xs += [torch.randn(1, 40, 2).bfloat16() for _ in range(2)]
    y, state = selective_scan(*xs, return_state=True)
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    truth = selective_scan(*[x.double() for x in xs], backend="reference")
    assert (y - truth).abs().max() <= 2**-8 * truth.abs().max()  # only the rounding of y


def test_no_tokens_give_no_output_and_the_state_back():
    state = torch.randn(2, 3, 4)
    zero = torch.zeros(2, 0, 3), torch.zeros(2, 0, 4)
    y, last = selective_scan(
        zero[0],
        zero[0],
        -torch.ones(3, 4),
        zero[1],
        zero[1],
        initial_state=state,
        return_state=True,
    )
    assert y.shape == (2, 0, 3)
    assert torch.equal(last, state)


def test_auto_takes_the_compiled_loop_and_does_without_a_compiler(monkeypatch):
    u, A = torch.randn(1, 9, 3), -torch.ones(3, 2)
    monkeypatch.setenv("LLMBOOK_COMPILER", "none")
    native._library.cache_clear()
    try:
        choice = explain_backend(u, A)
        assert choice.backend == "loop"
        assert "no C compiler" in choice.others["compiled"]
        with pytest.raises(ValueError, match="backend='compiled' cannot run this scan"):
            selective_scan(u, u.abs(), A, u[..., :2], u[..., :2], backend="compiled")
    finally:
        native._library.cache_clear()
    monkeypatch.delenv("LLMBOOK_COMPILER")
    if native.compiler():
        assert explain_backend(u, A).backend == "compiled"
        assert "not triton:" in str(explain_backend(u, A))
    assert explain_backend(u[:, :1], A).backend == "reference"
    native._library.cache_clear()


def test_a_compiler_that_fails_is_told(monkeypatch, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("LLMBOOK_COMPILER", str(broken))
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "cache"))
    native._library.cache_clear()
    try:
        assert "no such flag" in compiled.why_not()
    finally:
        native._library.cache_clear()


def test_it_is_built_in_a_folder_with_spaces_and_told_where_none_can_be_made(
    monkeypatch, tmp_path
):
    if native.compiler() is None:
        pytest.skip("there is no C compiler")
    try:
        monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "ein Cäche мой"))
        native._library.cache_clear()
        assert compiled.why_not() is None and list(tmp_path.glob("*/compiled/*.so"))
        monkeypatch.setenv("LLMBOOK_CACHE", "/dev/null/cache")  # as in a home that is read-only
        native._library.cache_clear()
        assert "/dev/null/cache" in compiled.why_not()
    finally:
        native._library.cache_clear()


U, DT, RATE, BC = torch.zeros(2, 7, 3), torch.ones(2, 7, 3), -torch.ones(3, 4), torch.ones(2, 7, 4)
GOOD = {"u": U, "delta": DT, "A": RATE, "B": BC, "C": BC}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"u": [1]}, TypeError, "u must be a tensor, floating point"),
        ({"u": U.long()}, TypeError, "u must be floating point"),
        ({"u": U[0]}, ValueError, "u must be floating point"),
        ({"delta": DT[:, :6]}, ValueError, "delta must be floating point .*tokens=7"),
        ({"delta": -DT}, ValueError, "delta must not be negative"),
        ({"A": RATE[:2]}, ValueError, r"A must be floating point \(channels=3, d_state\)"),
        ({"B": BC[..., :3]}, ValueError, "B must be floating point .*d_state=4"),
        ({"C": BC[:1]}, ValueError, "C must be floating point .batch=2"),
        ({"D": torch.ones(4)}, ValueError, "D must be floating point"),
        ({"z": U[:, :3]}, ValueError, "z must be floating point"),
        ({"delta_bias": torch.ones(2)}, ValueError, "delta_bias must be floating point"),
        ({"initial_state": torch.zeros(2, 3, 5)}, ValueError, "initial_state must be"),
        (
            {"initial_state": torch.zeros(2, 3, 4).half()},
            TypeError,
            "initial_state must be float32",
        ),
        ({"starts": torch.zeros(2, 7)}, TypeError, "starts must be bool"),
        ({"starts": torch.zeros(2, 6).bool()}, ValueError, "starts must be"),
        ({"backend": "fast"}, ValueError, "backend must be"),
        ({"backend": "triton"}, ValueError, "cannot run this scan"),
    ],
)
def test_bad_input_is_named(change, error, words):
    with pytest.raises(error, match=words):
        selective_scan(**{**GOOD, **change})


@pytest.mark.parametrize("backend", ["loop", "compiled"])
@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize("given", [(), ("D",), ("z",), ("delta_bias",), ("z", "delta_bias")])
def test_each_option_alone_has_the_formula_s_gradients(given, softplus, backend):
    need(backend)
    torch.manual_seed(8)
    (u, delta, A, B, C, D, z, bias, _), _ = make(tokens=1100, channels=3)  # more than one piece
    with torch.no_grad():
        delta.abs_()
        bias.abs_()
    options = {"D": D, "z": z, "delta_bias": bias}
    xs = [u, delta, A, B, C, *(options[name] for name in given)]
    up, found = torch.randn(u.shape, dtype=torch.float64), []
    for how in (backend, "chunked"):
        more = dict(zip(given, xs[5:], strict=True), delta_softplus=softplus, backend=how)
        y = selective_scan(*xs[:5], **more)
        found.append([y.detach(), *torch.autograd.grad((y * up).sum(), xs)])
    for ours, truth in zip(*found, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["loop", "compiled"])
@pytest.mark.parametrize("given", [(), ("D",), ("z", "delta_bias")])
def test_nothing_given_is_written_over_and_the_way_back_can_be_gone_twice(given, backend):
    need(backend)
    torch.manual_seed(10)
    (u, delta, A, B, C, D, z, bias, _), _ = make()
    with torch.no_grad():
        delta.abs_()
        bias.abs_()
    options = {"D": D, "z": z, "delta_bias": bias}
    options = {name: options[name] for name in given}
    xs, up = [u, delta, A, B, C, *options.values()], torch.randn(u.shape, dtype=torch.float64)
    before = [x.detach().clone() for x in (*xs, up)]
    for softplus in (False, True):
        y = selective_scan(*xs[:5], **options, delta_softplus=softplus, backend=backend)
        told = y.detach().clone()
        first = torch.autograd.grad(y, xs, up, retain_graph=True)
        again = torch.autograd.grad(y, xs, up)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert torch.equal(y, told)
    assert all(torch.equal(a, b) for a, b in zip((*xs, up), before, strict=True))


@pytest.mark.parametrize("backend", ["loop", "compiled"])
def test_inputs_and_gradients_may_lie_in_memory_in_any_order(backend):
    need(backend)
    torch.manual_seed(9)
    xs, starts = make(documents=True)
    turned = [x.detach().mT.contiguous().mT if x.ndim > 1 else x.detach() for x in xs]
    up = [x.mT.contiguous().mT for x in upstream(xs)]
    found = [
        run([x.requires_grad_() for x in given], starts, backend, up) for given in (xs, turned)
    ]
    for ours, truth in zip(*found, strict=True):
        torch.testing.assert_close(ours, truth)
