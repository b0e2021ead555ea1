"""Solutions of the exercises on multi-head attention, and wrong answers of students."""

import math

from einops import rearrange


def multi_head(x, w_qkv, w_o, n_heads):
    q, k, v = (x @ w_qkv.T).chunk(3, dim=-1)
    q, k, v = (
        rearrange(part, "b t (h d) -> b h t d", h=n_heads)
        for part in (q, k, v)
    )
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    heads = scores.softmax(-1) @ v
    return rearrange(heads, "b h t d -> b t (h d)") @ w_o.T


def pool_heads(weight, n_heads, n_kv_heads):
    groups = rearrange(
        weight, "(g n d) c -> g n d c",
        g=n_kv_heads, n=n_heads // n_kv_heads,
    )
    return rearrange(groups.mean(1), "g d c -> (g d) c")


def absorb(w_q, w_k):
    return w_k.T @ w_q


COPIER = (5, 4)
SINK, LOSSES, WIDER = 0.69, (2.777, 2.089), 0.371  # nats a token
SOLUTIONS = {
    "multi_head": multi_head, "absorb": absorb,
    "pool_heads": pool_heads, "doubled": "one head's term", "copier": COPIER,
    "sink_worth": SINK,
}


def merge(heads):
    return rearrange(heads, "b h t d -> b t (h d)")


def merge_interleaved(heads):
    return rearrange(heads, "b h t d -> b t (d h)")


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


def absorb_transposed(w_q, w_k):
    return w_q.T @ w_k


def absorb_the_other_way_round(w_q, w_k):
    return w_k @ w_q.T


def absorb_without_transposing(w_q, w_k):
    return w_q @ w_k


def absorb_elementwise(w_q, w_k):
    return w_k.T @ w_q[:, :5] * w_q.sum()


def absorb_the_key_matrix_alone(w_q, w_k):
    return w_k.T


def absorb_with_the_scale(w_q, w_k):
    return w_k.T @ w_q / len(w_q) ** 0.5


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
    "absorb": {
        "transposed": absorb_transposed,
        "the other way round": absorb_the_other_way_round,
        "not transposed": absorb_without_transposing,
        "one by one": absorb_elementwise,
        "the keys' matrix alone": absorb_the_key_matrix_alone,
        "with the scale": absorb_with_the_scale,
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
    "doubled": {
        "everything comes from values": "the whole output",
        "weights are what a head is": "one head's weights",
        "the softmax undoes it": "nothing",
        "a head, not its term": "one head",
        "the scores": "one head's scores",
    },
    "copier": {
        "counted from 0": (COPIER[0] - 1, COPIER[1] - 1),
        "head first": COPIER[::-1],
        "the first head there is": (1, 1),
        "the last one": (6, 4),
        "a fifth head": (3, 5),
        "the layer alone": (COPIER[0],),
    },
    "sink_worth": {
        "the wrong sign": -SINK,
        "the loss without it": LOSSES[0],
        "the loss with it": LOSSES[1],
        "a window of 16": WIDER,
        "no difference": 0.0,
        "in bits": SINK / 0.6931,
    },
}
