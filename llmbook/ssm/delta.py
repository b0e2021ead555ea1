"""The gated delta rule: a matrix memory that corrects what it holds instead of adding to it.

    S_t = α_t S_(t−1) (I − β_t k_t k_tᵀ) + β_t v_t k_tᵀ        o_t = S_t q_t

S maps keys to values. Linear attention adds v kᵀ and never takes anything back (β = 1, no
correction); the delta rule first takes out what S answers to k, then writes v; the gate α forgets
all of it. With β = 1 and |k| = 1 the memory answers v to k exactly, whatever it held.

The chunked form writes the corrected values of a chunk as the solution of one triangular system
(the WY form of a product of reflections): with γ the decays, and S the state before the chunk,
    (I + tril(β k kᵀ ∘ γ, −1)) V' = β (v − γ S k),   o = γ S q + (q kᵀ ∘ γ) V'.

Shape legend: b batch, c chunks, t tokens, h heads, k key_dim, v value_dim. The state is (batch,
heads, value_dim, key_dim). Source: Schlag et al. 2021; Yang et al. 2024 (the parallel form), 2025
(Gated DeltaNet).
"""

import torch
from einops import rearrange

from llmbook.backends import Backends
from llmbook.checks import on_device, tensor, wholes
from llmbook.ssm import matrix_state
from llmbook.ssm.chunks import cut, decays
from llmbook.ssm.inputs import check_starts, check_state

BACKENDS = ("reference", "associative", "chunked", "compiled", "triton")
CHUNK = 64


def gated_delta_rule(
    q,
    k,
    v,
    beta,
    log_alpha=None,
    *,
    initial_state=None,
    starts=None,
    return_state=False,
    chunk=CHUNK,
    backend="auto",
):
    """The gated delta rule: o (batch, tokens, heads, value_dim) in q's dtype.

    q, k: (batch, tokens, heads, key_dim), keys of length 1 (they are not normalised here; longer
    ones with β > 2 / |k|² let the state grow). v: (batch, tokens, heads, value_dim). beta: (batch,
    tokens, heads), the strength of a write, 0 to 1 (to 2 allows reflections). log_alpha: (batch,
    tokens, heads), log of what is kept, at most 0; None keeps all. initial_state: (batch, heads,
    value_dim, key_dim), float32 (float64 for float64). starts: bool (batch, tokens).

    backend: "reference" (the loop), "associative" (a tree over matrices key_dim × key_dim: for
    teaching), "chunked", "compiled" (a fused loop in C) or "triton"; `explain_delta_backend` says
    which "auto" takes.
    """
    _check(q, k, v, beta, log_alpha, chunk)
    batch, tokens, heads, key_dim = q.shape
    high = torch.float64 if q.dtype == torch.float64 else torch.float32
    shape = (batch, heads, v.shape[-1], key_dim)
    axes = "batch heads value_dim key_dim"
    sizes = dict(zip(axes.split(), shape, strict=True))
    check_state(initial_state, axes, high, "q", q.device, **sizes)
    check_starts(starts, "q", q)
    state = initial_state
    if state is None:
        state = torch.zeros(shape, dtype=high, device=q.device)
    if log_alpha is None:
        log_alpha = torch.zeros_like(beta)
    parts = [x.to(high) for x in (q, k, v, beta, log_alpha)]
    backend = _backends(q, parts[2]).choose(backend)
    if not tokens:
        o = torch.zeros_like(v, dtype=high)
    elif backend in ("compiled", "triton"):
        o, state = matrix_state.run(*parts, state, starts, correct=True, backend=backend)
    else:
        o, state = _RUN[backend](*parts, state, starts, chunk)
    o = o.to(q.dtype)
    return (o, state) if return_state else o


def gated_delta_step(q, k, v, beta, log_alpha, state):
    """One token: q, k (batch, heads, key_dim), v (batch, heads, value_dim), beta (batch, heads).

    log_alpha: (batch, heads), None keeps all. → o (batch, heads, value_dim), the state after it.
    """
    one = [None if x is None else x.unsqueeze(1) for x in (q, k, v, beta, log_alpha)]
    o, state = gated_delta_rule(*one, initial_state=state, return_state=True, backend="reference")
    return o.squeeze(1), state


def explain_delta_backend(q, v, backend="auto"):
    """Say which backend `gated_delta_rule` would run for q and v: a `BackendChoice`."""
    return _backends(q, v).explain(backend)


def _backends(q, v):
    def why_not(name):
        return matrix_state.why_not(name, v, q.shape[-1])

    m = matrix_state
    return Backends("this scan", BACKENDS, m.order(v), why_not, m.REASONS, m.PASSED_OVER)


def _reference(q, k, v, beta, log_alpha, state, starts, chunk):
    outs = []
    steps = zip(*(x.unbind(1) for x in (q, k, v, beta, log_alpha)), strict=True)
    for t, (q_t, k_t, v_t, beta_t, log_t) in enumerate(steps):
        if starts is not None:
            state = state.masked_fill(starts[:, t, None, None, None], 0.0)
        state = log_t[..., None, None].exp() * state
        held = (state @ k_t[..., None]).squeeze(-1)  # what it answers to the key
        write = beta_t[..., None] * (v_t - held)
        state = state + write[..., None] * k_t[..., None, :]
        outs.append((state @ q_t[..., None]).squeeze(-1))
    return torch.stack(outs, 1), state


def _associative(q, k, v, beta, log_alpha, state, starts, chunk):
    """Steps S → S M + W join as (M, W) then (M', W') = (M M', W M' + W'); a tree of them."""
    one = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    kept = log_alpha.exp()
    if starts is not None:
        kept = kept.masked_fill(starts[..., None], 0.0)
    M = one - beta[..., None, None] * k[..., None] * k[..., None, :]
    M = kept[..., None, None] * M  # (b, t, h, k, k)
    W = (beta[..., None] * v)[..., None] * k[..., None, :]  # (b, t, h, v, k)
    W = torch.cat([(state @ M[:, 0] + W[:, 0])[:, None], W[:, 1:]], 1)
    offset = 1
    while offset < q.shape[1]:
        W = torch.cat([W[:, :offset], W[:, :-offset] @ M[:, offset:] + W[:, offset:]], 1)
        M = torch.cat([M[:, :offset], M[:, :-offset] @ M[:, offset:]], 1)
        offset *= 2
    return (W @ q[..., None]).squeeze(-1), W[:, -1]


def _chunked(q, k, v, beta, log_alpha, state, starts, chunk):
    tokens = q.shape[1]
    chunk = min(chunk, tokens)
    kept = decays(log_alpha, starts, chunk)
    q, k, v, beta = (cut(x, chunk) for x in (q, k, v, beta))
    q, k, v = (rearrange(x, "b c t h d -> b c h t d") for x in (q, k, v))
    beta = rearrange(beta, "b c t h -> b c h t 1")
    between = rearrange(kept.between, "b c i j h -> b c h i j")
    from_start = rearrange(kept.from_start, "b c t h -> b c h t 1")
    to_end = rearrange(kept.to_end, "b c t h -> b c h t 1")

    # (I + lower) V' = β v − β γ k Sᵀ: solved once for both right-hand sides of every chunk
    lower = (beta * (k @ k.mT) * between).tril(-1)
    right = torch.cat([beta * v, beta * from_start * k], -1)
    solved = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
    values, keys = solved.split([v.shape[-1], k.shape[-1]], -1)
    scores = (q @ k.mT) * between
    asked, ended = q * from_start, k * to_end
    outs = []
    # unbind, as a slice's gradient is a tensor of the whole size: chunks² of work going back
    parts = (values, keys, asked, scores, ended, kept.whole[..., None, None])
    for new, key, ask, score, end, whole in zip(*(x.unbind(1) for x in parts), strict=True):
        new = new - key @ state.mT  # (b, h, t, v)
        outs.append(ask @ state.mT + score @ new)
        state = whole * state + new.mT @ end
    return rearrange(torch.stack(outs, 1), "b c h t v -> b (c t) h v")[:, :tokens], state


_RUN = {"reference": _reference, "associative": _associative, "chunked": _chunked}


def _check(q, k, v, beta, log_alpha, chunk):
    axes = "batch tokens heads key_dim"
    tensor("q", q, axes, float)
    sizes = dict(zip(axes.split(), q.shape, strict=True))
    tensor("k", k, axes, float, **sizes)
    tensor("v", v, "batch tokens heads value_dim", float, **sizes)
    tensor("beta", beta, "batch tokens heads", float, **sizes)
    if log_alpha is not None:
        tensor("log_alpha", log_alpha, "batch tokens heads", float, **sizes)
    on_device("q", q.device, k=k, v=v, beta=beta, log_alpha=log_alpha)
    if log_alpha is not None and log_alpha.numel() and bool((log_alpha > 0).any()):
        raise ValueError(
            f"log_alpha must be at most 0, a state that is kept: got {log_alpha.max().item():.4g}"
        )
    wholes(1, chunk=chunk)
