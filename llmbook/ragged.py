"""Texts of unequal lengths without padding: all their tokens in one row, attended to text by text.

What works token by token, a linear layer or a norm, needs no padding and no mask: it gets the T
tokens of all texts in one row. Attention alone asks which text a token is of. `Texts` sorts the
texts into groups of like length; in a group, padded on the right, a causal mask hides the padding,
which stands behind every token. So nothing is computed between two texts.

Texts that begin alike, several answers to one prompt, can share those tokens: `Texts.of_answers`
leaves a repeated prompt out of the row, and gives attention its keys and values in every text.

Shape legend: T tokens of all texts, in one row; h heads, d numbers of a head; x (1, h, T, d); of a
group of texts, padded to its longest: (texts, h, longest, d).
"""

import torch


class Texts:
    """Where the texts of packed rows stand, a text a run of one number.

    documents: int64 (batch, tokens), numbered from 1, 0 at padding. `kept`: bool (batch, tokens),
    True at the T tokens that there are. `positions`: int64 (T,), each text's from 0. `longest`: of
    each group, the tokens of its longest text. `shared`: does a token belong to several texts?
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
        self._group(lengths, lambda chosen, at: starts[chosen][:, None] + at)

    @classmethod
    def of_answers(cls, input_ids, attention_mask, prompts):
        """Each row a text, of which a prompt that the row before it has too is read once.

        input_ids (rows, tokens) int64; attention_mask (rows, tokens), True at the row's tokens;
        prompts, bool (rows, tokens), at those that rows side by side may share. `kept` is False at
        padding and at a prompt that is there already.
        """
        texts, kept = cls.__new__(cls), attention_mask.bool()
        if not kept.any():
            raise ValueError("attention_mask must be True at one token at least: got none")
        prompts = prompts & kept
        ids = input_ids.where(prompts, -1)
        again = prompts.any(-1)
        again[0] = False
        again[1:] &= (ids[1:] == ids[:-1]).all(-1)
        rows = torch.arange(len(ids), device=ids.device)
        whose = rows.where(~again, 0).cummax(0).values  # the row whose prompt it is
        texts.kept = kept & ~(prompts & again[:, None])
        places = (texts.kept.flatten().cumsum(0) - 1).view(kept.shape)
        places = places.where(~prompts, places[whose])
        order = (
            (~kept).to(torch.uint8).argsort(dim=-1, stable=True)
        )  # a row's tokens, then its padding
        places, lengths = places.gather(-1, order), kept.sum(-1)
        texts.positions = (kept.cumsum(-1) - 1)[texts.kept]
        places, lengths = places[lengths > 0], lengths[lengths > 0]
        texts._group(lengths, lambda chosen, at: places[chosen][:, : len(at)])
        return texts

    def _group(self, lengths, places_of):
        """Texts of at most 1, 2, 4, 8 … tokens together: at most every second place is padding.

        places_of(chosen, at): where the tokens `at` of the chosen texts stand in the row.
        """
        doublings = (lengths - 1).float().log2().floor()
        self.longest, places, inside = [], [], []
        for doubling in doublings.unique().tolist():
            chosen = doublings == doubling
            at = torch.arange(int(lengths[chosen].max()), device=lengths.device)
            here = at < lengths[chosen][:, None]
            self.longest.append(len(at))
            places.append(torch.where(here, places_of(chosen, at), 0))
            inside.append(here.flatten())
        self._sizes = [len(part) for part in inside]
        self._spread = torch.cat([part.flatten() for part in places])
        inside = torch.cat(inside).nonzero()[:, 0]
        tokens = self._spread[inside]
        self._back = torch.empty_like(self.positions)
        self._back[tokens.flip(0)] = inside.flip(0)
        again = self._back[tokens] != inside  # copies of a token, behind the one that goes back
        self.shared = bool(again.any())
        self._again = (tokens[again], inside[again]) if self.shared else (None, None)

    def apart(self, x):
        """(1, heads, T, d) → for each group (texts, heads, longest, d)."""
        rows = _Gather.apply(x[0].transpose(0, 1), self._spread, self._back, *self._again)
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

    Its gradient is a gather again; that of indexing would add row by row. Rows that come to stand
    at several places are named in `rows_again`, and the further places in `places_again`.
    """

    @staticmethod
    def forward(ctx, rows, spread, back, rows_again, places_again):
        ctx.save_for_backward(back, rows_again, places_again)
        return rows[spread]

    @staticmethod
    def backward(ctx, gradient):
        back, rows_again, places_again = ctx.saved_tensors
        out = gradient[back]
        if rows_again is not None:
            out.index_add_(0, rows_again, gradient[places_again])
        return out, None, None, None, None


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
