"""The chosen experts in C for CPUs: `compiled_experts.c`, see `llmbook.native`.

Each thread has experts of its own and multiplies alone, by the routine that PyTorch's library
brings; threads share nothing until their sums are joined. `why_not()` says what keeps it from
being there. Letters: see `llmbook.moe`.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch.autograd.function import once_differentiable

from llmbook.moe.sorted import slices
from llmbook.native import Loops

ROWS = 256  # of an expert at once: they and what is made of them stay in the cache
SHARE = 4e6  # multiplications that a thread is worth waking for, about
LOOPS = Loops(Path(__file__).with_name("compiled_experts.c"), "the compiled experts", "-fopenmp")
_PRODUCT = {torch.float32: "SGEMM", torch.float64: "DGEMM"}


def why_not():
    """Reason why they cannot run on this machine, or None. The first call builds."""
    missing = [name for name in _PRODUCT.values() if not _address(name)]
    if missing:
        return f"this build of PyTorch does not show MKL's {missing[0]}"
    return LOOPS.why_not()


def compiled_experts(x, chosen, weights, in_weight, down_weight, on_input):
    """The weighted sum of each token's experts, gated by SiLU: arguments as in `run_experts`.

    float32 or float64 on the CPU. Checks nothing: `run_experts` does. Memory beyond the output:
    S · 2F numbers, kept for the backward pass, N · D for each further thread, and a block's.
    """
    return _Compiled.apply(x, weights, in_weight, down_weight, chosen, on_input)


@functools.cache
def _address(name):
    """Where a function of PyTorch's CPU library begins; 0 where it does not show it."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        function = getattr(ctypes.CDLL(str(path)), name)
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value


def _shared(blocks, threads):
    """Give each thread whole experts, about as many rows: (blocks in order of threads, cuts)."""
    of_expert = {}
    for block in blocks:
        of_expert.setdefault(block[0], []).append(block)
    shares = [[] for _ in range(threads)]
    rows = [0] * threads
    counts = {e: mine[-1][2] - mine[0][1] for e, mine in of_expert.items()}
    for expert in sorted(counts, key=counts.get, reverse=True):
        least = rows.index(min(rows))
        shares[least].append(expert)
        rows[least] += counts[expert]
    ordered, cuts = [], [0]
    for share in shares:
        ordered += [block for expert in sorted(share) for block in of_expert[expert]]
        cuts.append(len(ordered))
    return ordered, cuts


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weights, in_weight, down_weight, chosen, on_input):
        (n, d_model), d_expert = x.shape, down_weight.shape[2]
        order, blocks = slices(chosen, len(in_weight), ROWS)
        x, in_weight, down_weight = (t.contiguous() for t in (x, in_weight, down_weight))
        scale = weights.flatten()[order].to(x.dtype)
        tokens = order // max(chosen.shape[1], 1)
        work = 3 * d_model * d_expert * (blocks[-1][2] if blocks else 0)
        threads = max(1, min(torch.get_num_threads(), int(work / SHARE)))
        ordered, cuts = _shared(blocks, threads)
        most = max((end - start for _, start, end in blocks), default=0)
        plan = [torch.tensor(numbers, dtype=torch.int64) for numbers in (ordered, cuts)]
        function, limit = _address(_PRODUCT[x.dtype]), _address("MKL_Set_Num_Threads_Local")
        sizes = (function, limit, threads, n, d_model, d_expert, most, on_input)
        training = any(ctx.needs_input_grad)
        hidden = x.new_empty(len(order), 2 * d_expert) if training else None
        out, others = torch.empty_like(x), x.new_empty(threads - 1, n, d_model)
        rooms = x.new_empty(threads, most, d_model + d_expert * (1 if training else 3))
        tensors = (x, tokens, scale, in_weight, down_weight, hidden, out, others, rooms, *plan)
        LOOPS.call("forward", x.dtype, tensors, sizes)
        ctx.save_for_backward(x, tokens, scale, in_weight, down_weight, hidden, order, *plan)
        ctx.sizes, ctx.weights = sizes, (weights.shape, weights.dtype)
        ctx.used = {expert for expert, _, _ in blocks}
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        *read, order, blocks, cuts = ctx.saved_tensors
        x, _, scale, in_weight, down_weight, _ = read
        d_x, d_scale = torch.empty_like(x), torch.zeros_like(scale)
        d_in, d_down = torch.empty_like(in_weight), torch.empty_like(down_weight)
        for expert in set(range(len(in_weight))) - ctx.used:
            d_in[expert].zero_()
            d_down[expert].zero_()
        _, _, threads, _, d_model, d_expert, most, _ = ctx.sizes
        others = x.new_empty(threads - 1, *x.shape)
        rooms = x.new_empty(threads, most, 2 * d_model + 3 * d_expert)
        written = (d_x, d_scale, d_in, d_down, others, rooms)
        tensors = (*read, d_out.contiguous(), *written, blocks, cuts)
        LOOPS.call("backward", x.dtype, tensors, ctx.sizes)
        shape, dtype = ctx.weights
        d_weights = torch.empty_like(d_scale)
        d_weights[order] = d_scale
        return d_x, d_weights.view(shape).to(dtype), d_in, d_down, None, None
