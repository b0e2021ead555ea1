"""A state that is a matrix, from keys to values: what Mamba-2's scan and the delta rule share.

    S̃_t = a_t S_(t−1),   w_t = b_t (v_t − c S̃_t k_t),   S_t = S̃_t + w_t k_tᵀ,   o_t = S_t q_t

With c = 1 that is the gated delta rule. With c = 0 and b = 1 it is Mamba-2's scan, with C for
queries, B for keys and Δ x for values. Two fused ways to run it, forward and backward, that store
one state in a stretch of tokens: a compiled loop (CPU) and a Triton kernel (CUDA).
"""

from pathlib import Path

import torch

from llmbook.native import LANES, Loops, in_shares, shares_of

STRETCH = 16  # tokens between two kept states of the loop: a stretch of them stays in cache
COST = 0.25e-6  # milliseconds of the loop for a number of the state at a token, about
LARGEST_KEY = 128  # of the Triton kernel
LOOPS = Loops(Path(__file__).with_name("compiled_matrix.c"), "the compiled scan")


def run(q, k, v, beta, log_alpha, initial, starts, *, correct, backend):
    """o (batch, tokens, heads, value_dim) and the last state, all in v's dtype.

    q, k: (batch, tokens, groups, key_dim), groups dividing heads. v: (batch, tokens, heads,
    value_dim). beta (or None for ones), log_alpha: (batch, tokens, heads). initial: (batch, heads,
    value_dim, key_dim). starts: bool (batch, tokens) or None. correct: c above. The caller has
    checked.
    """
    if starts is not None:
        log_alpha = log_alpha.masked_fill(starts[..., None], -torch.inf)
    q, k, v, log_alpha, initial = (x.contiguous() for x in (q, k, v, log_alpha, initial))
    beta = None if beta is None else beta.contiguous()
    if backend == "triton":
        from llmbook.kernels.matrix_state import MatrixState
    else:
        MatrixState = CompiledMatrixState
    return MatrixState.apply(q, k, v, beta, log_alpha, initial, correct)


class CompiledMatrixState(torch.autograd.Function):
    """(o, last state) by the compiled loop; arguments as `run`'s, contiguous, on the CPU."""

    @staticmethod
    def forward(ctx, q, k, v, beta, log_alpha, initial, correct):
        alpha = log_alpha.exp()
        o, last, kept = _forward(q, k, v, beta, alpha, initial, correct)
        ctx.save_for_backward(q, k, v, beta, alpha, kept)
        ctx.correct = correct
        return o, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dlast):
        grads = _backward(*ctx.saved_tensors, do.contiguous(), dlast.contiguous(), ctx.correct)
        return *grads, None


def _forward(q, k, v, beta, alpha, initial, correct):
    """o, the last state, and the kept states; alpha: what each token keeps."""
    (batch, tokens, heads, values), (groups, keys) = v.shape, q.shape[2:]
    stretches, blocks = -(-tokens // STRETCH), -(-values // LANES)
    o, last = torch.empty_like(v), torch.empty_like(initial)
    kept = v.new_empty(batch, heads, stretches, blocks, keys, LANES)
    sizes = (batch, tokens, heads, groups, keys, values, STRETCH, int(correct))

    def run(first, end, _):
        tensors = (q, k, v, beta, alpha, initial, o, kept, last)
        LOOPS.call("forward", v.dtype, tensors, (*sizes, first, end))

    in_shares(run, batch * heads, shares_of(batch * heads, COST * v.numel() * keys))
    return o, last, kept


def _backward(q, k, v, beta, alpha, kept, do, dlast, correct):
    """Gradients of q, k, v, beta, log alpha and the initial state."""
    (batch, tokens, heads, values), (groups, keys) = v.shape, q.shape[2:]
    dv, dinitial, dlog = torch.empty_like(v), torch.empty_like(dlast), torch.zeros_like(alpha)
    dbeta = None if beta is None else torch.zeros_like(beta)
    # a group's heads may fall into several
    shares = shares_of(batch * heads, COST * v.numel() * keys)
    dq, dk = (torch.zeros(shares, *q.shape, dtype=q.dtype) for _ in range(2))
    sizes = (batch, tokens, heads, groups, keys, values, STRETCH, int(correct))

    def run(first, end, share):
        read = (q, k, v, beta, alpha, kept, do, dlast)
        written = (dq[share], dk[share], dv, dbeta, dlog, dinitial)
        LOOPS.call("backward", v.dtype, (*read, *written), (*sizes, first, end))

    in_shares(run, batch * heads, shares)
    return dq.sum(0), dk.sum(0), dv, dbeta, dlog, dinitial


def why_not(backend, v, key_dim):
    """Reason why a fused way cannot run values v with keys of that width, or None."""
    if backend == "compiled":
        if v.device.type != "cpu":
            return f"the compiled loop runs on the CPU: got {v.device}"
        return LOOPS.why_not()
    if backend != "triton":
        return None
    from llmbook.kernels import installed, interpreting

    if v.dtype == torch.float64:
        return "the Triton kernel keeps its state in float32: got float64"
    if key_dim > LARGEST_KEY:
        return f"the Triton kernel takes states up to {LARGEST_KEY} wide: got {key_dim}"
    if not installed():
        return "the package triton is not installed (it exists for Linux alone)"
    if not v.is_cuda and not interpreting():
        return f"the Triton kernel needs a CUDA device: got {v.device}"
    return None


def order(v):
    """The backends that "auto" tries for values v, in order."""
    if v.shape[1] <= 1:
        return ("reference",)
    return ("chunked",) if v.is_cuda else ("compiled", "chunked")


REASONS = {
    "compiled": "one fused loop, compiled for this CPU",
    "chunked": "products of matrices within chunks, a state between them",
    "reference": "a single token is one step of the formula",
}
PASSED_OVER = {
    "reference": "the same result, slower: it keeps every state",
    "associative": "the same result, log2(tokens) times the work, every state kept",
    "matrix": "the same result with work and memory that grow as tokens²",
    "chunked": "the same result with more passes over memory",
    "compiled": "the same result; for a single token there is no loop to fuse",
    "triton": "it can run, by name: no race on a chip has shown it ahead yet",
}
