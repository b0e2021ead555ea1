"""FlashAttention-2 in Triton: softmax(scale · Q Kᵀ) V without ever storing a score.

Forward (Dao 2023, algorithm 1): a program keeps one tile of queries and walks over tiles of keys.
It carries, per query, the running maximum m, the running sum l of exponentials and the
unnormalised output; when m grows, what was accumulated is scaled by exp(m_old − m_new). Stored:
the output and the log-sum-exp, one number per query, from which the backward pass recomputes any
weight.

Backward (algorithm 2): with P the weights, δ_i = Σ_d dO_id O_id,
    dV = Pᵀ dO,  dS = P ∘ (dO Vᵀ − δ),  dQ = scale · dS K,  dK = scale · dSᵀ Q.
One kernel keeps keys and walks over queries (dK, dV), one keeps queries and walks over keys (dQ):
no atomics, so gradients are the same on every run. The first works on the transposed scores, so
that no accumulated tile is ever transposed before a product.

Exponentials are base 2 with log2(e) folded into the scale. Tiles that every query of the block
sees in full run in a loop without masks. Causal is bottom-right aligned: query i sees keys ≤ i +
Lk − Lq.
"""

import contextlib
import math

import torch
import triton
import triton.language as tl

from llmbook.device import capability
from llmbook.kernels import interpreting
from llmbook.kernels.attention_tiles import chip_of, tile


@triton.jit
def _scores(
    q,
    k,
    cols,
    rows,
    offset,
    n_keys,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Unscaled scores; −inf past the last key and, when causal, right of the diagonal."""
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
    if MASKED:
        seen = (cols < n_keys)[None, :]
        if CAUSAL:
            seen = seen & (cols[None, :] <= rows[:, None] + offset)
        s = tl.where(seen, s, float("-inf"))
    return s


@triton.jit
def _forward_loop(
    acc,
    l,
    m,
    q,
    k_base,
    v_base,
    rows,
    offset,
    lo,
    hi,
    n_keys,
    scale_log2,
    stride_kn,
    stride_vn,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Walk over keys lo … hi, updating output, sum and maximum of one tile of queries."""
    dims = tl.arange(0, BLOCK_D)
    for start in range(lo, hi, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        k = _tile(k_base, start, stride_kn, n_keys, dims, D, BLOCK_D, BLOCK_N, MASKED)
        s = _scores(q, k, cols, rows, offset, n_keys, CAUSAL, MASKED, PRECISION)
        m_new = tl.maximum(m, tl.max(s, 1) * scale_log2)
        if MASKED:  # a query that has seen no key yet: keep −inf − (−inf) out
            shift = tl.where(m_new == float("-inf"), 0.0, m_new)
        else:
            shift = m_new
        p = tl.math.exp2(s * scale_log2 - shift[:, None])  # [BLOCK_M, BLOCK_N]
        fade = tl.math.exp2(m - shift)
        l = l * fade + tl.sum(p, 1)
        acc = acc * fade[:, None]
        v = _tile(v_base, start, stride_vn, n_keys, dims, D, BLOCK_D, BLOCK_N, MASKED)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)  # [BLOCK_M, BLOCK_D]
        m = m_new
    return acc, l, m


@triton.jit
def _tile(
    base,
    start,
    stride,
    n_rows,
    dims,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Load rows from start on of a (tokens, head_dim) matrix, 0 outside it: [ROWS, BLOCK_D]."""
    within = tl.arange(0, ROWS)
    pointers = base + tl.cast(start, tl.int64) * stride + within[:, None] * stride + dims[None, :]
    if MASKED:
        if D == BLOCK_D:
            x = tl.load(pointers, mask=(start + within < n_rows)[:, None], other=0.0)
        else:
            inside = (start + within < n_rows)[:, None] & (dims < D)[None, :]
            x = tl.load(pointers, mask=inside, other=0.0)
    elif D == BLOCK_D:
        x = tl.load(pointers)
    else:
        x = tl.load(pointers, mask=(dims < D)[None, :], other=0.0)
    return x


@triton.jit
def _store(base, start, stride, n_rows, dims, x, D: tl.constexpr, ROWS: tl.constexpr):
    """Store the rows of a tile that lie inside a (tokens, head_dim) matrix."""
    within = tl.arange(0, ROWS)
    pointers = base + tl.cast(start, tl.int64) * stride + within[:, None] * stride + dims[None, :]
    inside = (start + within < n_rows)[:, None] & (dims < D)[None, :]
    tl.store(pointers, x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def forward_kernel(
    Q,
    K,
    V,
    O,
    LSE,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_vb,
    stride_vh,
    stride_vn,
    stride_ob,
    stride_oh,
    stride_om,
    n_heads,
    n_queries,
    n_keys,
    scale_log2,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Output and log-sum-exp (base 2) of one tile of queries; one program per tile and head."""
    n_tiles = tl.cdiv(n_queries, BLOCK_M)
    tile_id = tl.program_id(0) % n_tiles
    head_id = tl.program_id(0) // n_tiles
    if CAUSAL:  # the last queries see most keys: begin with the longest work
        tile_id = n_tiles - 1 - tile_id
    b = tl.cast(head_id // n_heads, tl.int64)
    h = tl.cast(head_id % n_heads, tl.int64)
    first = tile_id * BLOCK_M
    rows = first + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    offset = n_keys - n_queries

    q = _tile(
        Q + b * stride_qb + h * stride_qh,
        first,
        stride_qm,
        n_queries,
        dims,
        D,
        BLOCK_D,
        BLOCK_M,
        True,
    )
    k_base = K + b * stride_kb + (h // GROUP) * stride_kh
    v_base = V + b * stride_vb + (h // GROUP) * stride_vh
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    # Keys below `full` are seen by every query of this tile; from there to `last`, by some.
    full, last = n_keys, n_keys
    if CAUSAL:
        full = tl.maximum(tl.minimum(first + offset + 1, n_keys), 0)
        last = tl.maximum(tl.minimum(first + BLOCK_M + offset, n_keys), 0)
    full = full // BLOCK_N * BLOCK_N
    acc, l, m = _forward_loop(
        acc,
        l,
        m,
        q,
        k_base,
        v_base,
        rows,
        offset,
        0,
        full,
        n_keys,
        scale_log2,
        stride_kn,
        stride_vn,
        D,
        BLOCK_D,
        BLOCK_N,
        CAUSAL,
        False,
        PRECISION,
    )
    acc, l, m = _forward_loop(
        acc,
        l,
        m,
        q,
        k_base,
        v_base,
        rows,
        offset,
        full,
        last,
        n_keys,
        scale_log2,
        stride_kn,
        stride_vn,
        D,
        BLOCK_D,
        BLOCK_N,
        CAUSAL,
        True,
        PRECISION,
    )

    # A query that sees nothing has l = 0: its output is 0, and lse = +inf makes its weights 0
    # again.
    total = tl.where(l == 0.0, 1.0, l)
    acc = acc / total[:, None]
    lse = tl.where(l == 0.0, float("inf"), m + tl.math.log2(total))
    tl.store(LSE + tl.cast(head_id, tl.int64) * n_queries + rows, lse, mask=rows < n_queries)
    _store(O + b * stride_ob + h * stride_oh, first, stride_om, n_queries, dims, acc, D, BLOCK_M)


@triton.jit
def delta_kernel(
    O,
    DO,
    DELTA,
    stride_ob,
    stride_oh,
    stride_om,
    stride_gb,
    stride_gh,
    stride_gm,
    n_heads,
    n_queries,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """δ = Σ_d dO ∘ O, one number per query."""
    n_tiles = tl.cdiv(n_queries, BLOCK_M)
    first = tl.program_id(0) % n_tiles * BLOCK_M
    head_id = tl.program_id(0) // n_tiles
    b = tl.cast(head_id // n_heads, tl.int64)
    h = tl.cast(head_id % n_heads, tl.int64)
    rows = first + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    o = _tile(
        O + b * stride_ob + h * stride_oh,
        first,
        stride_om,
        n_queries,
        dims,
        D,
        BLOCK_D,
        BLOCK_M,
        True,
    )
    g = _tile(
        DO + b * stride_gb + h * stride_gh,
        first,
        stride_gm,
        n_queries,
        dims,
        D,
        BLOCK_D,
        BLOCK_M,
        True,
    )
    delta = tl.sum(o.to(tl.float32) * g.to(tl.float32), 1)
    tl.store(DELTA + tl.cast(head_id, tl.int64) * n_queries + rows, delta, mask=rows < n_queries)


@triton.jit
def _dkdv_loop(
    dk,
    dv,
    k,
    v,
    q_base,
    g_base,
    lse_base,
    delta_base,
    cols,
    offset,
    lo,
    hi,
    n_queries,
    n_keys,
    scale_log2,
    stride_qm,
    stride_gm,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    DIAGONAL: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Walk over queries lo … hi, adding to dK, dV of one tile of keys; scores are transposed."""
    dims = tl.arange(0, BLOCK_D)
    for start in range(lo, hi, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        q = _tile(q_base, start, stride_qm, n_queries, dims, D, BLOCK_D, BLOCK_M, not EVEN)
        if EVEN:
            lse = tl.load(lse_base + rows)
        else:  # +inf makes the weights of queries that don't exist 0
            lse = tl.load(lse_base + rows, mask=rows < n_queries, other=float("inf"))
        s = tl.dot(k, tl.trans(q), input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
        p = tl.math.exp2(s * scale_log2 - lse[None, :])
        if DIAGONAL:
            p = tl.where(cols[:, None] <= rows[None, :] + offset, p, 0.0)
        g = _tile(g_base, start, stride_gm, n_queries, dims, D, BLOCK_D, BLOCK_M, not EVEN)
        dv = tl.dot(p.to(g.dtype), g, dv, input_precision=PRECISION)  # [BLOCK_N, BLOCK_D]
        if EVEN:
            delta = tl.load(delta_base + rows)
        else:
            delta = tl.load(delta_base + rows, mask=rows < n_queries, other=0.0)
        dp = tl.dot(v, tl.trans(g), input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
        ds = p * (dp - delta[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)  # [BLOCK_N, BLOCK_D]
    return dk, dv


@triton.jit
def dkdv_kernel(
    Q,
    K,
    V,
    DO,
    DK,
    DV,
    LSE,
    DELTA,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_vb,
    stride_vh,
    stride_vn,
    stride_gb,
    stride_gh,
    stride_gm,
    stride_dkb,
    stride_dkh,
    stride_dkn,
    stride_dvb,
    stride_dvh,
    stride_dvn,
    n_kv_heads,
    n_queries,
    n_keys,
    scale,
    scale_log2,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dK and dV of one tile of keys, summed over the query heads that share them."""
    n_tiles = tl.cdiv(n_keys, BLOCK_N)
    first = tl.program_id(0) % n_tiles * BLOCK_N  # when causal the first keys are the longest work
    head_id = tl.program_id(0) // n_tiles
    b = tl.cast(head_id // n_kv_heads, tl.int64)
    kv_h = tl.cast(head_id % n_kv_heads, tl.int64)
    cols = first + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    offset = n_keys - n_queries

    # Rows past the last key load as 0 and are never stored; nothing else reads them.
    k = _tile(
        K + b * stride_kb + kv_h * stride_kh,
        first,
        stride_kn,
        n_keys,
        dims,
        D,
        BLOCK_D,
        BLOCK_N,
        True,
    )
    v = _tile(
        V + b * stride_vb + kv_h * stride_vh,
        first,
        stride_vn,
        n_keys,
        dims,
        D,
        BLOCK_D,
        BLOCK_N,
        True,
    )
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)

    # Queries from `touched` on see some key of this tile, from `seen` on every key of it.
    touched, seen = 0, 0
    if CAUSAL:
        touched = tl.minimum(tl.maximum(first - offset, 0), n_queries) // BLOCK_M * BLOCK_M
        seen = tl.minimum(tl.maximum(first + BLOCK_N - 1 - offset, 0), n_queries)
        seen = tl.cdiv(seen, BLOCK_M) * BLOCK_M
    for member in range(GROUP):
        h = kv_h * GROUP + member
        q_base = Q + b * stride_qb + h * stride_qh
        g_base = DO + b * stride_gb + h * stride_gh
        row = (b * n_kv_heads * GROUP + h) * n_queries
        if CAUSAL:
            dk, dv = _dkdv_loop(
                dk,
                dv,
                k,
                v,
                q_base,
                g_base,
                LSE + row,
                DELTA + row,
                cols,
                offset,
                touched,
                seen,
                n_queries,
                n_keys,
                scale_log2,
                stride_qm,
                stride_gm,
                D,
                BLOCK_D,
                BLOCK_M,
                True,
                EVEN,
                PRECISION,
            )
        dk, dv = _dkdv_loop(
            dk,
            dv,
            k,
            v,
            q_base,
            g_base,
            LSE + row,
            DELTA + row,
            cols,
            offset,
            seen,
            n_queries,
            n_queries,
            n_keys,
            scale_log2,
            stride_qm,
            stride_gm,
            D,
            BLOCK_D,
            BLOCK_M,
            False,
            EVEN,
            PRECISION,
        )

    _store(
        DK + b * stride_dkb + kv_h * stride_dkh,
        first,
        stride_dkn,
        n_keys,
        dims,
        dk * scale,
        D,
        BLOCK_N,
    )
    _store(
        DV + b * stride_dvb + kv_h * stride_dvh, first, stride_dvn, n_keys, dims, dv, D, BLOCK_N
    )


@triton.jit
def _dq_loop(
    dq,
    q,
    g,
    lse,
    delta,
    k_base,
    v_base,
    rows,
    offset,
    lo,
    hi,
    n_keys,
    scale_log2,
    stride_kn,
    stride_vn,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Walk over keys lo … hi, adding to dQ of one tile of queries."""
    dims = tl.arange(0, BLOCK_D)
    for start in range(lo, hi, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        k = _tile(k_base, start, stride_kn, n_keys, dims, D, BLOCK_D, BLOCK_N, MASKED)
        s = _scores(q, k, cols, rows, offset, n_keys, CAUSAL, MASKED, PRECISION)
        p = tl.math.exp2(s * scale_log2 - lse[:, None])  # [BLOCK_M, BLOCK_N]
        v = _tile(v_base, start, stride_vn, n_keys, dims, D, BLOCK_D, BLOCK_N, MASKED)
        dp = tl.dot(g, tl.trans(v), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
        ds = p * (dp - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)  # [BLOCK_M, BLOCK_D]
    return dq


@triton.jit
def dq_kernel(
    Q,
    K,
    V,
    DO,
    DQ,
    LSE,
    DELTA,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_vb,
    stride_vh,
    stride_vn,
    stride_gb,
    stride_gh,
    stride_gm,
    stride_dqb,
    stride_dqh,
    stride_dqm,
    n_heads,
    n_queries,
    n_keys,
    scale,
    scale_log2,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dQ of one tile of queries."""
    n_tiles = tl.cdiv(n_queries, BLOCK_M)
    tile_id = tl.program_id(0) % n_tiles
    head_id = tl.program_id(0) // n_tiles
    if CAUSAL:
        tile_id = n_tiles - 1 - tile_id
    b = tl.cast(head_id // n_heads, tl.int64)
    h = tl.cast(head_id % n_heads, tl.int64)
    first = tile_id * BLOCK_M
    rows = first + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    offset = n_keys - n_queries

    q = _tile(
        Q + b * stride_qb + h * stride_qh,
        first,
        stride_qm,
        n_queries,
        dims,
        D,
        BLOCK_D,
        BLOCK_M,
        True,
    )
    g = _tile(
        DO + b * stride_gb + h * stride_gh,
        first,
        stride_gm,
        n_queries,
        dims,
        D,
        BLOCK_D,
        BLOCK_M,
        True,
    )
    row = tl.cast(head_id, tl.int64) * n_queries
    lse = tl.load(LSE + row + rows, mask=rows < n_queries, other=float("inf"))
    delta = tl.load(DELTA + row + rows, mask=rows < n_queries, other=0.0)
    k_base = K + b * stride_kb + (h // GROUP) * stride_kh
    v_base = V + b * stride_vb + (h // GROUP) * stride_vh
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    full, last = n_keys, n_keys
    if CAUSAL:
        full = tl.maximum(tl.minimum(first + offset + 1, n_keys), 0)
        last = tl.maximum(tl.minimum(first + BLOCK_M + offset, n_keys), 0)
    full = full // BLOCK_N * BLOCK_N
    dq = _dq_loop(
        dq,
        q,
        g,
        lse,
        delta,
        k_base,
        v_base,
        rows,
        offset,
        0,
        full,
        n_keys,
        scale_log2,
        stride_kn,
        stride_vn,
        D,
        BLOCK_D,
        BLOCK_N,
        CAUSAL,
        False,
        PRECISION,
    )
    dq = _dq_loop(
        dq,
        q,
        g,
        lse,
        delta,
        k_base,
        v_base,
        rows,
        offset,
        full,
        last,
        n_keys,
        scale_log2,
        stride_kn,
        stride_vn,
        D,
        BLOCK_D,
        BLOCK_N,
        CAUSAL,
        True,
        PRECISION,
    )
    _store(
        DQ + b * stride_dqb + h * stride_dqh,
        first,
        stride_dqm,
        n_queries,
        dims,
        dq * scale,
        D,
        BLOCK_M,
    )


class _FlashAttention(torch.autograd.Function):
    """The kernels as one differentiable function; it keeps q, k, v, the output and the lse."""

    @staticmethod
    def forward(ctx, q, k, v, causal, scale, tiles):
        out, lse = _launch_forward(q, k, v, causal, scale, tiles)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.causal, ctx.scale, ctx.tiles = causal, scale, tiles
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_out):
        q, k, v, out, lse = ctx.saved_tensors
        grads = _launch_backward(q, k, v, out, lse, d_out, ctx.causal, ctx.scale, ctx.tiles)
        return *grads, None, None, None


def flash_attention(q, k, v, *, causal=False, scale=None, tiles=None):
    """Attention by the Triton kernels, forward and backward: `softmax(scale · Q Kᵀ) V`.

    Shapes: q (batch, heads, queries, head_dim), k and v (batch, kv_heads, keys, head_dim) → q's
    shape. Causal is bottom-right aligned; a query that sees no key gives 0. scale: 1/√head_dim
    when None. tiles: {"forward" | "dkdv" | "dq": Tile} in place of the table's, for tuning.

    Checks nothing: `llmbook.attention.attention(…, backend="triton")` does, by
    `llmbook.kernels.why_not`. Memory beyond the output: 4 bytes per query and head, twice that in
    the backward pass.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    if q.numel() == 0 or k.numel() == 0:
        return (q * 0.0) + (k.sum() + v.sum()) * 0.0
    if tiles is None:
        # The interpreter knows no chip: small tiles, of unequal sides.
        chip = chip_of((9, 0) if interpreting() else capability(q.device))
        block_d = _block_d(q)
        tiles = {name: tile(chip, name, q.dtype, block_d) for name in ("forward", "dkdv", "dq")}
        if interpreting():
            tiles = {name: t._replace(block_m=64, block_n=32) for name, t in tiles.items()}
    dtype = q.dtype
    if interpreting() and dtype == torch.bfloat16:  # the interpreter multiplies bfloat16 wrongly
        q, k, v = q.float(), k.float(), v.float()
    q, k, v = _rows(q), _rows(k), _rows(v)
    return _FlashAttention.apply(q, k, v, causal, scale, tiles).to(dtype)


def _rows(x):
    """The kernels read rows of head_dim numbers in a row, with any strides between rows."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _block_d(q):
    return max(16, triton.next_power_of_2(q.shape[-1]))


def _precision(q):
    # float32 products would be TF32, with errors near 1e-3, unless asked for in full.
    return "ieee" if q.dtype == torch.float32 else "tf32"


def _on(x):
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _launch_forward(q, k, v, causal, scale, tiles):
    batch, heads, queries, head_dim = q.shape
    out = torch.empty_like(q)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
    t = tiles["forward"]
    with _on(q):
        forward_kernel[(triton.cdiv(queries, t.block_m) * batch * heads,)](
            q,
            k,
            v,
            out,
            lse,
            *_strides(q, k, v, out),
            heads,
            queries,
            k.shape[2],
            scale * math.log2(math.e),
            GROUP=heads // k.shape[1],
            D=head_dim,
            BLOCK_D=_block_d(q),
            BLOCK_M=t.block_m,
            BLOCK_N=t.block_n,
            CAUSAL=causal,
            PRECISION=_precision(q),
            num_warps=t.warps,
            num_stages=t.stages,
        )
    return out, lse


def _launch_backward(q, k, v, out, lse, d_out, causal, scale, tiles):
    batch, heads, queries, head_dim = q.shape
    kv_heads, keys = k.shape[1:3]
    d_out = _rows(d_out)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    delta = torch.empty_like(lse)
    same = dict(
        GROUP=heads // kv_heads,
        D=head_dim,
        BLOCK_D=_block_d(q),
        CAUSAL=causal,
        PRECISION=_precision(q),
    )
    base2 = scale * math.log2(math.e)
    with _on(q):
        delta_kernel[(triton.cdiv(queries, 64) * batch * heads,)](
            out,
            d_out,
            delta,
            *_strides(out, d_out),
            heads,
            queries,
            D=head_dim,
            BLOCK_D=_block_d(q),
            BLOCK_M=64,
        )
        t = tiles["dkdv"]
        dkdv_kernel[(triton.cdiv(keys, t.block_n) * batch * kv_heads,)](
            q,
            k,
            v,
            d_out,
            dk,
            dv,
            lse,
            delta,
            *_strides(q, k, v, d_out, dk, dv),
            kv_heads,
            queries,
            keys,
            scale,
            base2,
            BLOCK_M=t.block_m,
            BLOCK_N=t.block_n,
            EVEN=queries % t.block_m == 0,
            num_warps=t.warps,
            num_stages=t.stages,
            **same,
        )
        t = tiles["dq"]
        dq_kernel[(triton.cdiv(queries, t.block_m) * batch * heads,)](
            q,
            k,
            v,
            d_out,
            dq,
            lse,
            delta,
            *_strides(q, k, v, d_out, dq),
            heads,
            queries,
            keys,
            scale,
            base2,
            BLOCK_M=t.block_m,
            BLOCK_N=t.block_n,
            num_warps=t.warps,
            num_stages=t.stages,
            **same,
        )
    return dq, dk, dv


def _strides(*tensors):
    """Strides over batch, head and token of each tensor; that over head_dim is 1."""
    return [stride for x in tensors for stride in x.stride()[:3]]
