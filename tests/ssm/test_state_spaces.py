"""Discretisation, S4D and HiPPO; Mamba-2's scan and the delta rule, against their loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from llmbook.ssm import (
    S4D,
    discretise,
    gated_delta_rule,
    gated_delta_step,
    hippo_legs,
    hippo_memory,
    hippo_reconstruct,
    run_linear,
    selective_scan,
    semiseparable,
    ssd,
    ssd_step,
    zero_order_hold,
)

OSCILLATOR = torch.tensor([[0.0, 1.0], [-4.0, -0.4]], dtype=torch.float64)
PUSH = torch.tensor([[0.0], [1.0]], dtype=torch.float64)


# --- from an equation to steps


def test_the_hold_is_the_equation_for_an_input_that_stands_still():
    # against the equation solved in ten thousand small steps of Runge and Kutta
    A_bar, B_bar = discretise(OSCILLATOR, PUSH, 0.7)
    state, x, n = torch.tensor([1.0, -2.0], dtype=torch.float64), 3.0, 2000
    h, dt = state.clone(), 0.7 / n
    for _ in range(n):
        ks = []
        for part in (0, 0.5, 0.5, 1):
            at = h + dt * part * ks[-1] if ks else h
            ks.append(OSCILLATOR @ at + PUSH[:, 0] * x)
        h = h + dt / 6 * (ks[0] + 2 * ks[1] + 2 * ks[2] + ks[3])
    torch.testing.assert_close(A_bar @ state + B_bar[:, 0] * x, h, rtol=1e-10, atol=1e-10)


def test_two_half_steps_of_the_hold_are_one_and_a_singular_a_will_do():
    A = torch.zeros(2, 2, dtype=torch.float64)
    A[0, 1] = 1.0
    whole, half = discretise(A, PUSH, 0.5), discretise(A, PUSH, 0.25)
    torch.testing.assert_close(half[0] @ half[0], whole[0])
    torch.testing.assert_close(half[0] @ half[1] + half[1], whole[1])


@pytest.mark.parametrize("method", ["hold", "bilinear", "euler"])
def test_the_methods_agree_for_small_steps_in_their_order(method):
    exact = [discretise(OSCILLATOR, PUSH, dt)[0] for dt in (0.02, 0.01)]
    ours = [discretise(OSCILLATOR, PUSH, dt, method)[0] for dt in (0.02, 0.01)]
    errors = [(a - b).abs().max().item() for a, b in zip(ours, exact, strict=True)]
    if method == "hold":
        assert max(errors) == 0
    else:
        order = 2 if method == "euler" else 3  # of one step
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_euler_is_unstable_where_the_equation_is_stable():
    growth = {
        m: max(torch.linalg.eigvals(discretise(OSCILLATOR, PUSH, 0.5, m)[0]).abs())
        for m in ("hold", "bilinear", "euler")
    }
    assert growth["hold"] < 1
    assert growth["bilinear"] < 1
    assert growth["euler"] > 1


def test_the_diagonal_hold_is_the_matrix_one_also_near_zero():
    A = torch.tensor([-2.0, -1e-9, 0.0], dtype=torch.float64)
    A_bar, B_bar = zero_order_hold(A, torch.ones(3, dtype=torch.float64), 0.3)
    full = discretise(torch.diag(A), torch.ones(3, 1, dtype=torch.float64), 0.3)
    torch.testing.assert_close(torch.diag(A_bar), full[0])
    torch.testing.assert_close(B_bar[:, None], full[1])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((OSCILLATOR[:1], PUSH, 0.1), "A must be square"),
        ((OSCILLATOR, PUSH[:1], 0.1), "B must be"),
        ((OSCILLATOR, PUSH, 0.0), "delta must be a number above 0"),
        ((OSCILLATOR, PUSH, 0.1, "exact"), "method must be one of"),
    ],
)
def test_a_bad_discretisation_is_named(args, words):
    with pytest.raises(ValueError, match=words):
        discretise(*args)


# --- time-invariant layers


def test_s4d_as_convolution_recurrence_and_plain_system_are_equal():
    torch.manual_seed(0)
    layer = S4D(3, 4).double()
    x = torch.randn(2, 33, 3, dtype=torch.float64)
    once = layer(x)
    torch.testing.assert_close(layer(x, "recurrence"), once)
    A_bar, B_bar = layer.discrete()
    C = torch.view_as_complex(layer.C)
    plain = run_linear(
        torch.diag(A_bar[1]), B_bar[1][:, None], C[1][None], x[0, :, 1:2].to(A_bar.dtype)
    )
    torch.testing.assert_close(plain[:, 0].real + layer.D[1] * x[0, :, 1], once[0, :, 1])
    grads = torch.autograd.grad(once.square().sum(), list(layer.parameters()))
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in grads)


def test_hippo_remembers_a_smooth_signal_and_more_states_remember_better():
    t = torch.linspace(0, 1, 600, dtype=torch.float64)
    signal = torch.sin(9 * t) + 0.5 * torch.cos(23 * t)
    errors = [
        (hippo_reconstruct(hippo_memory(signal, n), 600) - signal).abs().mean().item()
        for n in (4, 12, 32)
    ]
    assert errors[0] > 5 * errors[1]
    assert errors[2] < 0.01
    A, B = hippo_legs(4)
    assert A[2, 1].item() == pytest.approx(-math.sqrt(15))
    assert torch.equal(A.diagonal(), torch.tensor([-1.0, -2, -3, -4], dtype=torch.float64))


def test_s4d_refuses_bad_input():
    with pytest.raises(ValueError, match="d_state must be a whole number"):
        S4D(3, 0)
    with pytest.raises(ValueError, match="dt_max must be a number at least 0.1: got 0.01"):
        S4D(3, dt_min=0.1, dt_max=0.01)
    with pytest.raises(ValueError, match="x must be"):
        S4D(3)(torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match="how must be"):
        S4D(3)(torch.zeros(2, 5, 3), "parallel")


# --- Mamba-2


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def ssd_inputs(batch, tokens, heads, head_dim, groups, d_state):
    xs = [draw(batch, tokens, heads, head_dim), draw(batch, tokens, heads), -torch.rand(heads)]
    xs += [draw(batch, tokens, groups, d_state) for _ in range(2)]
    xs += [draw(heads), draw(heads), draw(batch, heads, head_dim, d_state)]
    return [x.double().requires_grad_() for x in xs]


def run_ssd(xs, starts, backend, chunk, seed=1):
    x, delta, A, B, C, D, bias, state = xs
    y, last = ssd(
        x,
        delta,
        A,
        B,
        C,
        D=D,
        delta_bias=bias,
        delta_softplus=True,
        initial_state=state,
        starts=starts,
        return_state=True,
        chunk=chunk,
        backend=backend,
    )
    generator = torch.Generator().manual_seed(seed)
    up = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in (y, last)]
    return [y, last, *torch.autograd.grad((y * up[0]).sum() + (last * up[1]).sum(), xs)]


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(
    ("shape", "chunk"),
    [((2, 77, 4, 3, 2, 5), 16), ((1, 63, 3, 2, 1, 1), 64), ((1, 64, 6, 4, 3, 2), 32)],
)
@pytest.mark.parametrize("backend", ["associative", "matrix", "chunked"])
def test_ssd_and_all_gradients_equal_the_loop(backend, shape, chunk, documents):
    torch.manual_seed(0)
    xs = ssd_inputs(*shape)
    starts = torch.rand(shape[:2]) < 0.1 if documents else None
    ours, truth = (run_ssd(xs, starts, b, chunk) for b in (backend, "reference"))
    for o, t in zip(ours, truth, strict=True):
        torch.testing.assert_close(o, t, rtol=1e-9, atol=1e-9)


def test_ssd_is_the_selective_scan_with_one_rate_a_head():
    torch.manual_seed(1)
    x, delta, A, B, C, *_ = ssd_inputs(2, 20, 2, 3, 1, 4)
    ours = ssd(x, delta.abs(), A, B, C)
    wide = delta.abs()[..., None].expand_as(x).flatten(2)
    rate = A[:, None, None].expand(2, 3, 4).reshape(6, 4)
    theirs = selective_scan(x.flatten(2), wide, rate, B[:, :, 0], C[:, :, 0])
    torch.testing.assert_close(ours.flatten(2), theirs)


def test_ssd_is_its_matrix_and_the_matrix_has_low_rank_below_the_diagonal():
    torch.manual_seed(2)
    x, delta, A, B, C, *_ = ssd_inputs(1, 24, 2, 3, 1, 4)
    M = semiseparable(delta.abs(), A, B, C)
    y = torch.einsum("bhij,bjhp->bihp", M, delta.abs()[..., None] * x)
    torch.testing.assert_close(y, ssd(x, delta.abs(), A, B, C))
    assert torch.linalg.matrix_rank(M[0, 0, 12:, :12]) == 4
    assert torch.equal(M, M.tril())


def test_ssd_cut_anywhere_and_step_by_step_is_equal():
    torch.manual_seed(3)
    x, delta, A, B, C, D, bias, state = ssd_inputs(2, 13, 4, 3, 2, 5)
    options = {"D": D, "delta_bias": bias, "delta_softplus": True}
    whole = ssd(x, delta, A, B, C, initial_state=state, chunk=4, **options)
    s, ys = state, []
    for at in (slice(0, 5), slice(5, 13)):
        parts = [v[:, at] for v in (x, delta)], [v[:, at] for v in (B, C)]
        y, s = ssd(*parts[0], A, *parts[1], initial_state=s, return_state=True, chunk=4, **options)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys, 1), whole)
    for t in range(13):
        one = [v[:, t] for v in (x, delta)], [v[:, t] for v in (B, C)]
        y, state = ssd_step(*one[0], A, *one[1], state, **options)
        torch.testing.assert_close(y, whole[:, t])


@pytest.mark.parametrize("size", [1e-6, 1e4])
def test_ssd_in_float32_stays_near_float64_after_a_large_step(size):
    torch.manual_seed(4)
    x, _, A, B, C, *_ = ssd_inputs(1, 100, 2, 3, 1, 4)
    delta = torch.rand(1, 100, 2, dtype=torch.float64) * 0.1
    delta[:, 10] = size
    xs = [v.detach().float().requires_grad_() for v in (x, delta, A, B, C)]
    y = ssd(*xs)
    truth = ssd(*[v.detach().double() for v in xs], backend="reference")
    assert (y - truth).abs().max() <= 2e-6 * truth.abs().max()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(y.sum(), xs))


@pytest.mark.slow
def test_ssd_over_64k_tokens_in_float32_stays_near_float64():
    torch.manual_seed(5)
    x, delta, A, B, C, *_ = ssd_inputs(1, 65536, 2, 4, 1, 4)
    xs = [v.detach().float() for v in (x, 0.1 * delta.abs(), A, B, C)]
    y, truth = ssd(*xs), ssd(*[v.double() for v in xs], backend="reference")
    assert (y - truth).abs().max() <= 2e-5 * truth.abs().max()


# --- the delta rule


def delta_inputs(batch, tokens, heads, key_dim, value_dim):
    q, k = draw(batch, tokens, heads, key_dim), draw(batch, tokens, heads, key_dim)
    xs = [q, F.normalize(k, dim=-1), draw(batch, tokens, heads, value_dim)]
    xs += [torch.rand(batch, tokens, heads), -torch.rand(batch, tokens, heads)]
    xs += [draw(batch, heads, value_dim, key_dim)]
    return [x.double().detach().requires_grad_() for x in xs]


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(("shape", "chunk"), [((2, 77, 2, 4, 3), 16), ((1, 10, 1, 3, 5), 64)])
@pytest.mark.parametrize("backend", ["associative", "chunked"])
def test_delta_rule_and_all_gradients_equal_the_loop(backend, shape, chunk, documents):
    torch.manual_seed(0)
    xs = delta_inputs(*shape)
    starts = torch.rand(shape[:2]) < 0.1 if documents else None
    results = []
    for b in (backend, "reference"):
        o, last = gated_delta_rule(
            *xs[:5], initial_state=xs[5], starts=starts, return_state=True, chunk=chunk, backend=b
        )
        generator = torch.Generator().manual_seed(1)
        up = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in (o, last)]
        grads = torch.autograd.grad((o * up[0]).sum() + (last * up[1]).sum(), xs)
        results.append([o, last, *grads])
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-9)


def test_a_full_write_answers_its_value_and_leaves_other_keys_alone():
    torch.manual_seed(1)
    keys = torch.linalg.qr(draw(6, 6))[0][None, :, None]
    values = draw(1, 6, 1, 4)
    keys = torch.cat([keys, keys[:, :1]], 1)  # the first key once more, with another value
    values = torch.cat([values, draw(1, 1, 1, 4)], 1)
    full = torch.ones(1, 7, 1, dtype=torch.float64)
    _, state = gated_delta_rule(keys, keys, values, full, return_state=True)
    held = torch.einsum("bhvk,bthk->bthv", state, keys)
    torch.testing.assert_close(held[:, 1:], values[:, 1:])
    torch.testing.assert_close(held[:, 0], values[:, 6])  # overwritten, not added to


def test_delta_rule_is_cut_anywhere_and_carried_on():
    torch.manual_seed(2)
    q, k, v, beta, log_alpha, state = delta_inputs(1, 21, 2, 3, 4)
    parts = (q, k, v, beta, log_alpha)
    whole = gated_delta_rule(*parts, initial_state=state, chunk=8)
    one, s = gated_delta_rule(
        *[x[:, :5] for x in parts], initial_state=state, return_state=True, chunk=8
    )
    rest = gated_delta_rule(*[x[:, 5:] for x in parts], initial_state=s, chunk=8)
    torch.testing.assert_close(torch.cat([one, rest], 1), whole)


@pytest.mark.parametrize("forgets", [True, False])
def test_single_steps_of_the_delta_rule_equal_the_scan_with_every_gradient(forgets):
    torch.manual_seed(3)
    *parts, state = delta_inputs(2, 9, 3, 4, 5)
    if not forgets:
        parts[4] = None
    leaves = [x for x in (*parts, state) if x is not None]
    whole, last = gated_delta_rule(
        *parts, initial_state=state, return_state=True, backend="reference"
    )
    s, outs = state, []
    for t in range(9):
        o, s = gated_delta_step(*[None if x is None else x[:, t] for x in parts], s)
        outs.append(o)
    torch.testing.assert_close(torch.stack(outs, 1), whole)
    torch.testing.assert_close(s, last)
    up = torch.randn(whole.shape, dtype=torch.float64)
    ours, truth = (
        torch.autograd.grad((o * up).sum(), leaves) for o in (torch.stack(outs, 1), whole)
    )
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b)


def test_a_step_of_the_delta_rule_refuses_a_state_of_another_size_or_precision():
    q, v, one = torch.zeros(2, 3, 4), torch.zeros(2, 3, 5), torch.ones(2, 3)
    for state, error in (
        (torch.zeros(2, 3, 4, 5), ValueError),
        (torch.zeros(2, 3, 5, 4).half(), TypeError),
    ):
        with pytest.raises(error, match="initial_state"):
            gated_delta_step(q, q, v, one, None, state)


X, STEP, BN = torch.zeros(2, 7, 4, 3), torch.ones(2, 7, 4), torch.zeros(2, 7, 2, 5)
THREE = BN[:, :, [0, 0, 0]]
SSD = {"x": X, "delta": STEP, "A": -torch.ones(4), "B": BN, "C": BN}
RULE = {"q": X, "k": X, "v": X, "beta": STEP}


@pytest.mark.parametrize(
    ("function", "good", "change", "error", "words"),
    [
        (ssd, SSD, {"x": X[0]}, ValueError, r"x must be floating point \(batch, tokens"),
        (ssd, SSD, {"delta": -STEP}, ValueError, "delta must not be negative"),
        (ssd, SSD, {"A": torch.ones(3)}, ValueError, r"A must be floating point \(heads=4,\)"),
        (ssd, SSD, {"B": THREE, "C": THREE}, ValueError, "groups must divide"),
        (ssd, SSD, {"C": BN[..., :4]}, ValueError, "C must be floating point"),
        (ssd, SSD, {"B": BN[:, :, :0], "C": BN[:, :, :0]}, ValueError, "groups must divide"),
        (ssd, SSD, {"chunk": 0}, ValueError, "chunk must be a whole number"),
        (ssd, SSD, {"delta_limit": (2.0, 1.0)}, ValueError, "delta_limit must be"),
        (ssd, SSD, {"backend": "fast"}, ValueError, "backend must be"),
        (ssd, SSD, {"initial_state": torch.zeros(2, 4, 3, 5).half()}, TypeError, "initial_state"),
        (ssd, SSD, {"initial_state": torch.zeros(2, 4, 5, 3)}, ValueError, "initial_state"),
        (
            gated_delta_rule,
            RULE,
            {"k": X[:, :6]},
            ValueError,
            "k must be floating point .*tokens=7",
        ),
        (
            gated_delta_rule,
            RULE,
            {"v": X[:, :, :3]},
            ValueError,
            "v must be floating point .*heads=4, value_dim",
        ),
        (gated_delta_rule, RULE, {"beta": X}, ValueError, "beta must be floating point"),
        (gated_delta_rule, RULE, {"log_alpha": STEP}, ValueError, "log_alpha must be at most 0"),
        (gated_delta_rule, RULE, {"backend": "fast"}, ValueError, "backend must be"),
        (gated_delta_rule, RULE, {"starts": STEP}, TypeError, "starts must be bool"),
    ],
)
def test_bad_input_to_ssd_and_the_delta_rule_is_named(function, good, change, error, words):
    with pytest.raises(error, match=words):
        function(**{**good, **change})
