"""Multi-head attention: several small attentions side by side.

    MultiHead(X, C) = [head_1 … head_h] W_O,  head_i = attention(X W_Q^i, C W_K^i, C W_V^i)

C is X itself (self-attention) or another sequence (cross-attention). With fewer key/value heads
than query heads, groups of consecutive query heads share them: grouped-query attention, and
multi-query with one.

Shape legend: b batch, t tokens (or keys), h heads (n_heads of queries, n_kv_heads of keys and
values), d head_dim. Outside x is (b, t, d_model), where attention runs (b, h, t, d).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from llmbook.attention import attention, attention_weights
from llmbook.cache import KVCache, computed_dtype
from llmbook.checks import divides, share, tensor, whole, wholes


class MultiHeadAttention(nn.Module):
    """Multi-head attention: self, cross, grouped-query; with an optional key/value cache.

    Parameters are named and shaped as `torch.nn.MultiheadAttention`'s, so that a state_dict moves
    both ways (when n_kv_heads = n_heads): in_proj_weight ((n_heads + 2 n_kv_heads) · head_dim,
    d_model), rows for Q, then K, then V; in_proj_bias; out_proj. Same seed, same initial weights.

    Masks are True = may attend, the opposite of torch's module. rotate: a callable
    `rotate(q, k, positions) → (q, k)`, the place for rotary embeddings: q and k (batch, heads,
    tokens, head_dim), positions int64 (tokens,) or (batch, 1, tokens). Cross-attention does not
    rotate. n_kv_heads: n_heads when None. head_dim: d_model / n_heads when None. scale:
    1/√head_dim when None. dropout: of the weights, while training.

    Source: Vaswani et al. 2017, section 3.2.2; Shazeer 2019; Ainslie et al. 2023.
    """

    def __init__(
        self,
        d_model,
        n_heads,
        *,
        n_kv_heads=None,
        head_dim=None,
        bias=True,
        dropout=0.0,
        scale=None,
        rotate=None,
        backend="auto",
    ):
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        wholes(1, d_model=d_model, n_heads=n_heads, n_kv_heads=n_kv_heads)
        if head_dim is None:
            head_dim = d_model // divides("n_heads", n_heads, "d_model", d_model)
        whole("head_dim", head_dim, least=1)
        divides("n_kv_heads", n_kv_heads, "n_heads", n_heads)
        share("dropout", dropout, one=False)
        self.d_model, self.n_heads, self.n_kv_heads = d_model, n_heads, n_kv_heads
        self.head_dim, self.dropout, self.scale = head_dim, dropout, scale
        self.rotate, self.backend = rotate, backend

        d_packed = sum(self.stored_rows())
        self.in_proj_weight = nn.Parameter(torch.empty(d_packed, d_model))
        if bias:
            self.in_proj_bias = nn.Parameter(torch.empty(d_packed))
        else:
            self.register_parameter("in_proj_bias", None)
        self.out_proj = nn.Linear(n_heads * head_dim, d_model, bias=bias)
        self.reset_parameters()

    def reset_parameters(self):
        """Xavier for the packed Q, K, V; zero biases; `nn.Linear`'s own for the output."""
        nn.init.xavier_uniform_(self.in_proj_weight)
        if self.in_proj_bias is not None:
            nn.init.zeros_(self.in_proj_bias)
            nn.init.zeros_(self.out_proj.bias)

    def init_normal(self, std):
        """The packed Q, K, V normal with standard deviation std, their bias 0."""
        nn.init.normal_(self.in_proj_weight, std=std)
        if self.in_proj_bias is not None:
            nn.init.zeros_(self.in_proj_bias)

    def stored_rows(self):
        """Rows of in_proj that belong to queries, keys and values."""
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        return q, kv, kv

    def forward(
        self,
        x,
        context=None,
        *,
        mask=None,
        bias=None,
        causal=False,
        positions=None,
        cache=None,
        texts=None,
    ):
        """Attend from x to itself, or to context: (batch, tokens, d_model) → the same.

        x (batch, tokens, d_model); context (batch, keys, d_model) makes it cross-attention. mask,
        bias, causal as in `llmbook.attention.attention`, over all keys, the cache's included.
        positions: int64 (tokens,) or (batch, tokens) for `rotate`; those after the cache's when
        None.

        cache (a `KVCache`): in self-attention, x's keys and values are added and all held are
        attended to; in cross-attention the first call fills it with context's and later ones reuse
        those.

        texts: `Texts` whose tokens are x, one row without padding (llmbook/ragged.py): each text
        is attended to alone. mask is then a list, one for each of their groups, or None.
        """
        if texts is not None:
            if not causal or any(x is not None for x in (context, bias, cache)):
                raise ValueError(
                    "texts need causal=True, which hides their padding, and go without context, "
                    "bias and cache"
                )
            self._check(x, None)
            return self.merge(self._apart(x, texts, mask, causal))
        heads = self.heads(
            x, context, mask=mask, bias=bias, causal=causal, positions=positions, cache=cache
        )
        return self.merge(heads)

    def heads(
        self, x, context=None, *, mask=None, bias=None, causal=False, positions=None, cache=None
    ):
        """What each head found, before they are merged: (batch, n_heads, tokens, head_dim)."""
        qkv = self.project(x, context, positions=positions, cache=cache)
        return self._attend(*qkv, mask=mask, bias=bias, causal=causal)

    def _apart(self, x, texts, masks, causal):
        """`heads` of the texts that share the row x, group by group."""
        masks = [None] * len(texts.longest) if masks is None else masks
        packed = rearrange(self.in_proj(x), "b t (h d) -> b h t d", d=self.head_dim)
        found = []
        for part, mask in zip(texts.apart(packed), masks, strict=True):
            q, k, v = part.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=1)
            if self.rotate is not None:
                q, k = self.rotate(q, k, torch.arange(part.shape[2], device=x.device))
            found.append(self._attend(q, k, v, mask=mask, causal=causal))
        return texts.together(found)

    def _attend(self, q, k, v, **masks):
        dropout = self.dropout if self.training else 0.0
        return attention(q, k, v, scale=self.scale, dropout=dropout, backend=self.backend, **masks)

    def weights(self, x, context=None, *, mask=None, bias=None, causal=False, positions=None):
        """The attention weights of every head: (batch, n_heads, tokens, keys)."""
        q, k, _ = self.project(x, context, positions=positions)
        return attention_weights(q, k, mask=mask, bias=bias, causal=causal, scale=self.scale)

    def merge(self, heads):
        """Mix the heads by W_O: (batch, n_heads, tokens, head_dim) → (batch, tokens, d_model)."""
        return self.out_proj(rearrange(heads, "b h t d -> b t (h d)"))

    def project(self, x, context=None, *, positions=None, cache=None):
        """Queries of x and keys, values of context (or x), split into heads and rotated.

        → q (batch, n_heads, tokens, head_dim), k and v (batch, n_kv_heads, keys, head_dim).
        """
        self._check(x, context)
        rows = self.stored_rows()
        d_q = rows[0]
        if context is None:
            q, k, v = self.in_proj(x).split(rows, dim=-1)
        else:
            q = self.in_proj(x, slice(d_q))
        q = rearrange(q, "b t (h d) -> b h t d", h=self.n_heads)
        if context is not None:
            return q, *self._context(context, d_q, cache)

        k = rearrange(k, "b t (h d) -> b h t d", h=self.n_kv_heads)
        v = rearrange(v, "b t (h d) -> b h t d", h=self.n_kv_heads)
        if self.rotate is not None:
            if positions is None:
                start = 0 if cache is None else cache.length
                positions = torch.arange(start, start + x.shape[1], device=x.device)
            elif positions.ndim == 2:
                positions = positions[:, None]  # one row for all heads of a sequence
            q, k = self.rotate(q, k, positions)
        if cache is not None:
            k, v = cache.append(k, v)
        return q, k, v

    def in_proj(self, x, rows=None):
        """x times the packed matrix, or those rows of it: (…, d_model) → (…, rows)."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if rows is None:
            return F.linear(x, weight, bias)
        return F.linear(x, weight[rows], None if bias is None else bias[rows])

    def _context(self, context, d_q, cache):
        """Keys and values of another sequence; no rotation, as its positions are not x's."""
        if cache is not None and cache.length:
            if cache.length != context.shape[1]:
                raise ValueError(
                    "context must be the one that the cache was filled with: got "
                    f"{context.shape[1]} tokens, {cache.length} held"
                )
            return cache.held()
        k, v = self.in_proj(context, slice(d_q, None)).chunk(2, dim=-1)
        k = rearrange(k, "b t (h d) -> b h t d", h=self.n_kv_heads)
        v = rearrange(v, "b t (h d) -> b h t d", h=self.n_kv_heads)
        return (k, v) if cache is None else cache.append(k, v)

    def new_cache(self, batch, max_len, dtype=None):
        """An empty `KVCache` for this layer, on its device; the weights' dtype unless told.

        Under autocast it is autocast's dtype, in which keys and values are then computed.
        """
        weight = self.in_proj_weight
        return KVCache(
            batch,
            self.n_kv_heads,
            max_len,
            self.head_dim,
            device=weight.device,
            dtype=computed_dtype(weight) if dtype is None else dtype,
        )

    def _check(self, x, context):
        tensor("x", x, "batch tokens d_model", d_model=self.d_model)
        if context is None:
            return
        tensor("context", context, "batch keys d_model", d_model=self.d_model)
        if context.shape[0] != x.shape[0]:
            raise ValueError(
                f"context must have x's batch: got {context.shape[0]}, expected {x.shape[0]}"
            )

    def extra_repr(self):
        """Sizes, as `print(module)` shows them."""
        return (
            f"d_model={self.d_model}, n_heads={self.n_heads}, n_kv_heads={self.n_kv_heads}, "
            f"head_dim={self.head_dim}"
        )
