"""Experts sorted: slots ordered by expert, one transfer to the host, a product for each slice.

What is stored for the backward pass is the input and the experts' hidden layer before its bend;
the rest is computed again, a block of rows at a time, while it lies in the cache. Letters: see
`llmbook.moe`.
"""

import torch
from torch.autograd.function import once_differentiable

from llmbook.layers import ACTIVATIONS

# Rows of an expert that are computed together on a CPU, so that temporaries stay small. Of 128,
# 256 and 1,024 the last took the least CPU time at width 256. A GPU wants each product whole.
CPU_ROWS = 1024

_aten = torch.ops.aten
_SLOPE = {
    "relu": lambda grad, x: _aten.threshold_backward(grad, x, 0),
    "gelu": lambda grad, x: _aten.gelu_backward(grad, x),
    "gelu_tanh": lambda grad, x: _aten.gelu_backward(grad, x, approximate="tanh"),
    "silu": _aten.silu_backward,
}


def sorted_experts(x, chosen, weights, in_weight, down_weight, activation, gated, on_input):
    """The weighted sum of each token's experts: arguments as in `run_experts`, (N, D) → (N, D).

    Checks nothing: `run_experts` does. Memory beyond the output: S · 2F numbers, kept for the
    backward pass, and the blocks'.
    """
    return _Sorted.apply(x, weights, in_weight, down_weight, chosen, activation, gated, on_input)


def _slices(chosen, n_experts, rows):
    """Sort slots by expert: (order, blocks), a block an (expert, start, end) of sorted rows.

    order: int64 (S,), which slot of N · K stands in each row; slots without an expert come last
    and lie in no block. The counts are the one thing sent to the host.
    """
    ids = torch.where(chosen < 0, n_experts, chosen).flatten()
    order = ids.argsort(stable=True)
    counts = torch.bincount(ids, minlength=n_experts + 1)[:n_experts].tolist()
    blocks, start = [], 0
    for expert, count in enumerate(counts):
        end = start + count
        blocks += [(expert, at, min(at + rows, end)) for at in range(start, end, rows)]
        start = end
    return order, blocks


def _bend(hidden, activation, gated):
    if not gated:
        return ACTIVATIONS[activation](hidden)
    gate, up = hidden.chunk(2, dim=-1)
    return ACTIVATIONS[activation](gate).mul_(up)


def _bend_with_slope(hidden, activation, gated):
    """`_bend` and the way back: (rows, F), and a function of its gradient → that of hidden."""
    if not gated:
        return _bend(hidden, activation, gated), lambda grad: _SLOPE[activation](grad, hidden)
    gate, up = hidden.chunk(2, dim=-1)
    opened = ACTIVATIONS[activation](gate)

    def back(grad):
        out = torch.empty_like(hidden)
        d_gate, d_up = out.chunk(2, dim=-1)
        torch.mul(grad, opened, out=d_up)
        d_gate.copy_(_SLOPE[activation](grad.mul_(up), gate))
        return out

    return opened * up, back


class _Sorted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weights, in_weight, down_weight, chosen, activation, gated, on_input):
        n_experts, width, _ = in_weight.shape
        order, blocks = _slices(chosen, n_experts, CPU_ROWS if x.device.type == "cpu" else len(x))
        tokens = order // max(chosen.shape[1], 1)
        high = torch.promote_types(x.dtype, torch.float32)
        scale = weights.flatten()[order].to(high)[:, None]
        stored = blocks[-1][2] if blocks else 0
        training = any(ctx.needs_input_grad)
        largest = max((end - start for _, start, end in blocks), default=0)
        hidden = x.new_empty(stored if training else largest, width)
        out = torch.zeros(x.shape, dtype=high, device=x.device)
        for expert, start, end in blocks:
            at = tokens[start:end]
            given = x.index_select(0, at)  # (rows, D)
            if on_input:
                given = (given * scale[start:end]).to(x.dtype)
            bent = hidden[start:end] if training else hidden[: end - start]
            torch.mm(given, in_weight[expert].t(), out=bent)
            answer = _bend(bent, activation, gated) @ down_weight[expert].t()
            answer = answer.to(high)
            # No token comes twice in a block, so the order of a sum is that of the experts.
            out.index_add_(0, at, answer if on_input else answer.mul_(scale[start:end]))
        ctx.save_for_backward(x, scale, in_weight, down_weight, hidden, order, tokens)
        ctx.blocks, ctx.how, ctx.shape = blocks, (activation, gated, on_input), weights.shape
        ctx.weights_dtype = weights.dtype
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, scale, in_weight, down_weight, hidden, order, tokens = ctx.saved_tensors
        activation, gated, on_input = ctx.how
        high = scale.dtype
        d_x = torch.zeros(x.shape, dtype=high, device=x.device)
        d_scale = torch.zeros_like(scale)
        d_in, d_down = torch.empty_like(in_weight), torch.empty_like(down_weight)
        before = -1
        for expert, start, end in ctx.blocks:
            at, weight = tokens[start:end], scale[start:end]
            bent, back = _bend_with_slope(hidden[start:end], activation, gated)  # (rows, F)
            d_answer = d_out.index_select(0, at)
            d_bent = d_answer @ down_weight[expert]
            if not on_input:
                # ⟨dy, down(bent)⟩ = ⟨dy down, bent⟩: the answers need not be kept.
                d_scale[start:end] = (d_bent * bent).sum(-1, keepdim=True, dtype=high)
                d_bent.mul_(weight)
                bent.mul_(weight)
            d_hidden = back(d_bent)
            given = x.index_select(0, at)
            if on_input:
                given = (given * weight).to(x.dtype)
            for d_weight, left, right in (
                (d_in[expert], d_hidden, given),
                (d_down[expert], d_answer, bent),
            ):
                if expert == before:  # a further block of the same expert
                    d_weight.addmm_(left.t(), right)
                else:
                    torch.mm(left.t(), right, out=d_weight)
            d_given = (d_hidden @ in_weight[expert]).to(high)
            if on_input:
                d_scale[start:end] = (d_given * x.index_select(0, at)).sum(-1, keepdim=True)
                d_given.mul_(weight)
            d_x.index_add_(0, at, d_given)
            before = expert
        used = {expert for expert, _, _ in ctx.blocks}
        for expert in set(range(len(in_weight))) - used:
            d_in[expert].zero_()
            d_down[expert].zero_()
        d_weights = torch.zeros(order.shape, dtype=high, device=x.device)
        d_weights[order] = d_scale[:, 0]
        d_weights = d_weights.view(ctx.shape).to(ctx.weights_dtype)
        return d_x.to(x.dtype), d_weights, d_in, d_down, None, None, None, None
