"""Attention and multi-head attention for any sizes, masks and layouts of memory."""

import math

import torch
from helpers.properties import LAYOUTS, ODD, laid_out, normal, settings
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from llmbook.attention import attention, attention_weights
from llmbook.cache import KVCache
from llmbook.multihead import MultiHeadAttention

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
MASKS = ("none", "keys", "full", "empty rows")


def mask_of(kind, batch, queries, keys, seed):
    """A mask (True = may attend) of one of the forms that callers use, or None."""
    dice = normal(batch, 1, queries, keys, seed=seed)
    return {
        "none": None,
        "keys": (dice > 0)[:, :, :1],
        "full": dice > 0,
        "empty rows": (dice > 0) & (torch.arange(queries) % 2 == 0)[:, None],
    }[kind]


def by_hand(q, k, v, mask, causal):
    """One query at a time: softmax over the keys that it may see, nothing where there are none."""
    group = q.shape[1] // k.shape[1]
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = torch.ones(k.shape[2], dtype=torch.bool)
                if mask is not None:
                    seen &= mask.expand(q.shape[0], 1, q.shape[2], k.shape[2])[b, 0, i]
                if causal:
                    seen &= torch.arange(k.shape[2]) <= i + k.shape[2] - q.shape[2]
                if seen.any():
                    scores = k[b, h // group, seen] @ q[b, h, i] / math.sqrt(q.shape[-1])
                    out[b, h, i] = scores.softmax(0) @ v[b, h // group, seen]
    return out


@settings(30)
@given(
    st.integers(1, 3),
    st.sampled_from([(1, 1), (2, 1), (2, 2), (6, 3)]),
    ODD,
    ODD,
    st.sampled_from([1, 3, 8]),
    st.sampled_from(MASKS),
    st.booleans(),
    st.sampled_from(LAYOUTS),
    st.sampled_from(["reference", "sdpa", "auto"]),
    st.integers(0, 9),
)
def test_attention_is_a_softmax_over_what_may_be_seen(
    batch, heads, queries, keys, d, masked, causal, layout, backend, seed
):
    q = laid_out(normal(batch, heads[0], queries, d, seed=seed), layout)
    k = laid_out(normal(batch, heads[1], keys, d, seed=seed + 10), layout)
    v = laid_out(normal(batch, heads[1], keys, d + 1, seed=seed + 20), layout)
    mask = mask_of(masked, batch, queries, keys, seed + 30)
    found = attention(q, k, v, mask=mask, causal=causal, backend=backend)
    assert_close(found, by_hand(q, k, v, mask, causal), **CLOSE)
    weights = attention_weights(q, k, mask=mask, causal=causal)
    total = weights.sum(-1)
    assert ((total - 1).abs().lt(1e-9) | total.eq(0)).all() and (weights >= 0).all()


@settings()
@given(ODD, ODD, st.booleans(), st.integers(0, 99))
def test_the_order_of_keys_does_not_matter_and_that_of_queries_moves_along(
    queries, keys, causal, seed
):
    q, k, v = (normal(2, 2, n, 4, seed=seed + i) for i, n in enumerate((queries, keys, keys)))
    order = torch.randperm(keys, generator=torch.Generator().manual_seed(seed))
    found = attention(q, k[:, :, order], v[:, :, order])
    assert_close(found, attention(q, k, v), **CLOSE)
    turned = torch.arange(queries).flip(0)
    assert_close(attention(q[:, :, turned], k, v), attention(q, k, v)[:, :, turned], **CLOSE)
    if causal and keys >= queries:  # what comes later changes nothing earlier
        whole = attention(q, k, v, causal=True)
        last = attention(q[:, :, :1], k[:, :, : keys - queries + 1], v[:, :, : keys - queries + 1])
        assert_close(whole[:, :, :1], last, **CLOSE)


@settings(30)
@given(
    st.sampled_from([(1, 1, 4), (4, 4, 8), (4, 2, 8), (6, 1, 12)]),
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 9),
)
def test_a_text_read_in_any_pieces_is_the_text_read_at_once(sizes, pieces, batch, bias, seed):
    n_heads, n_kv_heads, d_model = sizes
    torch.manual_seed(seed)
    layer = MultiHeadAttention(d_model, n_heads, n_kv_heads=n_kv_heads, bias=bias).double()
    x = normal(batch, sum(pieces), d_model, seed=seed)
    cache = layer.new_cache(batch, sum(pieces))
    with torch.no_grad():
        whole = layer(x, causal=True)
        parts = [layer(part, causal=True, cache=cache) for part in x.split(pieces, 1)]
    assert_close(torch.cat(parts, 1), whole, **CLOSE)
    assert isinstance(cache, KVCache) and cache.length == sum(pieces)
    assert_close(layer.merge(layer.heads(x, causal=True)), whole, **CLOSE)
