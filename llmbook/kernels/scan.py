"""The selective scan in Triton, forward and backward, with softplus, skip and gate in one kernel.

A program owns one sequence and a few channels, and walks over its tokens in tiles. Within a tile
all states come at once, from an associative scan along time of the pairs (a, b) that stand for
h → a h + b; between tiles the state is carried in registers. Nothing of size tokens × channels ×
d_state is ever stored: only the state before each tile, from which the backward pass makes the
tile's states again. No products of matrices, hence no tensor cores: it runs on a T4 as well.

The backward pass walks over the tiles from the last to the first. With h_(t−1) from the same scan,
shifted by one, and g_t = dy_t C_t + a_(t+1) g_(t+1) from a scan in reverse:
    du = Δ (g·B) + D dy,  dΔ = u (g·B) + Σ_n g h_(t−1) a A,  dB = Σ_d g Δ u,  dC = Σ_d h dy
and through softplus and gate. dB and dC are summed over a program's own channels in the kernel and
over programs afterwards: no atomics, so gradients are the same on every run.

Tiles are [T, D, N]: tokens, channels, states. Source: Gu and Dao 2023, section 3.3 (the fused scan
and recomputation); the tiles are ours.
"""

import contextlib

import torch
import triton
import triton.language as tl

from llmbook.kernels import interpreting

TILE_TOKENS = 16
NUMBERS_IN_A_TILE = 2048  # tokens · channels · states; 4096 makes the backward pass spill
WARPS = 4


@triton.jit
def _join(a, b, a_next, b_next):
    """(a, b) and then (a_next, b_next): h → a_next (a h + b) + b_next."""
    return a * a_next, a_next * b + b_next


@triton.jit
def _softplus(x):
    # log(1 + eˣ), without overflow for large x and without rounding to 0 for small
    big = tl.maximum(x, 0.0)
    rest = tl.exp(-tl.abs(x))
    return big + tl.where(rest < 1e-4, rest, tl.log(1.0 + rest))


@triton.jit
def _step(raw, SOFTPLUS: tl.constexpr):
    if SOFTPLUS:
        return _softplus(raw)
    else:
        return raw


@triton.jit
def _states(dt, u, b, A, fresh, state):
    """All states of a tile, the last of them, and the transitions; state: the one before it."""
    a = tl.exp(dt[:, :, None] * A[None, :, :])  # [T, D, N]
    a = tl.where(fresh[:, None, None], 0.0, a)
    fed = (dt * u)[:, :, None] * b[:, None, :]
    kept, own = tl.associative_scan((a, fed), 0, _join)
    return kept * state[None, :, :] + own, a


@triton.jit
def _row(x, row, T: tl.constexpr):
    """Row `row` of a [T, D, N] tile: [D, N]."""
    rows = tl.arange(0, T)
    return tl.sum(tl.where((rows == row)[:, None, None], x, 0.0), 0)


@triton.jit
def forward_kernel(
    U,
    DELTA,
    A_,
    B_,
    C_,
    SKIP,
    Z,
    BIAS,
    INITIAL,
    STARTS,
    Y,
    KEPT,
    LAST,
    n_tokens,
    n_channels,
    n_states,
    n_tiles,
    HAS_SKIP: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_STARTS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    T: tl.constexpr,
    D: tl.constexpr,
    N: tl.constexpr,
):
    """y of every token, the state before each tile, the last state."""
    row = tl.cast(tl.program_id(1), tl.int64)
    d = tl.program_id(0) * D + tl.arange(0, D)
    n = tl.arange(0, N)
    in_d, in_n = d < n_channels, n < n_states
    both = in_d[:, None] & in_n[None, :]
    at_state = (row * n_channels + d[:, None]) * n_states + n[None, :]
    A = tl.load(A_ + d[:, None] * n_states + n[None, :], mask=both, other=0.0)
    state = tl.load(INITIAL + at_state, mask=both, other=0.0)
    for tile in range(n_tiles):
        here = ((row * n_tiles + tile) * n_channels + d[:, None]) * n_states + n[None, :]
        tl.store(KEPT + here, state, mask=both)
        t = tile * T + tl.arange(0, T)
        in_t = t < n_tokens
        at = (row * n_tokens + t[:, None]) * n_channels + d[None, :]
        seen = in_t[:, None] & in_d[None, :]
        u = tl.load(U + at, mask=seen, other=0.0).to(tl.float32)  # [T, D]
        raw = tl.load(DELTA + at, mask=seen, other=0.0).to(tl.float32)
        if HAS_BIAS:
            raw += tl.load(BIAS + d, mask=in_d, other=0.0).to(tl.float32)[None, :]
        dt = tl.where(seen, _step(raw, SOFTPLUS), 0.0)  # a step of 0 beyond the end keeps all
        at_n = (row * n_tokens + t[:, None]) * n_states + n[None, :]
        seen_n = in_t[:, None] & in_n[None, :]
        b = tl.load(B_ + at_n, mask=seen_n, other=0.0).to(tl.float32)  # [T, N]
        c = tl.load(C_ + at_n, mask=seen_n, other=0.0).to(tl.float32)
        fresh = t < 0
        if HAS_STARTS:
            fresh = tl.load(STARTS + row * n_tokens + t, mask=in_t, other=0) != 0
        h, _ = _states(dt, u, b, A, fresh, state)
        y = tl.sum(h * c[:, None, :], 2)  # [T, D]
        if HAS_SKIP:
            y += u * tl.load(SKIP + d, mask=in_d, other=0.0).to(tl.float32)[None, :]
        if HAS_Z:
            z = tl.load(Z + at, mask=seen, other=0.0).to(tl.float32)
            y *= z * tl.sigmoid(z)
        tl.store(Y + at, y.to(Y.dtype.element_ty), mask=seen)
        state = _row(h, T - 1, T)
    tl.store(LAST + at_state, state, mask=both)


@triton.jit
def backward_kernel(
    U,
    DELTA,
    A_,
    B_,
    C_,
    SKIP,
    Z,
    BIAS,
    STARTS,
    KEPT,
    DY,
    DLAST,
    DU,
    DDELTA,
    DA,
    DB,
    DC,
    DSKIP,
    DZ,
    DBIAS,
    DINITIAL,
    n_tokens,
    n_channels,
    n_states,
    n_tiles,
    HAS_SKIP: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_STARTS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    T: tl.constexpr,
    D: tl.constexpr,
    N: tl.constexpr,
):
    """All gradients; those shared by sequences or by channels as one part for each program."""
    row = tl.cast(tl.program_id(1), tl.int64)
    part = tl.cast(tl.program_id(0), tl.int64) * tl.num_programs(1) + row
    d = tl.program_id(0) * D + tl.arange(0, D)
    n = tl.arange(0, N)
    in_d, in_n = d < n_channels, n < n_states
    both = in_d[:, None] & in_n[None, :]
    at_state = (row * n_channels + d[:, None]) * n_states + n[None, :]
    A = tl.load(A_ + d[:, None] * n_states + n[None, :], mask=both, other=0.0)
    carry = tl.load(DLAST + at_state, mask=both, other=0.0)  # a_(t+1) g_(t+1) of the next tile
    dA = tl.zeros([D, N], tl.float32)
    dskip = tl.zeros([D], tl.float32)
    dbias = tl.zeros([D], tl.float32)
    bias = tl.zeros([D], tl.float32)
    skip = tl.zeros([D], tl.float32)
    if HAS_BIAS:
        bias = tl.load(BIAS + d, mask=in_d, other=0.0).to(tl.float32)
    if HAS_SKIP:
        skip = tl.load(SKIP + d, mask=in_d, other=0.0).to(tl.float32)
    rows = tl.arange(0, T)
    for back in range(n_tiles):
        tile = n_tiles - 1 - back
        here = ((row * n_tiles + tile) * n_channels + d[:, None]) * n_states + n[None, :]
        state = tl.load(KEPT + here, mask=both, other=0.0)
        t = tile * T + rows
        in_t = t < n_tokens
        at = (row * n_tokens + t[:, None]) * n_channels + d[None, :]
        seen = in_t[:, None] & in_d[None, :]
        at_n = (row * n_tokens + t[:, None]) * n_states + n[None, :]
        seen_n = in_t[:, None] & in_n[None, :]
        u = tl.load(U + at, mask=seen, other=0.0).to(tl.float32)
        raw = tl.load(DELTA + at, mask=seen, other=0.0).to(tl.float32) + bias[None, :]
        dt = tl.where(seen, _step(raw, SOFTPLUS), 0.0)
        b = tl.load(B_ + at_n, mask=seen_n, other=0.0).to(tl.float32)
        c = tl.load(C_ + at_n, mask=seen_n, other=0.0).to(tl.float32)
        fresh = t < 0
        if HAS_STARTS:
            fresh = tl.load(STARTS + row * n_tokens + t, mask=in_t, other=0) != 0
        h, a = _states(dt, u, b, A, fresh, state)

        # the states one token earlier: the same scan over the tokens before, the first left alone
        early = (rows > 0)[:, None] & seen
        u_was = tl.load(U + at - n_channels, mask=early, other=0.0).to(tl.float32)
        raw_was = tl.load(DELTA + at - n_channels, mask=early, other=0.0).to(tl.float32)
        dt_was = tl.where(early, _step(raw_was + bias[None, :], SOFTPLUS), 0.0)
        early_n = (rows > 0)[:, None] & seen_n
        b_was = tl.load(B_ + at_n - n_states, mask=early_n, other=0.0).to(tl.float32)
        fresh_was = t < 0
        if HAS_STARTS:
            begun = tl.load(STARTS + row * n_tokens + t - 1, mask=in_t & (rows > 0), other=0)
            fresh_was = begun != 0
        h_was, _ = _states(dt_was, u_was, b_was, A, fresh_was, state)

        # through the gate, to the gradient of y before it
        dy = tl.load(DY + at, mask=seen, other=0.0).to(tl.float32)
        if HAS_Z:
            z = tl.load(Z + at, mask=seen, other=0.0).to(tl.float32)
            gate = tl.sigmoid(z)
            y = tl.sum(h * c[:, None, :], 2) + u * skip[None, :]
            dz = dy * y * gate * (1.0 + z * (1.0 - gate))
            tl.store(DZ + at, dz.to(DZ.dtype.element_ty), mask=seen)
            dy *= z * gate
        dskip += tl.sum(dy * u, 0)

        # the state's gradient, backwards: g_t = dy_t C_t + a_(t+1) g_(t+1)
        late = (rows < T - 1)[:, None] & ((t + 1) < n_tokens)[:, None] & in_d[None, :]
        raw_next = tl.load(DELTA + at + n_channels, mask=late, other=0.0).to(tl.float32)
        dt_next = tl.where(late, _step(raw_next + bias[None, :], SOFTPLUS), 0.0)
        a_next = tl.exp(dt_next[:, :, None] * A[None, :, :])  # 1 at the tile's last row
        if HAS_STARTS:
            told = tl.load(
                STARTS + row * n_tokens + t + 1,
                mask=(rows < T - 1) & ((t + 1) < n_tokens),
                other=0,
            )
            a_next = tl.where((told != 0)[:, None, None], 0.0, a_next)
        passed, own = tl.associative_scan(
            (a_next, dy[:, :, None] * c[:, None, :]), 0, _join, reverse=True
        )
        g = passed * carry[None, :, :] + own
        carry = _row(a * g, 0, T)

        into = tl.sum(g * b[:, None, :], 2)  # [T, D]
        back_a = g * h_was * a  # a is 0 where a document begins
        ddt = u * into + tl.sum(back_a * A[None, :, :], 2)
        dA += tl.sum(back_a * dt[:, :, None], 0)
        if SOFTPLUS:
            ddt *= tl.sigmoid(raw)
        ddt = tl.where(seen, ddt, 0.0)
        dbias += tl.sum(ddt, 0)
        tl.store(DU + at, (dt * into + dy * skip[None, :]).to(DU.dtype.element_ty), mask=seen)
        tl.store(DDELTA + at, ddt.to(DDELTA.dtype.element_ty), mask=seen)
        at_part = (part * n_tokens + t[:, None]) * n_states + n[None, :]
        tl.store(DB + at_part, tl.sum(g * (dt * u)[:, :, None], 1), mask=seen_n)
        tl.store(DC + at_part, tl.sum(h * dy[:, :, None], 1), mask=seen_n)
    tl.store(DA + at_state, dA, mask=both)
    tl.store(DINITIAL + at_state, carry, mask=both)
    at_channel = row * n_channels + d
    if HAS_SKIP:
        tl.store(DSKIP + at_channel, dskip, mask=in_d)
    if HAS_BIAS:
        tl.store(DBIAS + at_channel, dbias, mask=in_d)


def tile_of(n_states):
    """(tokens, channels, states) of a tile: powers of two."""
    n = triton.next_power_of_2(n_states)
    if interpreting():  # which calls the joining function for each number: small tiles
        return 8, 2, n
    return TILE_TOKENS, min(16, max(1, NUMBERS_IN_A_TILE // (TILE_TOKENS * n))), n


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, skip, z, bias, initial, starts, softplus):
        batch, tokens, channels = u.shape
        T, D, N = tile_of(A.shape[1])
        tiles = triton.cdiv(tokens, T)
        y, last = torch.empty_like(u), torch.empty_like(initial)
        kept = initial.new_empty(batch, tiles, channels, A.shape[1])
        flags = {
            "HAS_SKIP": skip is not None,
            "HAS_Z": z is not None,
            "HAS_BIAS": bias is not None,
            "HAS_STARTS": starts is not None,
            "SOFTPLUS": softplus,
        }
        sizes = (tokens, channels, A.shape[1], tiles)
        read = (u, delta, A, B, C, skip, z, bias, initial, starts)
        with _on(u):
            forward_kernel[(triton.cdiv(channels, D), batch)](
                *read, y, kept, last, *sizes, **flags, T=T, D=D, N=N, num_warps=WARPS
            )
        ctx.save_for_backward(*read[:8], starts, kept)
        ctx.flags, ctx.sizes, ctx.tile = flags, sizes, (T, D, N)
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dlast):
        u, delta, A, B, C, skip, z, bias, starts, kept = ctx.saved_tensors
        batch, tokens, channels = u.shape
        T, D, N = ctx.tile
        programs = triton.cdiv(channels, D)
        du, ddelta = torch.empty_like(u), torch.empty_like(delta)
        dz = None if z is None else torch.empty_like(z)
        dA, dinitial = (kept.new_empty(batch, *A.shape) for _ in range(2))
        dB, dC = (kept.new_empty(programs, *B.shape) for _ in range(2))
        dskip = None if skip is None else kept.new_empty(batch, channels)
        dbias = None if bias is None else kept.new_empty(batch, channels)
        read = (u, delta, A, B, C, skip, z, bias, starts, kept, dy.contiguous())
        written = (du, ddelta, dA, dB, dC, dskip, dz, dbias, dinitial)
        with _on(u):
            backward_kernel[(programs, batch)](
                *read,
                dlast.contiguous(),
                *written,
                *ctx.sizes,
                **ctx.flags,
                T=T,
                D=D,
                N=N,
                num_warps=WARPS,
            )
        dskip = None if skip is None else dskip.sum(0).to(skip.dtype)
        dbias = None if bias is None else dbias.sum(0).to(bias.dtype)
        dB, dC = dB.sum(0).to(B.dtype), dC.sum(0).to(C.dtype)
        return du, ddelta, dA.sum(0), dB, dC, dskip, dz, dbias, dinitial, None, None


def selective_scan(u, delta, A, B, C, skip, z, bias, softplus, initial, starts):
    """y (batch, tokens, channels) and the last state, by the kernels; the caller has checked.

    Shapes as in `llmbook.ssm.selective_scan`. Memory between the passes: the inputs, and one state
    in TILE_TOKENS tokens. The backward pass also holds dB and dC once for each program's channels
    (8 at 16 states): 4 numbers for each of u's. d_state is at most 32.
    """
    batch, _, channels = u.shape
    if initial is None:
        initial = torch.zeros(batch, *A.shape, device=u.device)
    if u.numel() == 0:
        return torch.zeros_like(u), initial
    u, delta, B, C, z, starts = (
        None if x is None else x.contiguous() for x in (u, delta, B, C, z, starts)
    )
    starts = None if starts is None else starts.to(torch.uint8)
    A = A.float().contiguous()
    return _Scan.apply(u, delta, A, B, C, skip, z, bias, initial.contiguous(), starts, softplus)


def _on(x):
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
