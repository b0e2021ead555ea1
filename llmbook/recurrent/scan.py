"""A linear recurrence, solved one step at a time or by a parallel scan.

h_t = a_t * h_(t-1) + b_t, elementwise. As a_t and b_t do not depend on h, two steps in a row are
again one such step, and the steps can be joined in pairs, in fours, in eights: about log2(T)
rounds instead of T steps one after the other. A cell whose gates read h_(t-1) has no such form.
One whose gates read x_t alone has (minLSTM, minGRU: Feng et al., 2024): with z_t = s(W_z x_t) and
n_t = W_n x_t, h_t = (1 - z_t) * h_(t-1) + z_t * n_t is `linear_scan(1 - z, z * n)`.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Scan(NamedTuple):
    """What a linear recurrence gave: every state, and how many rounds had to follow each other."""

    states: Tensor
    rounds: int


def linear_scan(a, b, h0=None, *, dim=1):
    """Solve h_t = a_t * h_(t-1) + b_t for all t by Hillis and Steele's scan (1986).

    After the round with offset s, position t holds the joined steps t - 2s + 1 to t:
    (a, b) after (a', b') is h -> a (a' h + b') + b, that is (a a', a b' + b).

    a and b: (batch, steps, features), or any shapes that broadcast to one another, steps along
    `dim` of the broadcast shape (`dim=0` for plain vectors). h0: the state before the first step,
    b's shape without `dim`; zero when None. Half-precision input is scanned in float32.
    Returns Scan(states, rounds): states has b's shape and dtype, rounds = ceil(log2 steps).
    Costs steps * log2(steps) products where the loop has `steps`: more work, less waiting.
    Raises ValueError for shapes that do not fit or no steps at all, TypeError for other dtypes.
    """
    a, b, dtype = _prepared(a, b, h0, dim)
    steps, rounds, offset = len(b), 0, 1
    while offset < steps:
        # Positions below `offset` already reach back to the first step and stay as they are.
        b = torch.cat([b[:offset], a[offset:] * b[:-offset] + b[offset:]])
        a = torch.cat([a[:offset], a[offset:] * a[:-offset]])
        rounds, offset = rounds + 1, 2 * offset
    return Scan(b.movedim(0, dim).to(dtype), rounds)


def linear_loop(a, b, h0=None, *, dim=1):
    """Solve h_t = a_t * h_(t-1) + b_t one step after the other: `linear_scan`'s reference.

    Same arguments, states and errors; rounds = steps.
    """
    a, b, dtype = _prepared(a, b, h0, dim)
    decays, inputs = a.unbind()[1:], b.unbind()  # an index a step would be quadratic backwards
    states = [inputs[0]]  # h0, if any, is already in b[0]
    for decay, new in zip(decays, inputs[1:], strict=True):
        states.append(decay * states[-1] + new)
    return Scan(torch.stack(states).movedim(0, dim).to(dtype), len(states))


def _prepared(a, b, h0, dim):
    """The checked coefficients, steps first, with h0 folded into the first step."""
    given = [("a", a), ("b", b)] + ([] if h0 is None else [("h0", h0)])
    for name, value in given:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value)
            raise TypeError(f"{name} must be a floating point tensor: got {got}")
    try:
        a, b = torch.broadcast_tensors(a, b)
    except RuntimeError as error:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"a and b must broadcast to one shape: got {shapes}") from error
    if not -b.dim() <= dim < b.dim():
        raise ValueError(f"dim must be an axis of shape {tuple(b.shape)}: got dim={dim}")
    if b.shape[dim] == 0:
        raise ValueError(f"there must be at least one step: got shape {tuple(b.shape)}, {dim=}")
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = (x.movedim(dim, 0).to(torch.promote_types(dtype, torch.float32)) for x in (a, b))
    if h0 is None:
        return a, b, dtype
    if h0.shape != b.shape[1:]:
        want, got = tuple(b.shape[1:]), tuple(h0.shape)
        raise ValueError(f"h0 must have b's shape without {dim=}, {want}: got {got}")
    return a, torch.cat([(a[0] * h0 + b[0])[None], b[1:]]), dtype
