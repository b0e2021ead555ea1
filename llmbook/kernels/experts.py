"""A grouped matrix product in Triton: rows sorted by expert, each times its expert's matrix.

    forward    Y[s] = W[e(s)] X[s]              backward   dX[s] = W[e(s)]ᵀ dY[s]
                                                           dW[e] = Σ_{s at e} dY[s] X[s]ᵀ

A product's rows are cut into tiles of one expert each: the last tile of an expert may be short, an
empty expert has none. Which tile is whose is computed on the device, for as many programs as there
could be tiles, so that no count travels to the host; the programs left over return at once. dW has
one program for each tile of each expert's matrix, which walks over that expert's rows: no atomics,
so gradients are the same on every run, and an expert without rows gets zeros.

Letters: S rows, E experts, I inputs and O outputs of the product.
"""

import contextlib

import torch
import triton
import triton.language as tl

from llmbook.device import capability
from llmbook.kernels import interpreting
from llmbook.kernels.attention_tiles import chip_of
from llmbook.kernels.expert_tiles import tile


@triton.jit
def product_kernel(
    X,
    W,
    Y,
    ENDS,
    TILE_EXPERT,
    TILE_ROW,
    n_experts,
    n_out,
    n_in,
    stride_xs,
    stride_we,
    stride_wo,
    stride_wi,
    stride_ys,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Y of one tile of rows and one block of outputs; strides decide if W is read transposed."""
    expert = tl.load(TILE_EXPERT + tl.program_id(0))
    if expert >= n_experts:  # fewer tiles than there could have been
        return
    rows = tl.load(TILE_ROW + tl.program_id(0)) + tl.arange(0, BLOCK_M)
    outs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < tl.load(ENDS + expert))[:, None]
    x_base = X + rows.to(tl.int64)[:, None] * stride_xs
    w_base = W + expert.to(tl.int64) * stride_we + outs[None, :] * stride_wo
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, n_in, BLOCK_K):
        ins = start + tl.arange(0, BLOCK_K)
        x = tl.load(x_base + ins[None, :], mask=inside & (ins < n_in)[None, :], other=0.0)
        seen = (ins < n_in)[:, None] & (outs < n_out)[None, :]
        w = tl.load(w_base + ins[:, None] * stride_wi, mask=seen, other=0.0)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
    y_base = Y + rows.to(tl.int64)[:, None] * stride_ys + outs[None, :]
    tl.store(y_base, acc.to(Y.dtype.element_ty), mask=inside & (outs < n_out)[None, :])


@triton.jit
def weight_kernel(
    X,
    DY,
    DW,
    ENDS,
    n_out,
    n_in,
    stride_xs,
    stride_ys,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dW of one expert, one block of outputs and one of inputs; DW is (E, O, I), contiguous."""
    expert = tl.program_id(0)
    outs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    ins = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    first = tl.load(ENDS + expert - 1, mask=expert > 0, other=0)
    end = tl.load(ENDS + expert)
    acc = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for start in range(first, end, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        at = rows.to(tl.int64)
        inside = rows < end
        # dY is loaded as its transpose, by pointers: nothing accumulated is ever transposed.
        dy = tl.load(
            DY + at[None, :] * stride_ys + outs[:, None],
            mask=inside[None, :] & (outs < n_out)[:, None],
            other=0.0,
        )
        x = tl.load(
            X + at[:, None] * stride_xs + ins[None, :],
            mask=inside[:, None] & (ins < n_in)[None, :],
            other=0.0,
        )
        acc = tl.dot(dy, x, acc, input_precision=PRECISION)  # [BLOCK_N, BLOCK_K]
    at = DW + (expert.to(tl.int64) * n_out + outs.to(tl.int64)[:, None]) * n_in + ins[None, :]
    seen = (outs < n_out)[:, None] & (ins < n_in)[None, :]
    tl.store(at, acc.to(DW.dtype.element_ty), mask=seen)


class _GroupedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, weight, ends, tiles):
        ctx.save_for_backward(rows, weight, ends)
        ctx.tiles = tiles
        return _product(rows, weight, ends, tiles["product"])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_out):
        rows, weight, ends = ctx.saved_tensors
        d_out = d_out.contiguous()
        d_rows = _product(d_out, weight.transpose(1, 2), ends, ctx.tiles["product"])
        return d_rows, _weight(rows, d_out, weight, ends, ctx.tiles["weight"]), None, None


def grouped_product(rows, weight, ends, tiles=None):
    """Multiply each expert's rows by its matrix: rows (S, I), weight (E, O, I) → (S, O).

    ends: int32 (E,), where each expert's rows end; they stand one after the other from row 0.
    Rows past the last end are left uninitialised, in the result and in the rows' gradient, as
    `F.grouped_mm` leaves them. Sums in float32. tiles: {"product" | "weight": Tile} in place of
    the table's, for tuning. Checks nothing: `llmbook.kernels.expert_tiles.why_not` does.
    """
    if tiles is None:
        # The interpreter knows no chip: small tiles, of unequal sides.
        chip = chip_of((9, 0) if interpreting() else capability(rows.device))
        tiles = {name: tile(chip, name, rows.dtype) for name in ("product", "weight")}
        if interpreting():
            small = dict(block_m=32, block_n=64, block_k=16)
            tiles = {name: t._replace(**small) for name, t in tiles.items()}
    dtype = rows.dtype
    if interpreting() and dtype == torch.bfloat16:  # the interpreter multiplies bfloat16 wrongly
        rows, weight = rows.float(), weight.float()
    return _GroupedProduct.apply(rows.contiguous(), weight.contiguous(), ends, tiles).to(dtype)


def _schedule(ends, n_rows, block_m):
    """The expert and the first row of each tile: two int32 vectors; expert E for none."""
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    last = ((ends - starts + block_m - 1) // block_m).cumsum(0)  # tiles up to and with each expert
    tiles = torch.arange(triton.cdiv(n_rows, block_m) + len(ends), device=ends.device)
    expert = torch.searchsorted(last, tiles, right=True)
    at = expert.clamp(max=len(ends) - 1)
    before = torch.where(at > 0, last[at - 1], 0)
    row = starts[at] + (tiles - before) * block_m
    return expert.int(), row.int()


def _product(rows, weight, ends, t):
    """weight (E, O, I) with any strides: (S, I) → (S, O)."""
    (n_rows, n_in), (n_experts, n_out, _) = rows.shape, weight.shape
    out = rows.new_empty(n_rows, n_out)
    if out.numel() == 0:
        return out
    expert, row = _schedule(ends, n_rows, t.block_m)
    with _on(rows):
        product_kernel[(len(expert), triton.cdiv(n_out, t.block_n))](
            rows,
            weight,
            out,
            ends,
            expert,
            row,
            n_experts,
            n_out,
            n_in,
            rows.stride(0),
            *weight.stride(),
            out.stride(0),
            BLOCK_M=t.block_m,
            BLOCK_N=t.block_n,
            BLOCK_K=t.block_k,
            PRECISION=_precision(rows),
            num_warps=t.warps,
            num_stages=t.stages,
        )
    return out


def _weight(rows, d_out, weight, ends, t):
    n_experts, n_out, n_in = weight.shape
    d_weight = torch.empty_like(weight)
    grid = (n_experts, triton.cdiv(n_out, t.block_n), triton.cdiv(n_in, t.block_k))
    with _on(rows):
        weight_kernel[grid](
            rows,
            d_out,
            d_weight,
            ends,
            n_out,
            n_in,
            rows.stride(0),
            d_out.stride(0),
            BLOCK_M=t.block_m,
            BLOCK_N=t.block_n,
            BLOCK_K=t.block_k,
            PRECISION=_precision(rows),
            num_warps=t.warps,
            num_stages=t.stages,
        )
    return d_weight


def _precision(x):
    # float32 products would be TF32, with errors near 1e-3, unless asked for in full.
    return "ieee" if x.dtype == torch.float32 else "tf32"


def _on(x):
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
