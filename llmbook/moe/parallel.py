"""Expert parallelism: each process holds some of the experts, and tokens travel to theirs.

Two all-to-all exchanges a layer: rows go to the process that has their expert, answers come back.
The router is the same everywhere. Letters: see `llmbook.moe`.
"""

import torch
import torch.distributed as dist
from torch import nn

from llmbook.moe.experts import run_experts


class _Exchange(torch.autograd.Function):
    """Rows to other processes: sent[r] of them to process r; backward, gradients the way back."""

    @staticmethod
    def forward(ctx, rows, sent, received, group):
        ctx.sent, ctx.received, ctx.group = sent, received, group
        out = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(out, rows.contiguous(), received, sent, group=group)
        return out

    @staticmethod
    def backward(ctx, d_out):
        d_rows = d_out.new_empty(sum(ctx.sent), *d_out.shape[1:])
        dist.all_to_all_single(d_rows, d_out.contiguous(), ctx.sent, ctx.received, group=ctx.group)
        return d_rows, None, None, None


class ParallelExperts(nn.Module):
    """A part of an `Experts` module's weights, and all of its work: takes its place in a `MoE`.

    `moe.experts = ParallelExperts(moe.experts)` on every one of R processes keeps E / R experts,
    from rank · E / R on. forward(x, routing) is as `Experts`'; each process brings its own tokens.
    An expert's gradient is that of all processes' tokens together; the router's is each process's
    own, to be summed as for any replicated weight. Raises ValueError when the number of processes
    does not divide the experts.
    """

    def __init__(self, experts, group=None):
        super().__init__()
        n_experts, processes = len(experts.in_weight), dist.get_world_size(group)
        if n_experts % processes:
            raise ValueError(
                "the number of experts must be a multiple of the processes: got "
                f"{n_experts} experts, {processes} processes"
            )
        self.group, self.n_experts, self.here = group, n_experts, n_experts // processes
        self.activation, self.backend = experts.activation, experts.backend
        first = dist.get_rank(group) * self.here
        for name in ("in_weight", "down_weight"):
            held = getattr(experts, name).detach()[first : first + self.here]
            self.register_parameter(name, nn.Parameter(held.clone()))

    def forward(self, x, routing):
        """Put this process's tokens through their experts, wherever those are: (N, D) → (N, D)."""
        chosen, weights = routing.chosen.flatten(), routing.weights.flatten()
        ids = torch.where(chosen < 0, self.n_experts, chosen)
        order = ids.argsort(stable=True)
        counts = torch.bincount(ids, minlength=self.n_experts + 1)[: self.n_experts]
        arriving = torch.empty_like(counts)  # (R · E / R,): from each process, for my experts
        dist.all_to_all_single(arriving, counts, group=self.group)
        order = order[: int(counts.sum())]  # slots without an expert stay at home
        sent = counts.view(-1, self.here).sum(1).tolist()
        arriving = arriving.view(-1, self.here)
        received = arriving.sum(1).tolist()

        tokens = order // routing.chosen.shape[1]
        scale = weights[order, None]
        rows = x[tokens]
        if routing.on_input:
            rows = (rows * scale).to(x.dtype)
        rows = _Exchange.apply(rows, sent, received, self.group)
        mine = torch.arange(self.here, device=x.device).repeat(len(received))
        mine = mine.repeat_interleave(arriving.flatten())[:, None]  # (rows, 1): one expert each
        answers = run_experts(
            rows,
            mine,
            torch.ones_like(mine, dtype=rows.dtype),
            self.in_weight,
            self.down_weight,
            activation=self.activation,
            backend=self.backend,
        )
        answers = _Exchange.apply(answers, received, sent, self.group)
        if not routing.on_input:
            answers = answers * scale
        high = torch.promote_types(x.dtype, torch.float32)
        out = torch.zeros(x.shape, dtype=high, device=x.device)
        return out.index_add(0, tokens, answers.to(high)).to(x.dtype)
