"""All that the next update depends on, as a `Snapshot`, and back: bit for bit.

Weights and optimiser state by parameter name, the loss scaler, and where every random number
generator stands. In several processes each tensor is gathered whole, so that a checkpoint does not
know how many processes wrote it, and any number of them can read it.
"""

import random

import numpy as np
import torch

from llmbook.seeds import number
from llmbook.training.checkpoint import Snapshot
from llmbook.training.distributed import gather, shard_like, whole

_SLOT = "::"  # between a parameter's name and what the optimiser keeps for it


def capture(step, model, optimizers, scaler, facts, world):
    """A `Snapshot` of a run at a step; None on all processes but the first.

    Every process must call it. facts: JSON-able, stored as it is.
    """
    tensors = {
        "model": {name: whole(t) for name, t in held_tensors(model).items()},
        "optimizer": {},
    }
    for name, slot, value in _optimizer_slots(model, optimizers):
        if isinstance(value, torch.Tensor):
            tensors["optimizer"][name + _SLOT + slot] = whole(value)
    generators = gather(_random_state(), world)
    if world.rank:
        return None
    tensors["random"] = {}
    for rank, state in enumerate(generators):
        for name, tensor in state["tensors"].items():
            tensors["random"][f"{rank}/{name}"] = tensor
    state = {
        "facts": facts,
        "scaler": None if scaler is None else scaler.state_dict(),
        "python_random": [state["python"] for state in generators],
    }
    return Snapshot(step, tensors, state)


def restore(snapshot, model, optimizers, scaler, world):
    """Put a snapshot's content into a model, its optimisers and the random number generators.

    Every process must call it; each takes its part. Raises ValueError where names, shapes or the
    precision are not those of the snapshot.
    """
    held = held_tensors(model)
    _same_names("the checkpoint's model", snapshot.tensors["model"], held)
    with torch.no_grad():
        for name, tensor in snapshot.tensors["model"].items():
            if held[name].shape != tensor.shape:  # a DTensor's shape is the whole tensor's
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)} in the checkpoint and "
                    f"{tuple(held[name].shape)} in the model"
                )
            held[name].copy_(shard_like(tensor, held[name]))
    _restore_optimizers(snapshot.tensors["optimizer"], model, optimizers)
    if (scaler is None) != (snapshot.state["scaler"] is None):
        raise ValueError("the checkpoint is of another precision: one has a loss scaler, one none")
    if scaler is not None:
        scaler.load_state_dict(snapshot.state["scaler"])
    _restore_random(snapshot, world)


def held_tensors(model):
    """Parameters and stored buffers by name; a tensor with two names has the first."""
    found, seen = {}, set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def whole_model(model, world):
    """The model with whole weights, on the CPU in several processes; all of them must call it."""
    if world.size == 1:
        return model
    tensors = {name: whole(t) for name, t in held_tensors(model).items()}
    copy = type(model)(model.config)
    with torch.no_grad():
        for name, tensor in held_tensors(copy).items():
            tensor.copy_(tensors[name])
    return copy.eval()


def _optimizer_slots(model, optimizers):
    """(parameter's name, "exp_avg" and the like, value) of all that the optimisers keep."""
    names = {id(p): name for name, p in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                for slot, value in optimizer.state.get(p, {}).items():
                    yield names[id(p)], slot, value


def _restore_optimizers(stored, model, optimizers):
    """stored: whole tensors by "name::slot"; learning rates and the like stay the optimisers'."""
    names = {id(p): name for name, p in model.named_parameters()}
    slots = {}
    for key, tensor in stored.items():
        name, _, slot = key.rpartition(_SLOT)
        slots.setdefault(name, {})[slot] = tensor
    _same_names("the checkpoint's optimiser state", slots.keys() - set(names.values()), {})
    for optimizer in optimizers:
        content, number = optimizer.state_dict(), 0
        content["state"] = {}
        for group in optimizer.param_groups:
            for p in group["params"]:
                found = slots.get(names[id(p)], {})
                if found:
                    content["state"][number] = {
                        # a clone: what was loaded may look into the file
                        slot: (shard_like(t, p) if t.ndim else t).clone()
                        for slot, t in found.items()
                    }
                number += 1
        optimizer.load_state_dict(content)


def _same_names(what, got, expected):
    odd = sorted(set(got) ^ set(expected))
    if odd:
        raise ValueError(f"{what} doesn't fit: {len(odd)} names differ, {odd[0]} the first")


# --- random number generators


def _random_state():
    kind, keys, position, has_gauss, cached = np.random.get_state()
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(keys.astype(np.int64))}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    version, numbers, gauss = random.getstate()
    python = {
        "version": version,
        "state": list(numbers),
        "gauss": gauss,
        "numpy": [kind, position, has_gauss, cached],
    }
    return {"tensors": tensors, "python": python}


def _restore_random(snapshot, world):
    """Set this process's generators; one that the checkpoint did not have starts from its own."""
    states = snapshot.state["python_random"]
    if world.rank >= len(states):
        torch.manual_seed(number(snapshot.step, "process", world.rank))
        return
    tensors = snapshot.tensors["random"]
    torch.set_rng_state(tensors[f"{world.rank}/torch"])
    if torch.cuda.is_available() and f"{world.rank}/cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{world.rank}/cuda"])
    python = states[world.rank]
    random.setstate((python["version"], tuple(python["state"]), python["gauss"]))
    kind, position, has_gauss, cached = python["numpy"]
    keys = tensors[f"{world.rank}/numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, cached))
