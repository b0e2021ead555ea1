"""One token through a decoder by the shortest way: the modules' numbers, without the modules.

    x = E[token];  x = x + Attention(norm(x));  x = x + FFN(norm(x));  logits = head(norm(x))

At a million parameters a step's arithmetic takes a third of a millisecond, and the way to it
through modules, checks, reshapings and masks a whole one. Here what doesn't change from token to
token (weights, views of the cache, rotary tables) is looked up once, and a step is the matrix
products themselves. `applies` says no wherever something differs from what is written here:
another kind of block, a hook, a wrapper, autocast; then the model is called as usual.

Shapes: B rows, T tokens that there is room for, d = head_dim, h query heads and g key/value heads.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.cache import Caches, KVCache
from llmbook.layers import ACTIVATIONS, FeedForward, GatedFeedForward, LayerNorm, RMSNorm
from llmbook.models import gpt, llama
from llmbook.models.decoder import Decoder, Places
from llmbook.multihead import MultiHeadAttention
from llmbook.positions import Rotary

_OURS = ("forward", "hidden", "_run", "places", "mask")  # what a model must not have changed
_NORMS = (LayerNorm, RMSNorm)
_PARTS = {"norm1", "attention", "norm2", "ffn", "dropout"}


def applies(model, cache):
    """Is this a decoder and a cache of which nothing but what is written here is computed?"""
    if not isinstance(model, Decoder) or type(cache) is not Caches:
        return False
    if any(getattr(type(model), name) is not getattr(Decoder, name) for name in _OURS):
        return False
    blocks, dtype = list(model.blocks), model.norm.weight.dtype
    if not all(type(kept) is KVCache and kept.keys.dtype == dtype for kept in cache):
        return False
    if torch.is_autocast_enabled(cache[0].keys.device.type):
        return False
    if type(model.norm) not in _NORMS or not all(_known(block, blocks[0]) for block in blocks):
        return False
    return not nn.modules.module._has_any_global_hook() and not any(
        module._forward_hooks or module._forward_pre_hooks for module in model.modules()
    )


def step_for(model, cache, keep=None):
    """A function `step(ids)` for a filled cache: ids (B, 1) int64 → logits (B, V).

    It reads one token a row and adds it to the cache, in inference mode. keep: bool (B, length),
    False at the padding of what the cache holds, or None; the tokens to come are none. The cache
    must not be reordered or cropped behind its back: ask for a new step then. For models and
    caches that `applies` accepts.
    """
    held = cache.length
    first = cache[0].keys
    rows, room = first.shape[0], first.shape[2]
    bias = hidden = None
    if keep is not None:
        hidden = (~keep[:, :held]).sum(1, keepdim=True)  # (B, 1): positions count tokens alone
        bias = first.new_zeros(rows, 1, 1, room)
        bias[:, 0, 0, :held].masked_fill_(~keep[:, :held], -math.inf)
    places = torch.arange(room, device=first.device)
    tables = _rotary_tables(model.blocks[0].attention.rotate, places, first.dtype)
    layers = [
        (_attention(block, kept, bias), _feed_forward(block))
        for block, kept in zip(model.blocks, cache, strict=True)
    ]
    norm, head = _norm(model.norm), _linear(model.head)

    @torch.inference_mode()
    def step(ids):
        n = cache.length
        at = places[n : n + 1] if hidden is None else n - hidden
        x = model.embed(ids, Places(at, None, None))[:, 0]  # (B, d_model)
        turn = None if tables is None else [table[at.flatten()] for table in tables]
        for attend, transform in layers:
            x = transform(attend(x, n, turn))
        for kept in cache:
            kept.length = n + 1
        return head(norm(x))

    return step


# --- the parts of a block


def _attention(block, kept, bias):
    """x (B, d_model), n tokens held, the rotation's cos and sin → x + Attention(norm(x))."""
    layer, norm = block.attention, _norm(block.norm1)
    project = _product(layer.in_proj_weight, layer.in_proj_bias)
    merge = _linear(layer.out_proj)
    h, g, d = layer.n_heads, layer.n_kv_heads, layer.head_dim
    scale = 1 / math.sqrt(d) if layer.scale is None else layer.scale
    keys, values = kept.keys, kept.values  # (B, g, T, d)
    rows = keys.shape[0]
    if keys.device.type == "cpu" and keys.dtype in (torch.float32, torch.float64):
        see = _products_of_heads(keys, values, bias, h // g, scale)
    else:

        def see(q, length):
            mask = None if bias is None else bias[..., :length]
            k, v = keys[:, :, :length], values[:, :, :length]
            return F.scaled_dot_product_attention(
                q[:, :, None], k, v, attn_mask=mask, scale=scale, enable_gqa=h > g
            )

    def attend(x, n, turn):
        qkv = project(norm(x)).view(rows, h + 2 * g, d)
        if turn is None:
            q, k, v = qkv.split((h, g, g), 1)
        else:
            qk, v = qkv.split((h + g, g), 1)
            turned = torch.addcmul(qk * turn[0], qk.roll(d // 2, -1), turn[1])
            q, k = turned.to(qk.dtype).split((h, g), 1)
        keys.select(2, n).copy_(k)
        values.select(2, n).copy_(v)
        return merge(see(q, n + 1).view(rows, h * d)).add_(x)

    return attend


def _products_of_heads(keys, values, bias, group, scale):
    """Attention of one query on a CPU: two batched products, ahead of the fused kernel there."""
    rows, g, _, d = keys.shape
    flat_keys = keys.view(rows * g, -1, d).transpose(1, 2)  # (B·g, d, T)
    flat_values = values.view(rows * g, -1, d)  # (B·g, T, d)
    if bias is not None:
        bias = bias.expand(rows, g, 1, -1).reshape(rows * g, 1, -1)

    def see(q, length):
        q = (q * scale).view(rows * g, group, d)
        scores = torch.bmm(q, flat_keys.narrow(2, 0, length))
        if bias is not None:
            scores += bias[..., :length]
        return torch.bmm(torch.softmax(scores, -1), flat_values.narrow(1, 0, length))

    return see


def _feed_forward(block):
    """x (B, d_model) → x + FFN(norm(x))."""
    norm, net = _norm(block.norm2), block.ffn
    act, up, down = ACTIVATIONS[net.activation], _linear(net.up), _linear(net.down)
    if type(net) is FeedForward:
        return lambda x: down(act(up(norm(x)))).add_(x)
    gate = _linear(net.gate)

    def transform(x):
        y = norm(x)
        return down(act(gate(y)).mul_(up(y))).add_(x)

    return transform


def _norm(layer):
    weight, size, eps = layer.weight, layer.weight.shape, layer.eps
    if type(layer) is LayerNorm:
        bias = layer.bias
        return lambda x: torch.layer_norm(x, size, weight, bias, eps)
    if weight.dtype not in (torch.float32, torch.float64):
        return lambda x: torch.rms_norm(x, size, weight, eps)
    # √(mean(x²) + ε) = √(|x|² + ε d) / √d: one norm, one hypotenuse
    root, least = weight * math.sqrt(size[0]), weight.new_tensor(math.sqrt(eps * size[0]))
    norm = torch.linalg.vector_norm
    return lambda x: x.div(torch.hypot(norm(x, 2, -1, True), least)).mul_(root)


def _linear(layer):
    if type(layer) is nn.Linear:
        return _product(layer.weight, layer.bias)
    return layer  # any other that maps (B, d_in) to (B, d_out)


def _product(weight, bias):
    turned = weight.t()
    if bias is None:
        return lambda x: torch.mm(x, turned)
    return lambda x: torch.addmm(bias, x, turned)


def _rotary_tables(rotate, places, dtype):
    """cos and ± sin of every place, (T, 1, d), so that x cos + roll(x) sin turns the half pairs."""
    if rotate is None:
        return None
    angles = rotate.angles(places, torch.promote_types(dtype, torch.float32))
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1)[:, None], torch.cat([-sin, sin], -1)[:, None]


# --- where it applies


def _known(block, first):
    attention = getattr(block, "attention", None)
    return (
        type(block) in (gpt.Block, llama.Block)
        and set(block._modules) <= _PARTS
        and type(attention) is MultiHeadAttention
        and set(attention._modules) == {"out_proj"}
        and attention.rotate is first.attention.rotate
        and (attention.rotate is None or type(attention.rotate) is Rotary)
        and (attention.rotate is None or attention.rotate.layout == "half")
        and type(block.ffn) in (FeedForward, GatedFeedForward)
        and all(type(norm) in _NORMS for norm in (block.norm1, block.norm2))
    )
