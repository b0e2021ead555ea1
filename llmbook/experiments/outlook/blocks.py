"""A small pre-norm Transformer block whose mask is an argument."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn


class Attend(nn.Module):
    """Attention of several heads; `keeps` what each query looked at when it is told to."""

    def __init__(self, d_model, heads):
        super().__init__()
        self.heads, self.keep, self.weights = heads, False, None
        self.q, self.kv = nn.Linear(d_model, d_model), nn.Linear(d_model, 2 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x, memory, mask=None):
        """x (batch, queries, d), memory (batch, keys, d), mask bool, True = may attend."""
        q = rearrange(self.q(x), "b t (h d) -> b h t d", h=self.heads)
        k, v = rearrange(self.kv(memory), "b t (n h d) -> n b h t d", n=2, h=self.heads)
        if self.keep:
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf)
            self.weights = scores.softmax(-1)  # (batch, heads, queries, keys)
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(rearrange(o, "b h t d -> b t (h d)"))


class Block(nn.Module):
    """x + attention, then x + feed-forward; with cross=True attention to a memory in between."""

    def __init__(self, d_model, heads=4, cross=False):
        super().__init__()
        self.norm1, self.attend = nn.LayerNorm(d_model), Attend(d_model, heads)
        self.norm_cross = nn.LayerNorm(d_model) if cross else None
        self.cross = Attend(d_model, heads) if cross else None
        self.norm2 = nn.LayerNorm(d_model)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x, mask=None, memory=None):
        n = self.norm1(x)
        x = x + self.attend(n, n, mask)
        if self.cross is not None:
            x = x + self.cross(self.norm_cross(x), memory)
        return x + self.down(F.gelu(self.up(self.norm2(x))))
