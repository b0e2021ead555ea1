"""Multi-head latent attention: a token keeps one short vector, of which every head makes its own.

    c = norm(W_c x)                          rank numbers: what is kept of a token
    k_h = [W_k^h c; R_t W_r x],  v_h = W_v^h c
    o = concat_h attention([q_h; R_t q_h'], k_h, v_h) W_O

The last part of each key carries the position: `turned` numbers, the same for all heads, kept
beside c. Without them nothing would stand between W_q^h and W_k^h, and that is the point:
q · W_k^h c = (W_k^hᵀ q) · c, so that with a cache no key and no value is ever written out. The
heads then read c as one shared key and value, as multi-query attention does.

Shape legend: b batch, t tokens, h heads, d head_dim, r rank. Source: DeepSeek-AI 2024.
"""

import torch
from einops import rearrange
from torch import nn

from llmbook.attention import attention
from llmbook.cache import KVCache, computed_dtype
from llmbook.checks import divides, tensor, whole, wholes
from llmbook.layers import RMSNorm


class LatentAttention(nn.Module):
    """Latent attention, with an optional cache of (rank + turned) numbers a token.

    Weights as in DeepSeek-V2-Lite's checkpoints, without biases: q (rows of each head: head_dim,
    then turned), down (rank, then turned), norm, up (of each head: its key, then its value),
    out_proj. head_dim: d_model / n_heads when None. rotate: `rotate(q, k, positions) → (q, k)` for
    the `turned` last numbers, such as a `Rotary(turned, layout="interleaved")`. Raises ValueError
    for turned without rotate, or the other way round.
    """

    def __init__(self, d_model, n_heads, rank, *, head_dim=None, turned=0, rotate=None):
        super().__init__()
        wholes(1, d_model=d_model, n_heads=n_heads, rank=rank)
        if head_dim is None:
            head_dim = d_model // divides("n_heads", n_heads, "d_model", d_model)
        whole("head_dim", head_dim, least=1)
        if (whole("turned", turned, least=0) == 0) != (rotate is None):
            raise ValueError(
                f"turned and rotate go together: got turned={turned}, rotate={rotate!r}"
            )
        self.d_model, self.n_heads, self.rank = d_model, n_heads, rank
        self.head_dim, self.turned, self.rotate = head_dim, turned, rotate
        self.q = nn.Linear(d_model, n_heads * (head_dim + turned), bias=False)
        self.down = nn.Linear(d_model, rank + turned, bias=False)
        self.norm = RMSNorm(rank)
        self.up = nn.Linear(rank, n_heads * 2 * head_dim, bias=False)
        self.out_proj = nn.Linear(n_heads * head_dim, d_model, bias=False)

    def forward(self, x, *, mask=None, causal=False, positions=None, cache=None):
        """x (b, t, d_model) → the same. mask and causal as in `attention`, over all keys.

        positions: int64 (t,) or (b, t) for `rotate`; those after the cache's when None. cache:
        from `new_cache`; x's latents are added, and all held are attended to, unexpanded.
        """
        tensor("x", x, "batch tokens d_model", d_model=self.d_model)
        if positions is None:
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + x.shape[1], device=x.device)
        elif positions.ndim == 2:
            positions = positions[:, None]
        q = rearrange(self.q(x), "b t (h d) -> b h t d", h=self.n_heads)
        flat, mine = q.split([self.head_dim, self.turned], -1)
        c, turn = self.down(x)[:, None].split([self.rank, self.turned], -1)  # (b, 1, t, ·)
        c = self.norm(c)
        if self.rotate is not None:
            mine, turn = self.rotate(mine, turn, positions)
        attend = self._expanded if cache is None else self._absorbed
        if cache is not None:
            c, turn = cache.append(c, turn)
        heads = attend(flat, mine, c, turn, {"mask": mask, "causal": causal})
        return self.out_proj(rearrange(heads, "b h t d -> b t (h d)"))

    def _expanded(self, flat, mine, c, turn, how):
        """Every head's keys and values, written out: what training does."""
        made = rearrange(self.up(c[:, 0]), "b t (h two d) -> two b h t d", two=2, h=self.n_heads)
        keys = torch.cat([made[0], turn.expand(-1, self.n_heads, -1, -1)], -1)
        return attention(torch.cat([flat, mine], -1), keys, made[1], **how)

    def _absorbed(self, flat, mine, c, turn, how):
        """The keys' matrix moved to the queries, the values' behind the weights."""
        w = rearrange(self.up.weight, "(h two d) r -> two h d r", two=2, h=self.n_heads)
        q, keys = torch.cat([flat @ w[0], mine], -1), torch.cat([c, turn], -1)
        scale = (self.head_dim + self.turned) ** -0.5
        return attention(q, keys, c, scale=scale, **how) @ w[1].mT

    def new_cache(self, batch, max_len, dtype=None):
        """An empty cache: of each token c and its turned numbers, and nothing for each head."""
        weight = self.down.weight
        dtype = computed_dtype(weight) if dtype is None else dtype
        return KVCache(
            batch, 1, max_len, self.rank, value_dim=self.turned, device=weight.device, dtype=dtype
        )
