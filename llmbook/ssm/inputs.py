"""What the scans ask of their arguments, in one wording."""

import torch
import torch.nn.functional as F


def state_dtype(u, A):
    """float64 where the input or A is, else float32: what states are kept in."""
    either = torch.promote_types(u.dtype, A.dtype)
    return torch.float64 if either == torch.float64 else torch.float32


def step_size(delta, bias, softplus, dtype):
    """Δ = softplus(delta + bias), or delta + bias, which must not be negative."""
    delta = delta.to(dtype)
    if bias is not None:
        delta = delta + bias.to(dtype)
    if softplus:
        return F.softplus(delta)
    if delta.numel() and bool((delta < 0).any()):
        raise ValueError(
            "delta must not be negative, a step of time (or set delta_softplus=True): "
            f"got {delta.min().item():.4g}"
        )
    return delta


def check_floating(name, x, axes):
    """Raise unless x is a floating-point tensor with these axes."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a tensor ({axes}): got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point: got {x.dtype}")
    if x.ndim != axes.count(",") + 1:
        raise ValueError(f"{name} must have shape ({axes}): got {tuple(x.shape)}")


def check_shape(name, x, shape, words):
    """Raise unless x has this shape."""
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} must have {words}, {shape}: got {tuple(x.shape)}")


def check_devices(u, **tensors):
    """Raise unless all are where u is."""
    for name, x in tensors.items():
        if x is not None and x.device != u.device:
            raise ValueError(f"{name} must be on u's device {u.device}: got {x.device}")


def check_state(state, shape, words, dtype, device):
    """Raise unless the initial state, where there is one, is whole and in full precision."""
    if state is None:
        return
    if not isinstance(state, torch.Tensor) or state.dtype != dtype:
        got = getattr(state, "dtype", type(state).__name__)
        raise TypeError(f"initial_state must be {dtype}, in which states are added up: got {got}")
    if tuple(state.shape) != shape:
        raise ValueError(f"initial_state must be {words} = {shape}: got {tuple(state.shape)}")
    if state.device != device:
        raise ValueError(f"initial_state must be on u's device {device}: got {state.device}")


def check_starts(starts, u):
    """Raise unless starts is bool (batch, tokens)."""
    if starts is None:
        return
    if not isinstance(starts, torch.Tensor) or starts.dtype != torch.bool:
        got = getattr(starts, "dtype", type(starts).__name__)
        raise TypeError(f"starts must be a bool tensor (batch, tokens): got {got}")
    if starts.shape != u.shape[:2]:
        raise ValueError(
            f"starts must be (batch, tokens) = {tuple(u.shape[:2])}: got {tuple(starts.shape)}"
        )
    if starts.device != u.device:
        raise ValueError(f"starts must be on u's device {u.device}: got {starts.device}")
