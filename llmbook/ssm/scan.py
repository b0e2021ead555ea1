"""The selective scan of Mamba: one function, and the ways to compute it.

    h_t = exp(Δ_t A) ∘ h_(t−1) + Δ_t B_t u_t        y_t = C_t h_t + D u_t

For each channel a state of `d_state` numbers. A (and D) are learned constants; Δ, B and C are made
from the input, token by token, so what is kept and what is taken in depends on what is read.

    reference    the two lines above, one token after the other
    associative  all states at once by a tree of joined steps: log2(tokens) rounds
    chunked      trees within chunks, the state handed from chunk to chunk
    loop         a loop with the state in place and its own backward pass, in torch
    compiled     the same loop in C, where a compiler is there (CPU)
    triton       one fused kernel with softplus, skip and gate (CUDA)

Shape legend: B batch, L tokens, D channels, N d_state. States are float32 (float64 for float64).
Source: Gu and Dao 2023.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from llmbook.backends import Backends
from llmbook.checks import on_device, tensor
from llmbook.recurrent.scan import linear_scan
from llmbook.ssm import compiled
from llmbook.ssm.inputs import check_starts, check_state, state_dtype, step_size
from llmbook.ssm.loop import LoopScan

BACKENDS = ("reference", "associative", "chunked", "loop", "compiled", "triton")
CHUNK = 64


def selective_scan(
    u,
    delta,
    A,
    B,
    C,
    *,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    initial_state=None,
    starts=None,
    return_state=False,
    backend="auto",
):
    """Mamba's scan over a batch of sequences: y (batch, tokens, channels) in u's dtype.

    u, delta, z: (batch, tokens, channels). A: (channels, d_state), negative. B, C: (batch, tokens,
    d_state). D, delta_bias: (channels,). The step is Δ = softplus(delta + delta_bias) with
    delta_softplus, else delta + delta_bias, which must then not be negative. z: y is multiplied by
    silu(z). As in Mamba's code the input is weighed by Δ B, not by the exact hold of B
    (`llmbook.ssm.zero_order_hold`).

    initial_state: (batch, channels, d_state) in float32 (float64 for float64 input), the state
    before the first token; with return_state the result is (y, state after the last), so that a
    sequence can be cut anywhere and carried on. starts: bool (batch, tokens), True where a new
    document begins: the state is emptied before that token.

    Cost: about 9 · tokens · channels · d_state multiplications and additions. Memory between the
    passes: every state in "reference" and "associative", one in CHUNK tokens in the others.

    Raises ValueError or TypeError for shapes, dtypes, devices, a negative step, a state of the
    wrong size or in half precision, and a backend that cannot run here.
    """
    high, initial_state = _check(u, delta, A, B, C, D, z, delta_bias, initial_state, starts)
    chosen = _backends(u, A).choose(backend)
    step = None if delta_softplus else step_size(delta, delta_bias, False, high)
    if chosen == "triton":
        from llmbook.kernels.scan import selective_scan as kernel

        y, state = kernel(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, starts
        )
        return (y, state) if return_state else y
    if not delta_softplus:
        delta, delta_bias = step, None
    elif chosen not in _LOOPS:
        delta, delta_bias = step_size(delta, delta_bias, True, high), None
    xs = [None if x is None else x.to(high) for x in (u, delta, A, B, C, D, z, delta_bias)]
    if chosen in _LOOPS and u.shape[1]:
        y, state = LoopScan.apply(*xs, initial_state, starts, delta_softplus, _LOOPS[chosen])
    else:
        u_, delta, A, B, C, D, z, _ = xs
        y, state = torch.zeros_like(u_), initial_state
        if u.shape[1]:
            y, state = _RUN[chosen](u_, delta, A, B, C, initial_state, starts)
        y = y if D is None else y + u_ * D
        y = y if z is None else y * F.silu(z)
    y = y.to(u.dtype)
    return (y, state) if return_state else y


def selective_step(
    u, delta, A, B, C, state, *, D=None, z=None, delta_bias=None, delta_softplus=False
):
    """One token: u, delta, z (batch, channels), B, C (batch, d_state) → y, the state after it.

    The same as `selective_scan` over a sequence of one, at the cost of a few products.
    """
    one = [None if x is None else x.unsqueeze(1) for x in (u, delta, B, C, z)]
    y, state = selective_scan(
        one[0],
        one[1],
        A,
        one[2],
        one[3],
        D=D,
        z=one[4],
        delta_bias=delta_bias,
        delta_softplus=delta_softplus,
        initial_state=state,
        return_state=True,
        backend="reference",
    )
    return y.squeeze(1), state


# --- the backends: (u, delta, A, B, C, initial state, starts) → y, last state


def _terms(u, delta, A, B, starts):
    """Transitions exp(Δ A) and inputs Δ u B of every token: two (B, L, D, N)."""
    a = (delta.unsqueeze(-1) * A).exp()
    if starts is not None:
        a = a.masked_fill(starts[..., None, None], 0.0)
    return a, (delta * u).unsqueeze(-1) * B.unsqueeze(2)


def _reference(u, delta, A, B, C, state, starts):
    ys = []
    steps = (u.unbind(1), delta.unbind(1), B.unbind(1), C.unbind(1))
    for t, (u_t, delta_t, B_t, C_t) in enumerate(zip(*steps, strict=True)):
        if starts is not None:
            state = state.masked_fill(starts[:, t, None, None], 0.0)
        kept = torch.exp(delta_t[..., None] * A)  # (B, D, N)
        state = kept * state + (delta_t * u_t)[..., None] * B_t[:, None]
        ys.append((state * C_t[:, None]).sum(-1))
    return torch.stack(ys, 1), state


def _associative(u, delta, A, B, C, state, starts):
    a, b = _terms(u, delta, A, B, starts)
    states = linear_scan(a, b, state).states  # (B, L, D, N)
    return (states @ C.unsqueeze(-1)).squeeze(-1), states[:, -1]


def _chunked(u, delta, A, B, C, state, starts):
    ys = []
    parts = [x.split(CHUNK, 1) for x in (u, delta, B, C)]  # a slice's gradient has the whole size
    begins = [None] * len(parts[0]) if starts is None else starts.split(CHUNK, 1)
    for u_c, delta_c, B_c, C_c, begin in zip(*parts, begins, strict=True):
        args = (u_c, delta_c, A, B_c, C_c, state, begin)
        if torch.is_grad_enabled():  # keep one state a chunk, run it again going back
            y, state = checkpoint(_associative, *args, use_reentrant=False)
        else:
            y, state = _associative(*args)
        ys.append(y)
    return torch.cat(ys, 1), state


_RUN = {"reference": _reference, "associative": _associative, "chunked": _chunked}
_LOOPS = {"loop": "torch", "compiled": "compiled"}  # these take softplus, skip and gate as well


# --- which backend


_REASONS = {
    "triton": "one fused kernel on a CUDA device",
    "compiled": "one fused loop, compiled for this CPU",
    "loop": "a loop with the state in place, its backward pass written out",
    "reference": "a single token is one step of the formula",
}
_PASSED_OVER = {
    "reference": "the same result, slower: it keeps every state",
    "associative": "the same result, log2(tokens) times the work, every state kept",
    "chunked": "the same result with more passes over memory",
    "loop": "the same result, step by step in Python",
    "compiled": "the same result; for a single token there is no loop to fuse",
    "triton": "not chosen for this input",
}


def explain_backend(u, A, backend="auto"):
    """Say which backend `selective_scan` would run for u and A, and why not the others.

    Takes u (batch, tokens, channels) and A; a `BackendChoice`, to be printed. May build the
    compiled loop, once.
    """
    return _backends(u, A).explain(backend)


def _backends(u, A):
    if u.shape[1] <= 1:
        order = ("reference",)
    else:
        order = ("triton", "loop") if u.is_cuda else ("compiled", "loop")
    return Backends(
        "this scan", BACKENDS, order, lambda name: _why_not(name, u, A), _REASONS, _PASSED_OVER
    )


def _why_not(backend, u, A):
    if backend == "compiled":
        if u.device.type != "cpu":
            return f"the compiled loop runs on the CPU: got {u.device}"
        return compiled.why_not()
    return _why_not_triton(u, A) if backend == "triton" else None


def _why_not_triton(u, A):
    from llmbook.kernels import installed, interpreting

    if u.dtype == torch.float64 or A.dtype == torch.float64:
        return "the Triton kernel keeps its state in float32: got float64"
    if A.shape[-1] > 32:
        return f"the Triton kernel takes d_state up to 32: got {A.shape[-1]}"
    if not installed():
        return "the package triton is not installed (it exists for Linux alone)"
    if not u.is_cuda and not interpreting():
        return f"the Triton kernel needs a CUDA device: got {u.device}"
    return None


# --- bad input


def _check(u, delta, A, B, C, D, z, delta_bias, initial_state, starts):
    """Raise for what does not fit; the dtype of the state, and the state to begin with."""
    tensor("u", u, "batch tokens channels", float)
    sizes = dict(zip(("batch", "tokens", "channels"), u.shape, strict=True))
    tensor("A", A, "channels d_state", float, **sizes)
    sizes["d_state"] = A.shape[1]
    tensor("delta", delta, "batch tokens channels", float, **sizes)
    for name, x in (("B", B), ("C", C)):
        tensor(name, x, "batch tokens d_state", float, **sizes)
    for name, x, axes in (
        ("z", z, "batch tokens channels"),
        ("D", D, "channels"),
        ("delta_bias", delta_bias, "channels"),
    ):
        if x is not None:
            tensor(name, x, axes, float, **sizes)
    on_device("u", u.device, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
    high = state_dtype(u, A)
    check_state(initial_state, "batch channels d_state", high, "u", u.device, **sizes)
    check_starts(starts, "u", u)
    if initial_state is None:
        shape = (sizes["batch"], sizes["channels"], sizes["d_state"])
        initial_state = torch.zeros(shape, dtype=high, device=u.device)
    return high, initial_state
