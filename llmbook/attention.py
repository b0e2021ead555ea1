"""Scaled dot-product attention: the formula, and the fast paths that are held against it.

    attention(Q, K, V) = softmax(Q Kᵀ / √d_k + bias) V

Shapes throughout: q (batch, heads, queries, head_dim), k and v (batch, kv_heads, keys, head_dim),
where kv_heads divides heads (grouped queries: consecutive query heads share a key/value head).
Masks are boolean, True = may attend. `causal` is bottom-right aligned: the last query sees every
key.
"""

import contextlib
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import repeat

from llmbook.backends import Backends
from llmbook.checks import flag, number, on_device, share

BACKENDS = ("reference", "sdpa", "triton")


class Problem(NamedTuple):
    """`attention`'s arguments but the backend, as every backend and its refusals take them."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor | None
    bias: torch.Tensor | None
    causal: bool
    scale: float | None
    dropout: float


def attention(
    q, k, v, *, mask=None, bias=None, causal=False, scale=None, dropout=0.0, backend="auto"
):
    """Scaled dot-product attention, `softmax(scale · Q Kᵀ + bias) V` over the keys allowed.

    Shapes: q (batch, heads, queries, head_dim); k (batch, kv_heads, keys, head_dim);
    v (batch, kv_heads, keys, value_dim) → (batch, heads, queries, value_dim). kv_heads divides
    heads: query head h reads key/value head h // (heads / kv_heads).

    mask: bool, True = may attend, broadcastable to (batch, heads, queries, keys). bias: float,
    likewise broadcastable, added to the scaled scores, differentiable; −inf forbids. causal:
    bottom-right aligned, query i of Lq sees keys up to i + Lk − Lq. scale: 1/√head_dim when None.
    dropout: the probability with which a weight is zeroed, applied whenever it is above 0. A query
    that may attend to nothing gives 0, with zero gradients.

    backend: "reference" (the formula), "sdpa" (PyTorch's fused kernels), "triton" (ours, see
    `llmbook.kernels`), or "auto". A backend asked for by name that cannot run this raises
    ValueError; "auto" passes over it. `explain_backend` tells which it would be.

    Raises TypeError or ValueError for shapes, dtypes or devices that don't fit together.
    Source: Vaswani et al. 2017; grouped queries: Ainslie et al. 2023.
    """
    problem = Problem(q, k, v, mask, bias, causal, scale, dropout)
    _check(problem)
    chosen = "sdpa" if backend == "auto" else _backends(problem).choose(backend)
    return _RUN[chosen](problem)


def attention_weights(q, k, *, mask=None, bias=None, causal=False, scale=None):
    """The weights of attention, `softmax(scale · Q Kᵀ + bias)`: (batch, heads, queries, keys).

    Arguments as in `attention`. Each row sums to 1, or to 0 where a query may attend to nothing.
    Scores and softmax are taken in float32 for half-precision inputs; the result has q's dtype.
    Costs queries × keys numbers per head, which the fused backends never store.
    """
    problem = Problem(q, k, k, mask, bias, causal, scale, 0.0)
    _check(problem)
    return _weights(problem).to(q.dtype)


def causal_mask(queries, keys, device=None):
    """Causal mask, bottom-right aligned, bool (queries, keys): key ≤ query + keys − queries."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def padding_mask(lengths, max_len=None):
    """Mask of a right-padded batch, bool (batch, 1, 1, max_len): True at a sequence's own tokens.

    lengths: int (batch,). max_len: the longest of them when None.
    """
    lengths = torch.as_tensor(lengths)
    longest = int(lengths.max())
    max_len = longest if max_len is None else max_len
    if max_len < longest:
        raise ValueError(f"max_len must be at least the longest length: got {max_len} < {longest}")
    tokens = torch.arange(max_len, device=lengths.device)
    return (tokens < lengths[:, None])[:, None, None, :]


# --- the formula


def _weights(problem):
    """softmax(scale · Q Kᵀ + bias): (batch, heads, queries, keys), float32 or wider."""
    q, k, mask, bias = problem.q, problem.k, problem.mask, problem.bias
    scale = 1 / math.sqrt(q.shape[-1]) if problem.scale is None else problem.scale
    # Not in half precision: float16 ends at 65,504, and bfloat16 has 8 bits, too few for a score
    # in the tens. Under autocast a product would be rounded to it again.
    with _without_autocast(q.device.type):
        scores = _wide(q) @ _wide(_repeat_heads(k, q.shape[1])).transpose(-2, -1) * scale
        if bias is not None:
            scores = scores + bias
        if problem.causal:
            below = causal_mask(*scores.shape[-2:], scores.device)
            scores = scores.masked_fill(~below, -math.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        if mask is None and bias is None and q.shape[2] <= k.shape[2]:
            return scores.softmax(-1)
        # A row of −inf alone has no softmax. Fill it before and after: filling only afterwards
        # would still send NaN back through the softmax's gradient.
        empty = (scores == -math.inf).all(-1, keepdim=True)
        return scores.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0)


def _reference(problem):
    q, v = problem.q, problem.v
    weights = F.dropout(_weights(problem).to(q.dtype), problem.dropout)
    return weights @ _repeat_heads(v, q.shape[1])


def _without_autocast(device):
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def _wide(x):
    """Half precision as float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _repeat_heads(x, heads):
    """Give each query head its key/value head: (batch, kv_heads, …) → (batch, heads, …)."""
    if x.shape[1] == heads:
        return x
    return repeat(x, "b h t d -> b (h group) t d", group=heads // x.shape[1])


# --- PyTorch's fused kernels


def _sdpa(problem):
    q, k, v, mask, bias, causal, scale, dropout = problem
    queries, keys = q.shape[2], k.shape[2]
    if keys == 0:
        return _reference(problem)
    grouped = k.shape[1] != q.shape[1]
    plain = mask is None and bias is None and (not causal or queries in (1, keys))
    if plain:
        # One query is the last one and sees every key, whatever `causal` says. With equal lengths
        # SDPA's top-left alignment is ours.
        if grouped and q.is_cuda and q.dtype in (torch.float32, torch.float64):
            # Only the flash path shares heads, and it takes half precision alone: without this
            # copy of the keys the scores would be stored in full.
            k, v, grouped = _repeat_heads(k, q.shape[1]), _repeat_heads(v, q.shape[1]), False
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            dropout_p=dropout,
            is_causal=causal and queries > 1,
            scale=scale,
            enable_gqa=grouped,
        )

    # SDPA aligns causal masks top-left and takes one mask argument: write ours out and join them.
    if causal:
        below = causal_mask(queries, keys, q.device)
        mask = below if mask is None else mask & below
    if bias is None:
        empty = ~mask.any(-1, keepdim=True)
        # What a kernel does with a row that may see nothing differs between kernels: let it see
        # all, and give 0 ourselves.
        allowed = (mask | empty).expand(q.shape[0], q.shape[1], queries, keys)
    else:
        allowed = bias.to(q.dtype)
        if mask is not None:
            allowed = torch.where(mask, allowed, -math.inf)
        empty = (allowed == -math.inf).all(-1, keepdim=True)
        allowed = allowed.masked_fill(empty, 0.0).expand(q.shape[0], q.shape[1], queries, keys)
    k, v = _repeat_heads(k, q.shape[1]), _repeat_heads(v, q.shape[1])
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=allowed, dropout_p=dropout, scale=scale
    )
    return out.masked_fill(empty, 0.0)


def _triton(problem):
    from llmbook.kernels.flash_attention import flash_attention

    return flash_attention(*problem[:3], causal=problem.causal, scale=problem.scale)


_RUN = {"reference": _reference, "sdpa": _sdpa, "triton": _triton}


# --- which backend


def explain_backend(
    q, k, v, *, mask=None, bias=None, causal=False, scale=None, dropout=0.0, backend="auto"
):
    """Say which backend `attention` would run with these arguments, and why not the others.

    Takes `attention`'s arguments, raises what it would raise, runs nothing. Returns a
    `BackendChoice`; print it.
    """
    problem = Problem(q, k, v, mask, bias, causal, scale, dropout)
    _check(problem)
    return _backends(problem).explain(backend)


def _backends(problem):
    """PyTorch's kernels by default; the others by name, where they can."""
    dtype = str(problem.q.dtype).removeprefix("torch.")
    return Backends(
        "this attention",
        BACKENDS,
        ("sdpa",),
        lambda name: _why_not(name, problem),
        {"sdpa": f"PyTorch's fused kernels on {problem.q.device.type} in {dtype}"},
        {
            "reference": "the same result, slower: it stores every score",
            "triton": "not measured ahead of PyTorch's kernels; by name it runs",
        },
    )


def _why_not(backend, problem):
    """Reason why a backend cannot run this, or None. Only Triton's kernel lacks anything."""
    if backend != "triton":
        return None
    from llmbook.kernels import why_not

    q, k, v, mask, bias, _, scale, dropout = problem
    return why_not(q, k, v, mask=mask, bias=bias, scale=scale, dropout=dropout)


# --- bad input


def _check(problem):
    q, k, v, mask, bias, causal, scale, dropout = problem
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name} must be a tensor: got {type(x).__name__}")
        if x.ndim != 4:
            raise ValueError(
                f"{name} must have shape (batch, heads, tokens, head_dim): got {tuple(x.shape)}"
            )
    if not q.dtype.is_floating_point:
        raise TypeError(f"q, k and v must be floating point: got {q.dtype}")
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(
            f"q, k and v must share one dtype: got q {q.dtype}, k {k.dtype}, v {v.dtype}"
        )
    if not q.device == k.device == v.device:
        raise ValueError(
            f"q, k and v must be on one device: got q {q.device}, k {k.device}, v {v.device}"
        )
    (batch, heads, queries, head_dim), (_, kv_heads, keys, _) = q.shape, k.shape
    if k.shape[:3] != v.shape[:3] or k.shape[0] != batch:
        raise ValueError(
            "k and v must have q's batch and agree in heads and tokens: got "
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        )
    if k.shape[3] != head_dim or head_dim == 0:
        raise ValueError(
            f"q and k must have the same head_dim, above 0: got q {head_dim}, k {k.shape[3]}"
        )
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"k's heads must divide q's heads (grouped queries): got q {heads}, k {kv_heads}"
        )
    if mask is not None:
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
            raise TypeError(
                "mask must be a bool tensor, True = may attend (additive masks go to bias): got "
                f"{getattr(mask, 'dtype', type(mask).__name__)}"
            )
        _check_broadcast("mask", mask, q, (batch, heads, queries, keys))
    if bias is not None:
        if not isinstance(bias, torch.Tensor) or not bias.dtype.is_floating_point:
            raise TypeError(
                "bias must be a floating-point tensor (boolean masks go to mask): got "
                f"{getattr(bias, 'dtype', type(bias).__name__)}"
            )
        _check_broadcast("bias", bias, q, (batch, heads, queries, keys))
    flag("causal", causal)
    if scale is not None:
        number("scale", scale)
    share("dropout", dropout, one=False)


def _check_broadcast(name, x, q, shape):
    fits = x.ndim <= 4 and all(
        got in (1, full) for got, full in zip(x.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"{name} must broadcast to (batch, heads, queries, keys) = {shape}: "
            f"got {tuple(x.shape)}"
        )
    on_device("q", q.device, **{name: x})
