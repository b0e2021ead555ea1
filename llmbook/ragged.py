"""Texts of unequal lengths without padding: all their tokens in one row, attended to text by text.

What works token by token, a linear layer or a norm, needs no padding and no mask: it gets the T
tokens of all texts in one row. Attention alone asks which text a token is of. `Texts` sorts the
texts into groups of like length; in a group, padded on the right, a causal mask hides the padding,
which stands behind every token. So nothing is computed between two texts.
"""

import torch


class Texts:
    """Where the texts of packed rows stand, a text a run of one number.

    documents: int64 (batch, tokens), numbered from 1, 0 at padding. `kept`: bool (batch, tokens),
    True at the T tokens that there are. `positions`: int64 (T,), each text's from 0. `longest`: of
    each group, the tokens of its longest text.
    """

    def __init__(self, documents):
        self.kept = documents > 0
        if not self.kept.any():
            raise ValueError("documents must number at least one token: got 0 everywhere")
        first = torch.ones_like(self.kept)
        first[:, 1:] = documents[:, 1:] != documents[:, :-1]
        starts = first[self.kept].nonzero()[:, 0]
        T = int(self.kept.sum())
        lengths = starts.diff(append=starts.new_tensor([T]))
        self.positions = torch.arange(T, device=documents.device)
        self.positions -= starts.repeat_interleave(lengths)
        self._group(starts, lengths)

    def _group(self, starts, lengths):
        """Texts of at most 1, 2, 4, 8 … tokens together: at most every second place is padding."""
        doublings = (lengths - 1).float().log2().floor()
        self.longest, places, inside = [], [], []
        for doubling in doublings.unique().tolist():
            chosen = doublings == doubling
            at = torch.arange(int(lengths[chosen].max()), device=starts.device)
            here = at < lengths[chosen][:, None]
            self.longest.append(len(at))
            places.append(torch.where(here, starts[chosen][:, None] + at, 0))
            inside.append(here.flatten())
        self._sizes = [len(part) for part in inside]
        self._spread = torch.cat([part.flatten() for part in places])
        inside = torch.cat(inside)
        self._back = torch.empty_like(self.positions)
        self._back[self._spread[inside]] = inside.nonzero()[:, 0]

    def apart(self, x):
        """(1, heads, T, d) → for each group (texts, heads, longest, d)."""
        rows = _Gather.apply(x[0].transpose(0, 1), self._spread, self._back)
        parts = rows.split(self._sizes)
        return [
            part.unflatten(0, (-1, longest)).transpose(1, 2)
            for part, longest in zip(parts, self.longest, strict=True)
        ]

    def together(self, parts):
        """What `apart` made, or of its shape, → (1, heads, T, d)."""
        rows = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts])
        return _Scatter.apply(rows, self._back).transpose(0, 1)[None]


class _Gather(torch.autograd.Function):
    """rows[spread], where `back` says at which place each row comes to stand, padding apart.

    Its gradient is a gather again; that of indexing would add row by row.
    """

    @staticmethod
    def forward(ctx, rows, spread, back):
        ctx.save_for_backward(back)
        return rows[spread]

    @staticmethod
    def backward(ctx, gradient):
        return gradient[ctx.saved_tensors[0]], None, None


class _Scatter(torch.autograd.Function):
    """rows[back]: padding is dropped, so its gradient is 0."""

    @staticmethod
    def forward(ctx, rows, back):
        ctx.save_for_backward(back)
        ctx.n = len(rows)
        return rows[back]

    @staticmethod
    def backward(ctx, gradient):
        out = gradient.new_zeros(ctx.n, *gradient.shape[1:])
        return out.index_copy(0, ctx.saved_tensors[0], gradient), None
