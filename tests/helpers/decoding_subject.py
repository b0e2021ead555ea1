"""Models whose next token is known by heart, batches padded on either side, and the χ² test."""

import torch
from torch import nn


class Fixed(nn.Module):
    """A decoder that says the same at every step: logits (V,)."""

    reads_source = False

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, input_ids, attention_mask=None, *, cache=None):
        return self.logits.expand(*input_ids.shape, -1)

    def new_cache(self, batch, max_len):
        return None  # it keeps nothing


class Table(nn.Module):
    """A decoder whose next token depends on the last one alone: p(next | last) = rows[last]."""

    reads_source = False

    def __init__(self, rows):
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(rows).log())

    def forward(self, input_ids, attention_mask=None, *, cache=None):
        return self.table[input_ids]

    def new_cache(self, batch, max_len):
        return None


def padded(rows, side="left", pad=0):
    """Token ids (rows, longest) and which of them are tokens, 1 or 0."""
    width = max(map(len, rows))
    ids, keep = [], []
    for row in rows:
        fill = width - len(row)
        left = fill if side == "left" else 0
        ids.append([pad] * left + row + [pad] * (fill - left))
        keep.append([0] * left + [1] * len(row) + [0] * (fill - left))
    return torch.tensor(ids), torch.tensor(keep)


def sharpened(model, by=2.5):
    """Weights so large that predictions differ from place to place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(by if parameter.ndim > 1 else 1.0)
    return model.eval()


def chi_squared(counts, p):
    """The probability of counts at least as far from p as these (χ²); 0 where p forbids one."""
    counts, p = torch.as_tensor(counts).double(), torch.as_tensor(p).double()
    if counts[p == 0].any():
        return 0.0
    expected = counts.sum() * p[p > 0]
    off = ((counts[p > 0] - expected) ** 2 / expected).sum()
    degrees = torch.tensor((p > 0).sum().item() - 1.0).double()
    return torch.special.gammaincc(degrees / 2, off / 2).item()
