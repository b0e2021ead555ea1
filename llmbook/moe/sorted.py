"""Experts sorted: slots ordered by expert, one transfer to the host, a product for each slice.

What is stored for the backward pass is the input and the experts' hidden layer before its bend;
the rest is computed again. Products take many rows of one expert, since they are what a processor
is good at; what is computed number by number takes few, so that it stays in the cache, or a group
of experts at once where each has few. All of it writes into room that is taken once. Letters: see
`llmbook.moe`.
"""

import itertools

import torch
from torch.autograd.function import once_differentiable

from llmbook.layers import ACTIVATIONS

# Rows of an expert that are multiplied together on a CPU, and that are bent together. At width 256
# products took least time with 1,024 rows, and the rest with 64 to 512. A GPU wants all at once.
# Experts with few rows are joined up to CPU_JOINED: more took 0 to 6% less time, and the room for
# a group grows with it.
CPU_ROWS, CPU_BENT, CPU_JOINED = 1024, 128, 128

_aten = torch.ops.aten
# The slope times a gradient: (gradient, place, where it is written).
_SLOPE = {
    "relu": lambda grad, x, out: _aten.threshold_backward(grad, x, 0, grad_input=out),
    "gelu": lambda grad, x, out: _aten.gelu_backward(grad, x, grad_input=out),
    "gelu_tanh": lambda grad, x, out: _aten.gelu_backward(
        grad, x, approximate="tanh", grad_input=out
    ),
    "silu": lambda grad, x, out: _aten.silu_backward(grad, x, grad_input=out),
}


def sorted_experts(x, chosen, weights, in_weight, down_weight, activation, gated, on_input):
    """The weighted sum of each token's experts: arguments as in `run_experts`, (N, D) → (N, D).

    Checks nothing: `run_experts` does. Memory beyond the output: S · 2F numbers, kept for the
    backward pass, and a block's.
    """
    return _Sorted.apply(x, weights, in_weight, down_weight, chosen, activation, gated, on_input)


def slices(chosen, n_experts, rows):
    """Sort slots by expert: (order, blocks), a block an (expert, start, end) of sorted rows.

    An expert's rows are cut into even blocks of about `rows`: a few rows left over would cost a
    pass over the expert's weights like many. order: int64 (S,), which slot of N · K stands in each
    row; slots without an expert come last and lie in no block. The counts are the one thing sent
    to the host.
    """
    ids = torch.where(chosen < 0, n_experts, chosen).flatten()
    order = ids.argsort(stable=True)
    counts = torch.bincount(ids, minlength=n_experts + 1)[:n_experts].tolist()
    blocks, start = [], 0
    for expert, count in enumerate(counts):
        parts = max(1, round(count / rows))
        cuts = [start + count * i // parts for i in range(parts + 1)]
        blocks += [(expert, at, end) for at, end in itertools.pairwise(cuts) if end > at]
        start += count
    return order, blocks


def _pieces(rows, device):
    """Even slices of a block's rows, of about CPU_BENT: they are bent together."""
    parts = max(1, round(rows / CPU_BENT)) if device.type == "cpu" else 1
    return [slice(rows * i // parts, rows * (i + 1) // parts) for i in range(parts)]


def _bend(hidden, activation, gated):
    """φ(gate) ⊙ up, or φ(up): (rows, F)."""
    if not gated:
        return ACTIVATIONS[activation](hidden)
    gate, up = hidden.chunk(2, dim=-1)
    return ACTIVATIONS[activation](gate).mul_(up)


def _bend_again(hidden, activation, gated, out):
    """`_bend` of a few rows into `out`; φ(gate), which the way back needs, or None."""
    if not gated:
        out.copy_(ACTIVATIONS[activation](hidden))
        return None
    gate, up = hidden.chunk(2, dim=-1)
    opened = ACTIVATIONS[activation](gate)
    torch.mul(opened, up, out=out)
    return opened


def _bend_back(grad, hidden, opened, activation, gated, out):
    """The gradient of `_bend`'s hidden from that of its result, into `out` (rows, 2F or F)."""
    if not gated:
        return _SLOPE[activation](grad, hidden, out)
    (gate, up), (d_gate, d_up) = hidden.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(grad, opened, out=d_up)
    _SLOPE[activation](torch.mul(grad, up, out=opened), gate, d_gate)
    return out


def _groups(blocks, rows):
    """Blocks that follow each other, gathered while they have no more than `rows` together.

    What is done number by number is done for a group at once: with a few tokens an expert it would
    be the calls that take the time.
    """
    groups = []
    for block in blocks:
        if groups and block[2] - groups[-1][0][1] <= rows:
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def _span(group):
    """The first of a group's rows, and the one behind its last."""
    return group[0][1], group[-1][2]


def _within(group):
    """(expert, the slice of the group's rows that are its) for each block."""
    first = group[0][1]
    return [(expert, slice(start - first, end - first)) for expert, start, end in group]


class _Sorted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weights, in_weight, down_weight, chosen, activation, gated, on_input):
        (n_experts, width, d_model), on_cpu = in_weight.shape, x.device.type == "cpu"
        order, blocks = slices(chosen, n_experts, CPU_ROWS if on_cpu else len(x))
        # On a GPU a token's rows in one sum would be added in any order: an expert at a time.
        groups = _groups(blocks, CPU_JOINED if on_cpu else 0)
        tokens = order // max(chosen.shape[1], 1)
        high = torch.promote_types(x.dtype, torch.float32)
        scale = weights.flatten()[order].to(high)[:, None]
        stored = blocks[-1][2] if blocks else 0
        largest = max((end - start for start, end in map(_span, groups)), default=0)
        training = any(ctx.needs_input_grad)
        hidden = x.new_empty(stored if training else largest, width)
        answers = x.new_empty(largest, d_model)
        out = torch.zeros(x.shape, dtype=high, device=x.device)
        for group in groups:
            start, end = _span(group)
            given = x.index_select(0, tokens[start:end])  # (rows, D)
            if on_input:
                given.mul_(scale[start:end])
            raw = hidden[start:end] if training else hidden[: end - start]
            for expert, rows in _within(group):
                torch.mm(given[rows], in_weight[expert].t(), out=raw[rows])
            bent = _bend(raw, activation, gated)
            answer = answers[: end - start]
            for expert, rows in _within(group):
                torch.mm(bent[rows], down_weight[expert].t(), out=answer[rows])
            answer = answer.to(high)
            # On a CPU a token's rows are added in their order, which is that of the experts.
            out.index_add_(
                0, tokens[start:end], answer if on_input else answer.mul_(scale[start:end])
            )
        ctx.save_for_backward(x, scale, in_weight, down_weight, hidden, order, tokens)
        ctx.groups, ctx.how, ctx.shape = groups, (activation, gated, on_input), weights.shape
        ctx.weights_dtype = weights.dtype
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, scale, in_weight, down_weight, hidden, order, tokens = ctx.saved_tensors
        activation, gated, on_input = ctx.how
        (_, width, d_model), d_expert, high = in_weight.shape, down_weight.shape[2], scale.dtype
        d_x = torch.zeros(x.shape, dtype=high, device=x.device)
        d_scale = torch.zeros_like(scale)
        d_in, d_down = torch.empty_like(in_weight), torch.empty_like(down_weight)
        largest = max((end - start for start, end in map(_span, ctx.groups)), default=0)
        room = [x.new_empty(largest, n) for n in (d_model, d_model, d_expert, width)]
        # Gated, the gradient of what was bent stands where the gate's will, once it has been read.
        room.append(room[-1][:, :d_expert] if gated else x.new_empty(largest, d_expert))
        before = -1
        for group in ctx.groups:
            start, end = _span(group)
            at, weight, blocks = tokens[start:end], scale[start:end], _within(group)
            given, d_answer, bent, d_hidden, d_bent = (r[: end - start] for r in room)
            torch.index_select(d_out, 0, at, out=d_answer)
            for expert, rows in blocks:
                torch.mm(d_answer[rows], down_weight[expert], out=d_bent[rows])
            if not on_input:
                d_answer.mul_(weight)
            for few in _pieces(end - start, x.device):
                raw = hidden[start:end][few]
                opened = _bend_again(raw, activation, gated, bent[few])
                if not on_input:
                    # ⟨dy, down(bent)⟩ = ⟨dy down, bent⟩: the answers need not be kept.
                    product = torch.mul(d_bent[few], bent[few], out=d_hidden[few][:, -d_expert:])
                    d_scale[start:end][few] = product.sum(-1, keepdim=True, dtype=high)
                    d_bent[few].mul_(weight[few])
                _bend_back(d_bent[few], raw, opened, activation, gated, d_hidden[few])
            torch.index_select(x, 0, at, out=given)
            if on_input:
                given.mul_(weight)
            for expert, rows in blocks:
                for d_weight, left, right in (
                    (d_in[expert], d_hidden[rows], given[rows]),
                    (d_down[expert], d_answer[rows], bent[rows]),
                ):
                    if expert == before:  # a further block of the same expert
                        d_weight.addmm_(left.t(), right)
                    else:
                        torch.mm(left.t(), right, out=d_weight)
                d_given = d_answer[rows]  # read for the last time: the answer may lie there
                torch.mm(d_hidden[rows], in_weight[expert], out=d_given)
                before = expert
            back = d_answer.to(high)
            if on_input:
                d_scale[start:end] = (back * x.index_select(0, at)).sum(-1, keepdim=True)
                back.mul_(weight)
            d_x.index_add_(0, at, back)
        used = {expert for group in ctx.groups for expert, _, _ in group}
        for expert in set(range(len(in_weight))) - used:
            d_in[expert].zero_()
            d_down[expert].zero_()
        d_weights = torch.zeros(order.shape, dtype=high, device=x.device)
        d_weights[order] = d_scale[:, 0]
        d_weights = d_weights.view(ctx.shape).to(ctx.weights_dtype)
        return d_x.to(x.dtype), d_weights, d_in, d_down, None, None, None, None
