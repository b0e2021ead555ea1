"""A state that is a matrix in Triton: Mamba-2's scan and the gated delta rule, both ways.

    S̃ = a S,   w = b (v − c S̃ k),   S ← S̃ + w kᵀ,   o = S q        (see `llmbook.ssm.matrix_state`)

A program owns one head of one sequence and a block of its values, keeps their part of the state in
registers, and walks over the tokens. Only the state before each stretch of tokens is stored. The
backward pass runs a stretch again from there, puts its states into a scratch of one stretch, and
walks back, with G the gradient of S:
    G += do qᵀ,  dq = Sᵀ do,  dw = G k,  dv = b dw,  db = dw·(v − c S̃ k),  e = −c b dw,
    dk = Gᵀ w + S̃ᵀ e,  G += e kᵀ,  d log a = Σ G ∘ S̃,  G ← a G
Gradients of q, k, a and b are summed over blocks of values and heads of a group afterwards: no
atomics. No products of matrices, hence no tensor cores: it runs on a T4 as well. The chunked form
waits for fewer tokens, one after the other; this one stores less.

Shapes in comments: K keys, V values of the block. Source: Dao and Gu 2024; Yang et al. 2025.
"""

import contextlib

import torch
import triton
import triton.language as tl

from llmbook.kernels import interpreting

NUMBERS_IN_A_STATE = 2048  # of a program: keys · values
WARPS = 4


def stretch():
    """Tokens between two kept states."""
    return 8 if interpreting() else 64


@triton.jit
def _token(
    KEYS, VALUES, BETA, LOG_A, at, at_group, there, n, d, n_keys, n_values, HAS_BETA: tl.constexpr
):
    """k [K], v [V], a and b of a token; one that is not there writes nothing and keeps all."""
    k = tl.load(KEYS + at_group * n_keys + n, mask=there & (n < n_keys), other=0.0)
    v = tl.load(VALUES + at * n_values + d, mask=there & (d < n_values), other=0.0)
    a = tl.exp(tl.load(LOG_A + at, mask=there, other=0.0))
    beta = 1.0
    if HAS_BETA:
        beta = tl.load(BETA + at, mask=there, other=0.0)
    return k, v, a, beta


@triton.jit
def _place(t, n_tokens, n_heads, group_heads):
    """Where token t stands in (batch, tokens, heads) and in (batch, tokens, groups)."""
    unit = tl.cast(tl.program_id(1), tl.int64)
    row = (unit // n_heads) * n_tokens + t
    head = unit % n_heads
    return row * n_heads + head, row * (n_heads // group_heads) + head // group_heads


@triton.jit
def _write(state, k, v, a, beta, CORRECT: tl.constexpr):
    """S̃ [V, K], what is written before b weighs it, and after: [V]."""
    faded = a * state
    if CORRECT:
        v -= tl.sum(faded * k[None, :], 1)
    return faded, v, beta * v


@triton.jit
def forward_kernel(
    Q,
    KEYS,
    VALUES,
    BETA,
    LOG_A,
    INITIAL,
    OUT,
    KEPT,
    LAST,
    n_tokens,
    n_heads,
    group_heads,
    n_keys,
    n_values,
    n_stretches,
    HAS_BETA: tl.constexpr,
    CORRECT: tl.constexpr,
    T: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
):
    """o of every token, the state before each stretch of T, the last state."""
    unit = tl.cast(tl.program_id(1), tl.int64)
    n = tl.arange(0, K)
    d = tl.program_id(0) * V + tl.arange(0, V)
    both = (d < n_values)[:, None] & (n < n_keys)[None, :]
    in_state = d[:, None] * n_keys + n[None, :]
    size = n_values * n_keys
    state = tl.load(INITIAL + unit * size + in_state, mask=both, other=0.0)
    for s in range(n_stretches):
        tl.store(KEPT + (unit * n_stretches + s) * size + in_state, state, mask=both)
        for i in range(T):
            there = s * T + i < n_tokens
            at, group = _place(s * T + i, n_tokens, n_heads, group_heads)
            k, v, a, beta = _token(
                KEYS, VALUES, BETA, LOG_A, at, group, there, n, d, n_keys, n_values, HAS_BETA
            )
            q = tl.load(Q + group * n_keys + n, mask=there & (n < n_keys), other=0.0)
            faded, _, w = _write(state, k, v, a, beta, CORRECT)
            state = faded + w[:, None] * k[None, :]
            o = tl.sum(state * q[None, :], 1)
            tl.store(OUT + at * n_values + d, o, mask=there & (d < n_values))
    tl.store(LAST + unit * size + in_state, state, mask=both)


@triton.jit
def backward_kernel(
    Q,
    KEYS,
    VALUES,
    BETA,
    LOG_A,
    KEPT,
    SCRATCH,
    DO,
    DLAST,
    DQ,
    DK,
    DV,
    DBETA,
    DLOG,
    DINITIAL,
    n_tokens,
    n_heads,
    group_heads,
    n_keys,
    n_values,
    n_stretches,
    HAS_BETA: tl.constexpr,
    CORRECT: tl.constexpr,
    T: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
):
    """All gradients, from the last token; of q, k, a and b a part for each block of values."""
    unit = tl.cast(tl.program_id(1), tl.int64)
    block = tl.cast(tl.program_id(0), tl.int64)
    part = block * (tl.num_programs(1) // n_heads) * n_tokens * n_heads
    n = tl.arange(0, K)
    d = tl.program_id(0) * V + tl.arange(0, V)
    in_n, in_d = n < n_keys, d < n_values
    both = in_d[:, None] & in_n[None, :]
    in_state = d[:, None] * n_keys + n[None, :]
    size = n_values * n_keys
    dstate = tl.load(DLAST + unit * size + in_state, mask=both, other=0.0)
    for back in range(n_stretches):
        s = n_stretches - 1 - back
        state = tl.load(KEPT + (unit * n_stretches + s) * size + in_state, mask=both, other=0.0)
        for i in range(T):  # the stretch once more; the state before each token is put aside
            tl.store(SCRATCH + (unit * T + i) * size + in_state, state, mask=both)
            there = s * T + i < n_tokens
            at, group = _place(s * T + i, n_tokens, n_heads, group_heads)
            k, v, a, beta = _token(
                KEYS, VALUES, BETA, LOG_A, at, group, there, n, d, n_keys, n_values, HAS_BETA
            )
            faded, _, w = _write(state, k, v, a, beta, CORRECT)
            state = faded + w[:, None] * k[None, :]
        tl.debug_barrier()  # what one thread has put aside another may read
        for back_i in range(T):
            i = T - 1 - back_i
            there = s * T + i < n_tokens
            at, group = _place(s * T + i, n_tokens, n_heads, group_heads)
            k, v, a, beta = _token(
                KEYS, VALUES, BETA, LOG_A, at, group, there, n, d, n_keys, n_values, HAS_BETA
            )
            q = tl.load(Q + group * n_keys + n, mask=there & in_n, other=0.0)
            do = tl.load(DO + at * n_values + d, mask=there & in_d, other=0.0)
            state = tl.load(SCRATCH + (unit * T + i) * size + in_state, mask=both, other=0.0)
            faded, rest, w = _write(state, k, v, a, beta, CORRECT)
            now = faded + w[:, None] * k[None, :]
            dstate += do[:, None] * q[None, :]
            dq = tl.sum(now * do[:, None], 0)
            dw = tl.sum(dstate * k[None, :], 1)
            dk = tl.sum(dstate * w[:, None], 0)
            if CORRECT:
                e = -beta * dw
                dk += tl.sum(faded * e[:, None], 0)
                dstate += e[:, None] * k[None, :]
            dlog = tl.sum(tl.sum(dstate * faded, 1), 0)
            dstate *= a
            tl.store(DV + at * n_values + d, beta * dw, mask=there & in_d)
            tl.store(DQ + (part + at) * n_keys + n, dq, mask=there & in_n)
            tl.store(DK + (part + at) * n_keys + n, dk, mask=there & in_n)
            tl.store(DLOG + part + at, dlog, mask=there)
            if HAS_BETA:
                tl.store(DBETA + part + at, tl.sum(dw * rest, 0), mask=there)
        tl.debug_barrier()  # before the next stretch takes the scratch
    tl.store(DINITIAL + unit * size + in_state, dstate, mask=both)


def tile_of(n_keys, n_values):
    """(keys, values) of a program's part of a state: powers of two."""
    keys = triton.next_power_of_2(n_keys)
    most = max(1, NUMBERS_IN_A_STATE // keys)
    return keys, min(triton.next_power_of_2(n_values), most)


class MatrixState(torch.autograd.Function):
    """(o, last state) by the kernels; arguments as `llmbook.ssm.matrix_state.run`'s, in float32.

    Memory between the passes: the inputs, and a state in `stretch()` tokens. The backward pass
    holds a stretch of states, and dq and dk once for each head and each block of its values.
    """

    @staticmethod
    def forward(ctx, q, k, v, beta, log_alpha, initial, correct):
        (batch, tokens, heads, values), keys = v.shape, q.shape[-1]
        T, (K, V) = stretch(), tile_of(keys, values)
        stretches = triton.cdiv(tokens, T)
        o, last = torch.empty_like(v), torch.empty_like(initial)
        kept = v.new_empty(batch, heads, stretches, values, keys)
        sizes = (tokens, heads, heads // q.shape[2], keys, values, stretches)
        flags = {"HAS_BETA": beta is not None, "CORRECT": correct, "T": T, "K": K, "V": V}
        grid = (triton.cdiv(values, V), batch * heads)
        with _on(v):
            read = (q, k, v, beta, log_alpha, initial)
            forward_kernel[grid](*read, o, kept, last, *sizes, **flags, num_warps=WARPS)
        ctx.save_for_backward(q, k, v, beta, log_alpha, kept)
        ctx.sizes, ctx.flags, ctx.grid = sizes, flags, grid
        return o, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dlast):
        q, k, v, beta, log_alpha, kept = ctx.saved_tensors
        (batch, tokens, heads, values), (groups, keys) = v.shape, q.shape[2:]
        blocks = ctx.grid[0]
        dq, dk = (v.new_empty(blocks, batch, tokens, heads, keys) for _ in range(2))
        dlog = v.new_empty(blocks, *log_alpha.shape)
        dbeta = None if beta is None else torch.empty_like(dlog)
        dv, dinitial = torch.empty_like(v), torch.empty_like(dlast)
        scratch = v.new_empty(batch, heads, ctx.flags["T"], values, keys)
        read = (*ctx.saved_tensors, scratch, do.contiguous(), dlast.contiguous())
        written = (dq, dk, dv, dbeta, dlog, dinitial)
        with _on(v):
            backward_kernel[ctx.grid](*read, *written, *ctx.sizes, **ctx.flags, num_warps=WARPS)
        dq, dk = (x.unflatten(3, (groups, -1)).sum((0, 4)) for x in (dq, dk))
        dbeta = None if beta is None else dbeta.sum(0)
        return dq, dk, dv, dbeta, dlog.sum(0), dinitial, None


def _on(x):
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
