"""What the scans ask of their arguments, beyond `llmbook.checks`."""

import torch
import torch.nn.functional as F

from llmbook.checks import on_device, tensor


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


def check_state(state, axes, dtype, whose, device, **sizes):
    """Raise unless the initial state, where there is one, is whole and in full precision."""
    if state is not None:
        tensor("initial_state", state, axes, dtype, **sizes)
        on_device(whose, device, initial_state=state)


def check_starts(starts, whose, u):
    """Raise unless starts, where there are some, is bool (batch, tokens)."""
    if starts is not None:
        batch, tokens = u.shape[:2]
        tensor("starts", starts, "batch tokens", torch.bool, batch=batch, tokens=tokens)
        on_device(whose, u.device, starts=starts)
