"""What chunked forms share: a sequence cut into chunks, and how much is kept between two tokens.

With log a_t ≤ 0 the part that is kept from token j to token i is exp(Σ_(j<s≤i) log a_s). The sums
are taken in float64 and subtracted there: after one large step differences of float32 sums would
have lost what the small steps behind it say. Where a document begins nothing passes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F


class Decays(NamedTuple):
    """What is kept, for chunks of T tokens: all (batch, chunks, …, heads)."""

    between: torch.Tensor  # (b, c, i, j, h): from after token j to token i; 0 for j > i
    from_start: torch.Tensor  # (b, c, i, h): from before the chunk to token i
    to_end: torch.Tensor  # (b, c, j, h): from token j to the end of the chunk
    whole: torch.Tensor  # (b, c, h): from before the chunk to its end


def cut(x, size, value=0.0):
    """(batch, tokens, …) → (batch, chunks, size, …), the last chunk filled with `value`."""
    missing = -x.shape[1] % size
    if missing:
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing), value=value)
    return x.unflatten(1, (-1, size))


def decays(log_kept, starts, size):
    """`Decays` of log_kept (batch, tokens, heads), the logarithm of what each token keeps."""
    dtype = log_kept.dtype
    sums = cut(log_kept.double(), size).cumsum(2)  # (b, c, t, h)
    below = torch.ones(size, size, dtype=torch.bool, device=log_kept.device).tril()[:, :, None]
    end = sums[:, :, -1:]
    if starts is None:
        fresh = none_yet = same_end = None
    else:
        document = cut(starts.long(), size).cumsum(2)[..., None]  # counted within the chunk
        fresh = document[:, :, :, None] == document[:, :, None]
        below = below & fresh
        none_yet, same_end = document == 0, document == document[:, :, -1:]
    between = (sums[:, :, :, None] - sums[:, :, None]).masked_fill(~below, -torch.inf)
    from_start, to_end, whole = sums, end - sums, end.squeeze(2)
    if starts is not None:
        from_start = from_start.masked_fill(~none_yet, -torch.inf)
        to_end = to_end.masked_fill(~same_end, -torch.inf)
        whole = whole.masked_fill(~none_yet[:, :, -1], -torch.inf)
    return Decays(*(x.to(dtype).exp() for x in (between, from_start, to_end, whole)))
