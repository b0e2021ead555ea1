"""Several processes as one: DDP and FSDP2 under `torchrun`, with the model's code untouched.

    DDP    every process holds the whole model and a part of the batch; gradients are averaged
    FSDP2  every process also holds only its part of each weight, its gradient and its optimiser
           state; a block's weights are gathered just before they are used

One process gives the same losses as several: a step's batch is the same, whoever reads which part.
"""

import contextlib
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class World:
    """Which process this is, of how many."""

    rank: int = 0
    size: int = 1

    @property
    def first(self):
        """Whether this is the process that writes and prints."""
        return self.rank == 0


def current_world():
    """The `World` of this process: one process unless a process group is there."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World()


@contextlib.contextmanager
def process_group(device="auto"):
    """Join the processes that `torchrun` started, and leave at the end; yields (world, device).

    Without torchrun there is one process and nothing is set up. On GPUs each process takes the one
    of its LOCAL_RANK and NCCL connects them; elsewhere gloo does.
    """
    from llmbook.device import resolve_device

    device = resolve_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield World(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield current_world(), device
    finally:
        dist.destroy_process_group()


class LossOf(nn.Module):
    """A model and its loss as one module: `forward(*batch)` is what several processes wrap.

    DDP averages gradients for calls through its `forward` only, so the loss has to lie inside.
    """

    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *batch):
        """The scalar loss of a batch."""
        return self.loss(self.model, *batch)


def parallelise(module, kind, world):
    """Wrap a `LossOf` for several processes: "ddp", "fsdp", or "none" for as it is.

    "fsdp" shards the model in place: its parameters become DTensors. Raises ValueError for a kind
    that doesn't fit the number of processes.
    """
    if kind == "auto":
        kind = "ddp" if world.size > 1 else "none"
    if kind == "none":
        if world.size > 1:
            raise ValueError(f"parallel='none' in {world.size} processes: use 'ddp' or 'fsdp'")
        return module
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            f"parallel={kind!r} needs several processes: start with torchrun --nproc-per-node N"
        )
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(module)
    shard(module.model)
    return module


def shard(model):
    """FSDP2: shard every layer of every `nn.ModuleList`, then what is left, in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device_type = next(model.parameters()).device.type
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for layer in module:
                fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def last_backward(module, last):
    """A context for a micro-batch: only after the last are gradients averaged over processes."""
    module = getattr(module, "_orig_mod", module)  # inside torch.compile
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext() if last else module.no_sync()
    if hasattr(module.model, "set_requires_gradient_sync"):
        module.model.set_requires_gradient_sync(last)
    return contextlib.nullcontext()


# --- numbers and tensors of all


def sum_over(world, tensor):
    """The sum over all processes of a tensor, on each of them."""
    if world.size > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def gather(thing, world):
    """A list of what each process has, on the first one (and on all)."""
    if world.size == 1:
        return [thing]
    found = [None] * world.size
    dist.all_gather_object(found, thing)
    return found


def barrier(world):
    """Wait until every process is here."""
    if world.size > 1:
        dist.barrier()


def whole(tensor):
    """The whole of a tensor that processes hold in parts; any other as it is."""
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_like(tensor, like):
    """This process's part of a whole tensor that all of them have, laid out as `like` is."""
    tensor = tensor.to(like.device)
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # No source: each process cuts its part out of its own copy, and nothing is sent.
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
