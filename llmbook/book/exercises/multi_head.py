"""Checks of the exercises on multi-head attention: small odd-sized inputs, soft softmax."""

import math

import torch
from einops import rearrange, repeat

from llmbook.book.check import NotYet, agree, call, exercise


def _random(seed, *shapes):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


@exercise("multi_head/split", title="Cut the width into heads", difficulty=1, minutes=10)
def split(answer):
    for heads, (x,) in ((3, _random(1, (2, 5, 12))), (5, _random(2, (1, 7, 15)))):
        want = rearrange(x, "b t (h d) -> b h t d", h=heads)
        got = call(answer, x, heads)
        if (
            torch.is_tensor(got)
            and got.shape == want.shape
            and torch.equal(got.double(), x.reshape(want.shape))
        ):
            raise NotYet(
                "The shape is right and the numbers are not: a view that makes heads before "
                "tokens gives one head numbers of several tokens. Cut the last axis, then "
                "move it."
            )
        agree(
            got,
            want,
            "Head 0 of token t must be the first numbers of token t, side by side: "
            "compare out[0, 0, 1] with x[0, 1].",
        )
    return "Right. Cut the last axis, then swap two axes."


@exercise("multi_head/merge", title="And back", difficulty=1, minutes=10)
def merge(answer):
    for heads in _random(3, (2, 3, 5, 4), (1, 5, 7, 3)):
        agree(
            call(answer, heads),
            rearrange(heads, "b h t d -> b t (h d)"),
            "Each token gets its heads side by side: head 0 whole, then head 1 whole. "
            "Compare out[0, 1] with heads[0, :, 1].",
        )
    return "Right: the exact inverse of the split."


def _multi_head(x, w_qkv, w_o, n_heads):
    q, k, v = rearrange(x @ w_qkv.T, "b t (three h d) -> three b h t d", three=3, h=n_heads)
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    return rearrange(weights @ v, "b h t d -> b t (h d)") @ w_o.T


@exercise("multi_head/multi_head", title="The whole layer", difficulty=2, minutes=25)
def multi_head(answer):
    x, w_qkv, w_o = _random(4, (2, 5, 12), (36, 12), (12, 12))
    w_qkv, w_o = w_qkv / 3, w_o / 3
    got = call(answer, x, w_qkv, w_o, 3)
    want = _multi_head(x, w_qkv, w_o, 3)
    if torch.is_tensor(got) and got.shape == want.shape:
        d = x.shape[-1]
        wide = _multi_head(x, torch.cat([w_qkv[:d] * math.sqrt(4 / d), w_qkv[d:]]), w_o, 3)
        if torch.allclose(got.double(), wide):
            raise NotYet(
                "Nearly: the scores are divided by √d_model. A head's dot product has "
                "only d_model / n_heads terms."
            )
        if torch.allclose(got.double() @ w_o.T, want):
            raise NotYet(
                "The heads are joined, and not yet mixed: the output projection is missing."
            )
    agree(
        got,
        want,
        "Rows of w_qkv: all queries, then all keys, then all values; within each, head "
        "0 first. Softmax over keys, scale 1/√d_head, merge, then x @ w_o.T.",
    )
    one = call(answer, x, w_qkv, w_o, 1)
    agree(
        one,
        _multi_head(x, w_qkv, w_o, 1),
        "Three heads are right, one head is not: is a number of heads written into the code?",
    )
    return "Right. You have written the layer of every Transformer there is."


@exercise("multi_head/contribution", title="One head's own words", difficulty=2, minutes=15)
def contribution(answer):
    heads, w_o = _random(5, (2, 3, 5, 4), (12, 12))
    for k in (0, 2):
        want = heads[:, k] @ w_o[:, 4 * k : 4 * k + 4].T
        agree(
            call(answer, heads, w_o, k),
            want,
            "After the merge, head k holds entries k·d … (k + 1)·d of the joined vector. Which "
            "columns of w_o do these meet in joined @ w_o.T?",
        )
    return "Right. The outputs of all heads, each through its own columns, add up to the layer's."


@exercise("multi_head/share", title="Hand out the shared keys", difficulty=2, minutes=10)
def share(answer):
    cases = ((6, (2, 3, 5, 4)), (6, (1, 2, 7, 3)), (5, (1, 1, 3, 5)))
    for seed, (n_heads, shape) in enumerate(cases, 6):
        (kv,) = _random(seed, shape)
        group = n_heads // kv.shape[1]
        got = call(answer, kv, n_heads)
        around = kv.repeat(1, group, 1, 1)
        if torch.is_tensor(got) and kv.shape[1] > 1 and torch.equal(got, around):
            raise NotYet(
                "The copies go round and round: 0 1 2 0 1 2. Query heads 0 and 1 share a "
                "key head, so the order is 0 0 1 1 2 2."
            )
        agree(
            got,
            repeat(kv, "b h t d -> b (h g) t d", g=group),
            f"Query head i reads key/value head i // {group}: compare out[:, 1] with kv[:, 0].",
        )
    return "Right. Neighbouring query heads share."


@exercise("multi_head/cache_bytes", title="Will it fit?", difficulty=1, minutes=10)
def cache_bytes(answer):
    for case in ((3, 5, 7, 11, 2), (32, 8, 128, 8192, 2), (2, 1, 64, 77, 4)):
        layers, n_kv_heads, head_dim, tokens, each = case
        agree(
            call(answer, *case),
            2 * layers * n_kv_heads * head_dim * tokens * each,
            "Per layer, per key/value head and per token: how many vectors are stored, and how "
            "long is each?",
            tolerance=1e-9,
        )
    return "Right. Query heads do not appear in it at all."


@exercise("multi_head/pool_heads", title="Retire some key heads", difficulty=3, minutes=25)
def pool_heads(answer):
    cases = ((6, 3, (24, 7)), (6, 2, (18, 5)), (5, 1, (15, 5)))
    for seed, (n_heads, n_kv, shape) in enumerate(cases, 9):
        (w,) = _random(seed, shape)
        want = rearrange(w, "(g n d) c -> g n d c", g=n_kv, n=n_heads // n_kv).mean(1)
        agree(
            call(answer, w, n_heads, n_kv),
            rearrange(want, "g d c -> (g d) c"),
            "Rows of the weight: head 0's head_dim rows, then head 1's. Average whole heads "
            "within a group of neighbours, row by row, and keep the order.",
        )
    return "Right. That, and a little more training, turns a multi-head model into a grouped one."
