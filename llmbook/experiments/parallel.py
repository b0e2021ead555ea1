"""One step of training cut over two real processes, in five ways: what is held, what is sent.

    data      half of the batch each; gradients are added up
    sharded   the same, and of every weight half each, gathered where it is used (ZeRO-3, FSDP)
    tensor    half of the heads and of the hidden units each; what they add is summed
    pipeline  half of the blocks each; activations go forward, their gradients back
    context   half of the tokens of every text each; keys and values are gathered

Every way must give the gradient that one process gives. `sent` counts the bytes that a process
hands to the network: for a tensor of S bytes an all-reduce between two sends S, an all-gather its
own part, a reduce-scatter the other's part.

Shapes: x (batch, tokens, width) float64. No embedding, no head: the loss is a mean square.
Sources: Li et al. 2020; Rajbhandari et al. 2020; Shoeybi et al. 2019; Huang et al. 2019; Liu et
al. 2023 (in rings, where here one gather does).
"""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from llmbook.seeds import generator

BLOCKS, WIDTH, HEADS, HIDDEN = 4, 32, 2, 128
ROWS, TOKENS, PARTS = 8, 16, 4  # PARTS: micro-batches of the pipeline
SHAPES = (  # of a block's weights: queries, keys and values; out; up; down
    (HEADS, 3, WIDTH, WIDTH // HEADS),
    (HEADS, WIDTH // HEADS, WIDTH),
    (WIDTH, HIDDEN),
    (HIDDEN, WIDTH),
)


def same(x):
    """Nothing is done."""
    return x


def block(x, weights, enter=same, leave=same, gathered=same, first=0):
    """Causal attention and a feed-forward network, each behind a norm and added to its input.

    enter, leave: around what tensor parallelism cuts; gathered: keys and values of all tokens,
    where x holds those from number `first` on.
    """
    project, out, up, down = weights
    q, k, v = torch.einsum("btd,hsde->sbhte", enter(F.rms_norm(x, x.shape[-1:])), project)
    k, v = gathered(k), gathered(v)
    here = torch.arange(first, first + x.shape[1])
    seen = here[:, None] >= torch.arange(k.shape[2])
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    x = x + leave(torch.einsum("bhte,hed->btd", o, out))
    return x + leave(F.gelu(enter(F.rms_norm(x, x.shape[-1:])) @ up) @ down)


def setting():
    """Inputs, targets and the weights of every block, the same in every process."""
    draw = generator(0, "parallel")
    x, y = torch.randn(2, ROWS, TOKENS, WIDTH, generator=draw, dtype=torch.float64)
    blocks = [
        [torch.randn(s, generator=draw, dtype=torch.float64) * s[-2] ** -0.5 for s in SHAPES]
        for _ in range(BLOCKS)
    ]
    return x, y, [[w.requires_grad_() for w in weights] for weights in blocks]


def loss_of(x, y):
    """Mean square over the whole batch, of which x and y may be a part."""
    return (x - y).square().sum() / (ROWS * TOKENS * WIDTH)


class Wire:
    """The network between the processes: collectives that count what is sent."""

    def __init__(self):
        self.rank, self.size, self.sent = dist.get_rank(), dist.get_world_size(), 0

    def summed(self, x):
        """The sum over processes."""
        x = x.clone()
        self.sent += x.nbytes
        dist.all_reduce(x)
        return x

    def gather(self, x, dim):
        """All processes' parts side by side."""
        self.sent += x.nbytes
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim)

    def scatter(self, x, dim):
        """This process's part of the sum over processes."""
        parts = [p.contiguous() for p in x.chunk(self.size, dim)]
        self.sent += x.nbytes - parts[self.rank].nbytes
        other, mine = torch.empty_like(parts[0]), parts[self.rank]
        for turn in range(self.size):  # the lower rank sends first
            if turn == self.rank:
                dist.send(parts[1 - self.rank], 1 - self.rank)
            else:
                dist.recv(other, 1 - self.rank)
        return mine + other


class Summed(torch.autograd.Function):
    """Forward: the sum over processes. Backward: nothing."""

    @staticmethod
    def forward(ctx, x, wire):
        return wire.summed(x)

    @staticmethod
    def backward(ctx, g):
        return g, None


class Copied(torch.autograd.Function):
    """Forward: nothing. Backward: the sum over processes."""

    @staticmethod
    def forward(ctx, x, wire):
        ctx.wire = wire
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return ctx.wire.summed(g), None


class Gathered(torch.autograd.Function):
    """Forward: all parts side by side. Backward: this process's part of the summed gradient."""

    @staticmethod
    def forward(ctx, x, wire, dim):
        ctx.wire, ctx.dim = wire, dim
        return wire.gather(x, dim)

    @staticmethod
    def backward(ctx, g):
        return ctx.wire.scatter(g, ctx.dim), None, None


# --- the five ways: (gradients of this process, those they must equal), flat


def data(wire, x, y, blocks, truth):
    rows = x.chunk(wire.size)[wire.rank]
    for weights in blocks:
        rows = block(rows, weights)
    loss_of(rows, y.chunk(wire.size)[wire.rank]).backward()
    flat = [torch.cat([w.grad.flatten() for w in weights]) for weights in blocks]
    return [wire.summed(g) for g in flat], truth


def sharded(wire, x, y, blocks, truth):
    half = lambda flat: flat.chunk(wire.size)[wire.rank]
    parts = [half(flat_of(weights).detach()).clone().requires_grad_() for weights in blocks]
    rows = x.chunk(wire.size)[wire.rank]

    def run(rows, part):  # run again in the backward pass, where it gathers again
        return block(rows, shaped(Gathered.apply(part, wire, 0)))

    for part in parts:
        rows = checkpoint(run, rows, part, use_reentrant=False)
    loss_of(rows, y.chunk(wire.size)[wire.rank]).backward()
    return [p.grad for p in parts], [half(g) for g in truth]


def tensor(wire, x, y, blocks, truth):
    cuts = [cut(weights, wire.rank, wire.size) for weights in blocks]
    for weights in cuts:
        x = block(x, weights, lambda t: Copied.apply(t, wire), lambda t: Summed.apply(t, wire))
    loss_of(x, y).backward()
    wanted = [flat_of(cut(shaped(g), wire.rank, wire.size)) for g in truth]
    return [flat_of([w.grad for w in weights]) for weights in cuts], wanted


def pipeline(wire, x, y, blocks, truth):
    mine = list(zip(blocks, truth, strict=True))[wire.rank * BLOCKS // 2 :][: BLOCKS // 2]
    pieces, waiting = list(zip(x.chunk(PARTS), y.chunk(PARTS), strict=True)), []
    for rows, wanted in pieces:
        if wire.rank == 1:
            rows = torch.empty_like(rows)
            dist.recv(rows, 0)
            rows.requires_grad_()
        out = rows
        for weights, _ in mine:
            out = block(out, weights)
        if wire.rank == 0:
            wire.sent += out.nbytes
            dist.send(out.detach(), 1)
        waiting.append((rows, out, wanted))
    for rows, out, wanted in waiting:
        if wire.rank == 1:
            loss_of(out, wanted).backward()
            wire.sent += rows.nbytes
            dist.send(rows.grad, 0)
        else:
            g = torch.empty_like(out)
            dist.recv(g, 1)
            out.backward(g)
    return [flat_of([w.grad for w in weights]) for weights, _ in mine], [g for _, g in mine]


def context(wire, x, y, blocks, truth):
    part, first = x.chunk(wire.size, 1)[wire.rank], wire.rank * TOKENS // wire.size
    for weights in blocks:
        part = block(part, weights, gathered=lambda t: Gathered.apply(t, wire, 2), first=first)
    loss_of(part, y.chunk(wire.size, 1)[wire.rank]).backward()
    return [wire.summed(flat_of([w.grad for w in weights])) for weights in blocks], truth


WAYS = {
    "data": data,
    "sharded": sharded,
    "tensor": tensor,
    "pipeline": pipeline,
    "context": context,
}


def flat_of(weights):
    """A block's weights as one vector."""
    return torch.cat([w.flatten() for w in weights])


def shaped(flat):
    """A vector as a block's weights."""
    sizes = [torch.Size(s).numel() for s in SHAPES]
    return [p.view(s) for p, s in zip(flat.split(sizes), SHAPES, strict=True)]


def cut(weights, rank, size):
    """This process's heads and hidden units."""
    cuts = [
        w.detach().chunk(size, dim)[rank] for w, dim in zip(weights, (0, 0, 1, 0), strict=True)
    ]
    return [w.clone().requires_grad_() for w in cuts]


# --- two processes


def _worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2
    )
    found = {}
    for way, run in WAYS.items():
        x, y, blocks = setting()
        out = x
        for weights in blocks:
            out = block(out, weights)
        loss_of(out, y).backward()
        truth = [flat_of([w.grad for w in weights]) for weights in blocks]
        wire, (x, y, blocks) = Wire(), setting()
        got, wanted = run(wire, x, y, blocks, truth)
        found[way] = {
            "sent": wire.sent,
            "held": sum(g.numel() for g in got),
            "difference": max(
                (a - b).abs().max().item() for a, b in zip(got, wanted, strict=True)
            ),
            "largest": max(b.abs().max().item() for b in wanted),
        }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def in_two_processes():
    """{way: {"sent", "held", "difference", "largest": a number for each process}}."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, (folder,), nprocs=2)
        found = [torch.load(Path(folder) / f"{rank}.pt") for rank in (0, 1)]
    return {
        way: {name: [one[way][name] for one in found] for name in found[0][way]} for way in WAYS
    }
