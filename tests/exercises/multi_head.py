"""Solutions of the exercises on multi-head attention, and wrong answers of students."""

import math

import torch
from einops import rearrange, repeat


def split(x, n_heads):
    return rearrange(x, "b t (h d) -> b h t d", h=n_heads)


def merge(heads):
    return rearrange(heads, "b h t d -> b t (h d)")


def multi_head(x, w_qkv, w_o, n_heads):
    q, k, v = (x @ w_qkv.T).chunk(3, dim=-1)
    q, k, v = (
        rearrange(part, "b t (h d) -> b h t d", h=n_heads)
        for part in (q, k, v)
    )
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    heads = scores.softmax(-1) @ v
    return rearrange(heads, "b h t d -> b t (h d)") @ w_o.T


def contribution(heads, w_o, k):
    d = heads.shape[-1]
    return heads[:, k] @ w_o[:, k * d : (k + 1) * d].T


def share(kv, n_heads):
    return kv.repeat_interleave(n_heads // kv.shape[1], dim=1)


def cache_bytes(layers, n_kv_heads, head_dim, tokens, bytes_each):
    numbers = 2 * layers * n_kv_heads * head_dim * tokens
    return numbers * bytes_each


def pool_heads(weight, n_heads, n_kv_heads):
    groups = rearrange(
        weight, "(g n d) c -> g n d c",
        g=n_kv_heads, n=n_heads // n_kv_heads,
    )
    return rearrange(groups.mean(1), "g d c -> (g d) c")


SOLUTIONS = {
    "split": split, "merge": merge, "multi_head": multi_head, "contribution": contribution,
    "share": share, "cache_bytes": cache_bytes, "pool_heads": pool_heads,
}


def split_by_view_alone(x, n_heads):
    b, t, d = x.shape
    return x.reshape(b, n_heads, t, d // n_heads)


def split_heads_interleaved(x, n_heads):
    return rearrange(x, "b t (d h) -> b h t d", h=n_heads)


def split_without_moving_the_axis(x, n_heads):
    return rearrange(x, "b t (h d) -> b t h d", h=n_heads)


def split_head_dim_and_heads_swapped(x, n_heads):
    return rearrange(x, "b t (h d) -> b d t h", h=n_heads)


def split_the_wrong_axis(x, n_heads):
    tall = x.transpose(1, 2)  # (b, d, t): the cut then runs through features and tokens alike
    return tall.reshape(x.shape[0], n_heads, x.shape[1], x.shape[2] // n_heads)


def split_into_n_wide_heads(x, n_heads):
    return torch.stack([x] * n_heads, dim=1)


def merge_by_view_alone(heads):
    b, h, t, d = heads.shape
    return heads.reshape(b, t, h * d)


def merge_interleaved(heads):
    return rearrange(heads, "b h t d -> b t (d h)")


def merge_by_mean(heads):
    return heads.mean(1)


def merge_by_sum(heads):
    return heads.sum(1)


def merge_heads_in_reverse(heads):
    return rearrange(heads.flip(1), "b h t d -> b t (h d)")


def merge_along_tokens(heads):
    return rearrange(heads, "b h t d -> b (h t) d")


def _parts(x, w_qkv, n_heads, how="b t (h d) -> b h t d"):
    return [rearrange(part, how, h=n_heads) for part in (x @ w_qkv.T).chunk(3, dim=-1)]


def _attend(q, k, v, divide):
    return (q @ k.transpose(-2, -1) / divide).softmax(-1) @ v


def scale_by_d_model(x, w_qkv, w_o, n_heads):
    q, k, v = _parts(x, w_qkv, n_heads)
    return merge(_attend(q, k, v, math.sqrt(x.shape[-1]))) @ w_o.T


def no_scale(x, w_qkv, w_o, n_heads):
    q, k, v = _parts(x, w_qkv, n_heads)
    return merge(_attend(q, k, v, 1.0)) @ w_o.T


def divide_by_head_dim(x, w_qkv, w_o, n_heads):
    q, k, v = _parts(x, w_qkv, n_heads)
    return merge(_attend(q, k, v, q.shape[-1])) @ w_o.T


def no_output_projection(x, w_qkv, w_o, n_heads):
    q, k, v = _parts(x, w_qkv, n_heads)
    return merge(_attend(q, k, v, math.sqrt(q.shape[-1])))


def output_projection_not_transposed(x, w_qkv, w_o, n_heads):
    q, k, v = _parts(x, w_qkv, n_heads)
    return merge(_attend(q, k, v, math.sqrt(q.shape[-1]))) @ w_o


def heads_merged_in_the_wrong_order(x, w_qkv, w_o, n_heads):
    q, k, v = _parts(x, w_qkv, n_heads)
    return merge_interleaved(_attend(q, k, v, math.sqrt(q.shape[-1]))) @ w_o.T


def heads_taken_interleaved(x, w_qkv, w_o, n_heads):
    q, k, v = _parts(x, w_qkv, n_heads, "b t (d h) -> b h t d")
    return merge(_attend(q, k, v, math.sqrt(q.shape[-1]))) @ w_o.T


def attention_among_heads_of_one_token(x, w_qkv, w_o, n_heads):
    q, k, v = _parts(x, w_qkv, n_heads, "b t (h d) -> b t h d")
    return _attend(q, k, v, math.sqrt(q.shape[-1])).flatten(2) @ w_o.T


def softmax_over_queries(x, w_qkv, w_o, n_heads):
    q, k, v = _parts(x, w_qkv, n_heads)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return merge(scores.softmax(-2) @ v) @ w_o.T


def keys_and_values_swapped(x, w_qkv, w_o, n_heads):
    q, v, k = _parts(x, w_qkv, n_heads)
    return merge(_attend(q, k, v, math.sqrt(q.shape[-1]))) @ w_o.T


def q_k_v_packed_per_head(x, w_qkv, w_o, n_heads):
    q, k, v = rearrange(x @ w_qkv.T, "b t (h three d) -> three b h t d", three=3, h=n_heads)
    return merge(_attend(q, k, v, math.sqrt(q.shape[-1]))) @ w_o.T


def contribution_rows_instead_of_columns(heads, w_o, k):
    d = heads.shape[-1]
    return heads[:, k] @ w_o[k * d : (k + 1) * d]


def contribution_of_every_nth_column(heads, w_o, k):
    return heads[:, k] @ w_o[:, k :: heads.shape[1]].T


def contribution_of_the_next_head(heads, w_o, k):
    k = (k + 1) % heads.shape[1]
    return contribution(heads, w_o, k)


def contribution_without_projection(heads, w_o, k):
    return heads[:, k]


def contribution_averaged(heads, w_o, k):
    return contribution(heads, w_o, k) / heads.shape[1]


def contribution_of_all_but_k(heads, w_o, k):
    return merge(heads) @ w_o.T - contribution(heads, w_o, k)


def share_round_and_round(kv, n_heads):
    return kv.repeat(1, n_heads // kv.shape[1], 1, 1)


def share_the_first_with_all(kv, n_heads):
    return kv[:, :1].expand(-1, n_heads, -1, -1)


def share_the_mean(kv, n_heads):
    return kv.mean(1, keepdim=True).expand(-1, n_heads, -1, -1)


def share_along_tokens(kv, n_heads):
    return kv.repeat_interleave(n_heads // kv.shape[1], dim=2)


def share_padded_with_zeros(kv, n_heads):
    out = torch.zeros(kv.shape[0], n_heads, *kv.shape[2:], dtype=kv.dtype)
    out[:, :: n_heads // kv.shape[1]] = kv
    return out


def share_by_group_count(kv, n_heads):
    return repeat(kv, "b h t d -> b (h g) t d", g=n_heads)


def cache_without_values(layers, n_kv_heads, head_dim, tokens, bytes_each):
    return layers * n_kv_heads * head_dim * tokens * bytes_each


def cache_of_one_layer(layers, n_kv_heads, head_dim, tokens, bytes_each):
    return 2 * n_kv_heads * head_dim * tokens * bytes_each


def cache_of_the_scores(layers, n_kv_heads, head_dim, tokens, bytes_each):
    return layers * n_kv_heads * tokens**2 * bytes_each


def cache_in_numbers(layers, n_kv_heads, head_dim, tokens, bytes_each):
    return 2 * layers * n_kv_heads * head_dim * tokens


def cache_in_bits(layers, n_kv_heads, head_dim, tokens, bytes_each):
    return 16 * layers * n_kv_heads * head_dim * tokens * bytes_each


def cache_with_queries_too(layers, n_kv_heads, head_dim, tokens, bytes_each):
    return 3 * layers * n_kv_heads * head_dim * tokens * bytes_each


def pool_keeping_the_first(weight, n_heads, n_kv_heads):
    groups = rearrange(weight, "(g n d) c -> g n d c", g=n_kv_heads, n=n_heads // n_kv_heads)
    return rearrange(groups[:, 0], "g d c -> (g d) c")


def pool_by_sum(weight, n_heads, n_kv_heads):
    groups = rearrange(weight, "(g n d) c -> g n d c", g=n_kv_heads, n=n_heads // n_kv_heads)
    return rearrange(groups.sum(1), "g d c -> (g d) c")


def pool_every_nth_head(weight, n_heads, n_kv_heads):
    groups = rearrange(weight, "(n g d) c -> g n d c", g=n_kv_heads, n=n_heads // n_kv_heads)
    return rearrange(groups.mean(1), "g d c -> (g d) c")


def pool_neighbouring_rows(weight, n_heads, n_kv_heads):
    return rearrange(weight, "(r n) c -> r n c", n=n_heads // n_kv_heads).mean(1)


def pool_and_copy_back(weight, n_heads, n_kv_heads):
    groups = rearrange(weight, "(g n d) c -> g n d c", g=n_kv_heads, n=n_heads // n_kv_heads)
    pooled = groups.mean(1, keepdim=True).expand_as(groups)
    return rearrange(pooled, "g n d c -> (g n d) c")


def pool_everything_into_one(weight, n_heads, n_kv_heads):
    one = rearrange(weight, "(h d) c -> h d c", h=n_heads).mean(0)
    return one.repeat(n_kv_heads, 1)


def pool_with_the_root(weight, n_heads, n_kv_heads):
    return pool_by_sum(weight, n_heads, n_kv_heads) / math.sqrt(n_heads // n_kv_heads)


WRONG = {
    "split": {
        "view alone, heads before tokens": split_by_view_alone,
        "heads interleaved": split_heads_interleaved,
        "axis not moved": split_without_moving_the_axis,
        "head_dim and heads swapped": split_head_dim_and_heads_swapped,
        "the wrong axis split": split_the_wrong_axis,
        "every head gets everything": split_into_n_wide_heads,
    },
    "merge": {
        "view without moving the axis back": merge_by_view_alone,
        "heads interleaved": merge_interleaved,
        "mean of the heads": merge_by_mean,
        "sum of the heads": merge_by_sum,
        "heads in reverse": merge_heads_in_reverse,
        "joined along the tokens": merge_along_tokens,
    },
    "multi_head": {
        "scaled by d_model": scale_by_d_model,
        "no scale": no_scale,
        "divided by head_dim without the root": divide_by_head_dim,
        "no output projection": no_output_projection,
        "output projection not transposed": output_projection_not_transposed,
        "heads merged in the wrong order": heads_merged_in_the_wrong_order,
        "heads taken interleaved": heads_taken_interleaved,
        "attention among the heads of a token": attention_among_heads_of_one_token,
        "softmax over queries": softmax_over_queries,
        "keys and values swapped": keys_and_values_swapped,
        "q, k, v packed per head": q_k_v_packed_per_head,
    },
    "contribution": {
        "rows instead of columns": contribution_rows_instead_of_columns,
        "every n-th column": contribution_of_every_nth_column,
        "the next head": contribution_of_the_next_head,
        "no projection": contribution_without_projection,
        "averaged over heads": contribution_averaged,
        "all heads but k": contribution_of_all_but_k,
    },
    "share": {
        "repeated instead of interleaved": share_round_and_round,
        "the first for everybody": share_the_first_with_all,
        "the mean for everybody": share_the_mean,
        "along the tokens": share_along_tokens,
        "zeros in between": share_padded_with_zeros,
        "n_heads copies of each": share_by_group_count,
    },
    "cache_bytes": {
        "values forgotten": cache_without_values,
        "one layer": cache_of_one_layer,
        "the scores instead": cache_of_the_scores,
        "numbers, not bytes": cache_in_numbers,
        "bits": cache_in_bits,
        "queries stored too": cache_with_queries_too,
    },
    "pool_heads": {
        "first of each group": pool_keeping_the_first,
        "sum": pool_by_sum,
        "every n-th head": pool_every_nth_head,
        "neighbouring rows": pool_neighbouring_rows,
        "pooled and copied back": pool_and_copy_back,
        "one head for all": pool_everything_into_one,
        "divided by the root": pool_with_the_root,
    },
}
