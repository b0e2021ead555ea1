"""Mamba-2's scan: one decay a head, so that a chunk of it is a masked matrix product.

    h_t = exp(Δ_t a) h_(t−1) + Δ_t x_t B_tᵀ        y_t = h_t C_t + D x_t

Written out, y = M (Δ x) with M_ij = (C_i · B_j) exp(Σ_(j<s≤i) Δ_s a) for j ≤ i: attention with C
for queries, B for keys, and a decay in place of the softmax. M is semiseparable: below the
diagonal every block has rank d_state at most, and the chunked form uses it: products within
chunks, a state of d_state × head_dim numbers between them.

Shape legend: b batch, c chunks, t tokens (of a chunk; i, j two of them), g groups, r heads of a
group, h heads, p head_dim, n d_state. Source: Dao and Gu 2024.
"""

import torch
from einops import rearrange, repeat

from llmbook.backends import Backends
from llmbook.checks import divides, on_device, tensor, wholes
from llmbook.recurrent.scan import linear_scan
from llmbook.ssm import matrix_state
from llmbook.ssm.chunks import cut, decays
from llmbook.ssm.inputs import check_starts, check_state, state_dtype, step_size

BACKENDS = ("reference", "associative", "matrix", "chunked", "compiled", "triton")
CHUNK = 64


def ssd(
    x,
    delta,
    A,
    B,
    C,
    *,
    D=None,
    delta_bias=None,
    delta_softplus=False,
    delta_limit=(0.0, float("inf")),
    initial_state=None,
    starts=None,
    return_state=False,
    chunk=CHUNK,
    backend="auto",
):
    """Structured state space duality: y (batch, tokens, heads, head_dim) in x's dtype.

    x: (batch, tokens, heads, head_dim). delta: (batch, tokens, heads). A, D, delta_bias: (heads,).
    B, C: (batch, tokens, groups, d_state), groups dividing heads: consecutive heads share them.
    Δ as in `selective_scan`, then clamped to delta_limit. initial_state: (batch, heads, head_dim,
    d_state), float32 (float64 for float64 input). starts: bool (batch, tokens), True where a
    document begins. Any number of tokens, whatever `chunk` is.

    backend: "reference" (the loop), "associative" (a tree of joined steps), "matrix" (M written
    out: tokens² · heads numbers), "chunked", "compiled" (a fused loop in C) or "triton";
    `explain_ssd_backend` says which "auto" takes.

    Cost of a chunk of T tokens, for each head: about 2 T² (d_state + head_dim) + 4 T d_state ·
    head_dim operations, so linear in the number of tokens.
    """
    _check(x, delta, A, B, C, D, delta_bias, delta_limit, chunk)
    (batch, tokens, heads, head_dim), n_states = x.shape, B.shape[-1]
    high = state_dtype(x, A)
    x_ = x.to(high)
    backend = _backends(x_, B).choose(backend)
    delta = step_size(delta, delta_bias, delta_softplus, high).clamp(*delta_limit)
    shape = (batch, heads, head_dim, n_states)
    axes = "batch heads head_dim d_state"
    sizes = dict(zip(axes.split(), shape, strict=True))
    check_state(initial_state, axes, high, "x", x.device, **sizes)
    check_starts(starts, "x", x)
    state = initial_state
    if state is None:
        state = torch.zeros(shape, dtype=high, device=x.device)
    A, B, C = A.to(high), B.to(high), C.to(high)
    if not tokens:
        y = torch.zeros_like(x_)
    elif backend in ("compiled", "triton"):
        fed, kept = delta[..., None] * x_, delta * A
        y, state = matrix_state.run(
            C, B, fed, None, kept, state, starts, correct=False, backend=backend
        )
    else:
        y, state = _RUN[backend](x_, delta, A, B, C, state, starts, chunk)
    if D is not None:
        y = y + D[:, None] * x_
    y = y.to(x.dtype)
    return (y, state) if return_state else y


def explain_ssd_backend(x, B, backend="auto"):
    """Say which backend `ssd` would run for x and B, and why not the others: a `BackendChoice`."""
    return _backends(x, B).explain(backend)


def _backends(x, B):
    def why_not(name):
        return matrix_state.why_not(name, x, B.shape[-1])

    m = matrix_state
    return Backends("this scan", BACKENDS, m.order(x), why_not, m.REASONS, m.PASSED_OVER)


def ssd_step(x, delta, A, B, C, state, **options):
    """One token: x (batch, heads, head_dim), delta (batch, heads), B, C (batch, groups, d_state).

    → y (batch, heads, head_dim), the state after it. options: `ssd`'s D, delta_bias, …
    """
    one = [part.unsqueeze(1) for part in (x, delta, B, C)]
    y, state = ssd(
        one[0],
        one[1],
        A,
        one[2],
        one[3],
        initial_state=state,
        return_state=True,
        backend="reference",
        **options,
    )
    return y.squeeze(1), state


def semiseparable(delta, A, B, C, starts=None):
    """The matrix M of y = M (Δ x), written out: (batch, heads, tokens, tokens).

    Arguments as in `ssd`; delta is Δ itself.
    """
    heads, tokens = A.shape[0], delta.shape[1]
    B, C = (repeat(v, "b t g n -> b t (g r) n", r=heads // v.shape[2]) for v in (B, C))
    kept = decays(delta * A, starts, tokens).between.squeeze(1)  # (b, i, j, h)
    return torch.einsum("bihn,bjhn,bijh->bhij", C, B, kept)


# --- the backends: (x, Δ, A, B, C, state, starts, chunk) → y, last state


def _per_head(v, heads):
    return repeat(v, "b t g n -> b t (g r) n", r=heads // v.shape[2])


def _reference(x, delta, A, B, C, state, starts, chunk):
    B, C = _per_head(B, len(A)), _per_head(C, len(A))
    ys = []
    steps = zip(*(v.unbind(1) for v in (x, delta, B, C)), strict=True)
    for t, (x_t, delta_t, B_t, C_t) in enumerate(steps):
        if starts is not None:
            state = state.masked_fill(starts[:, t, None, None, None], 0.0)
        kept = torch.exp(delta_t * A)[..., None, None]
        fed = (delta_t[..., None] * x_t)[..., None] * B_t[..., None, :]  # (b, h, p, n)
        state = kept * state + fed
        ys.append((state @ C_t[..., None]).squeeze(-1))
    return torch.stack(ys, 1), state


def _associative(x, delta, A, B, C, state, starts, chunk):
    B, C = _per_head(B, len(A)), _per_head(C, len(A))
    kept = torch.exp(delta * A)
    if starts is not None:
        kept = kept.masked_fill(starts[..., None], 0.0)
    fed = (delta[..., None] * x)[..., None] * B[..., None, :]  # (b, t, h, p, n)
    states = linear_scan(kept[..., None, None], fed, state).states
    return (states @ C[..., None]).squeeze(-1), states[:, -1]


def _matrix(x, delta, A, B, C, state, starts, chunk):
    return _chunked(x, delta, A, B, C, state, starts, x.shape[1])


def _chunked(x, delta, A, B, C, state, starts, chunk):
    tokens, groups = x.shape[1], B.shape[2]
    chunk = min(chunk, tokens)
    kept = decays(delta * A, starts, chunk)
    x = cut(rearrange(delta[..., None] * x, "b t (g r) p -> b t g r p", g=groups), chunk)
    B, C = cut(B, chunk), cut(C, chunk)

    def grouped(v):
        return v.unflatten(-1, (groups, -1))

    # within chunks: (C Bᵀ ∘ decay) x, the scores of a group shared by its heads
    scores = torch.einsum("bcign,bcjgn->bcgij", C, B).unsqueeze(3)  # (b, c, g, 1, i, j)
    within = rearrange(kept.between, "b c i j (g r) -> b c g r i j", g=groups)
    y = (scores * within) @ rearrange(x, "b c t g r p -> b c g r t p")
    y = rearrange(y, "b c g r t p -> b c t g r p")

    # what each chunk adds to the state, and the states before each chunk, one after the other
    ended = x * grouped(kept.to_end)[..., None]
    added = torch.einsum("bctgrp,bctgn->bcgrpn", ended, B)
    state = state.unflatten(1, (groups, -1))
    before = []
    for add, whole in zip(added.unbind(1), grouped(kept.whole).unbind(1), strict=True):
        before.append(state)
        state = whole[..., None, None] * state + add
    read = torch.einsum("bctgn,bcgrpn->bctgrp", C, torch.stack(before, 1))
    y = y + read * grouped(kept.from_start)[..., None]
    y = rearrange(y, "b c t g r p -> b (c t) (g r) p")[:, :tokens]
    return y, state.flatten(1, 2)


_RUN = {
    "reference": _reference,
    "associative": _associative,
    "matrix": _matrix,
    "chunked": _chunked,
}


# --- bad input


def _check(x, delta, A, B, C, D, delta_bias, delta_limit, chunk):
    tensor("x", x, "batch tokens heads head_dim", float)
    sizes = dict(zip(("batch", "tokens", "heads"), x.shape[:3], strict=True))
    tensor("delta", delta, "batch tokens heads", float, **sizes)
    tensor("A", A, "heads", float, **sizes)
    for name, v in (("D", D), ("delta_bias", delta_bias)):
        if v is not None:
            tensor(name, v, "heads", float, **sizes)
    tensor("B", B, "batch tokens groups d_state", float, **sizes)
    sizes |= {"groups": B.shape[2], "d_state": B.shape[3]}
    tensor("C", C, "batch tokens groups d_state", float, **sizes)
    divides("groups", sizes["groups"], "heads", sizes["heads"])
    on_device("x", x.device, delta=delta, A=A, B=B, C=C, D=D, delta_bias=delta_bias)
    if not 0 <= delta_limit[0] <= delta_limit[1]:
        raise ValueError(f"delta_limit must be 0 <= low <= high: got {delta_limit}")
    wholes(1, chunk=chunk)
