"""One token through a decoder by the shortest way: the modules' numbers, without the modules.

    x = E[token];  x = x + Attention(norm(x));  x = x + FFN(norm(x));  logits = head(norm(x))

At a million parameters a step's arithmetic takes a third of a millisecond, and the way to it
through modules, checks, reshapings and masks a whole one. Here what doesn't change from token to
token (weights, views of the cache, rotary tables) is looked up once, and a step is the matrix
products themselves. `applies` says no wherever something differs from what is written here:
another kind of block, a hook, a wrapper, autocast; then the model is called as usual.

Shapes: B rows, T tokens that there is room for, d = head_dim, h query heads and g key/value heads.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.cache import Caches, KVCache
from llmbook.decoding import compiled
from llmbook.layers import ACTIVATIONS, FeedForward, GatedFeedForward, LayerNorm, RMSNorm
from llmbook.models import gpt, llama, qwen
from llmbook.models.decoder import Decoder
from llmbook.multihead import MultiHeadAttention
from llmbook.positions import Rotary
from llmbook.quantization import QuantizedAttention

COPIED = 2**26  # bytes of weights that may be copied into another layout
WORTH_COPIES = 32  # tokens to come for which it is done: about ten win the making back
SMALL = 2**16  # numbers of a matrix that is multiplied before another way has begun
_OURS = ("forward", "hidden", "_run", "places")  # what a model must not have changed
_NORMS = (LayerNorm, RMSNorm)
_PARTS = {"norm1", "attention", "norm2", "ffn", "dropout"}
_ATTENTIONS = {MultiHeadAttention: {"out_proj"}, QuantizedAttention: {"packed", "out_proj"}}


def applies(model, cache):
    """Is this a decoder and a cache of which nothing but what is written here is computed?"""
    if not isinstance(model, Decoder) or type(cache) is not Caches:
        return False
    if any(getattr(type(model), name) is not getattr(Decoder, name) for name in _OURS):
        return False
    if type(model).embed not in (Decoder.embed, gpt.GPT.embed):
        return False
    blocks, dtype = list(model.blocks), model.norm.weight.dtype
    if not all(type(kept) is KVCache and kept.keys.dtype == dtype for kept in cache):
        return False
    first = cache[0].keys
    if torch.is_autocast_enabled(first.device.type):
        return False
    if model.mask(None, 1, first.shape[2], first.device) is not None:
        return False  # a window that the text outgrows
    if type(model.norm) not in _NORMS or not all(_known(block, blocks[0]) for block in blocks):
        return False
    return not nn.modules.module._has_any_global_hook() and not any(
        module._forward_hooks or module._forward_pre_hooks for module in model.modules()
    )


def step_for(model, cache, keep=None, backend="step", copies=None):
    """A function `step(token)` for a filled cache: token (B,) int64 → logits (B, V).

    It reads one token a row and adds it to the cache, in inference mode. keep: bool (B, length),
    False at the padding of what the cache holds, or None; the tokens to come are none. The cache
    must not be reordered behind its back, nor cropped into its padding: ask for a new step then.
    For models and caches that `applies` accepts. backend: "step", or "compiled" where its
    `why_not` says nothing. copies: a dictionary that keeps weights in another layout from one step
    to the next that is asked for; None for none.
    """
    held, keys = cache.length, cache[0].keys
    rows, room, device = keys.shape[0], keys.shape[2], keys.device
    places, bias, hidden = torch.arange(room, device=device), None, None
    if keep is not None:
        hidden = (~keep[:, :held]).sum(1)  # (B,): positions count the tokens alone
        bias = keys.new_zeros(rows, 1, 1, room)
        bias[:, 0, 0, :held].masked_fill_(~keep[:, :held], -math.inf)
    vectors, steps = model.tokens.weight, getattr(model, "positions", None)
    turns = _rotary_tables(model.blocks[0].attention.rotate, places, keys.dtype)
    if backend == "compiled":
        return compiled.step_for(model, cache, turns, hidden, bias)
    # One row needs no matrix of rows: products with a vector are a little faster.
    alone = rows == 1 and device.type == "cpu" and keys.dtype.itemsize > 2 and _all_plain(model)
    if copies is not None and not _pays(model, room - held, keys):
        copies = None
    layers = [
        (
            _norm(block.norm1),
            *_attention(block.attention, kept, bias, alone, copies),
            _feed_forward(block, alone, copies),
        )
        for block, kept in zip(model.blocks, cache, strict=True)
    ]
    head, kept_by_layer = _product(model.head, None, alone, copies), list(cache)
    norm = _norm(model.norm)

    @torch.inference_mode()
    def step(token):
        n = kept_by_layer[0].length
        x, turn = torch.embedding(vectors, token), None  # (B, d_model)
        at = places.narrow(0, n, 1) if hidden is None else n - hidden
        if steps is not None:
            x += torch.embedding(steps.weight, at)
        if turns is not None:
            turn = [torch.embedding(table, at)[:, None, None] for table in turns]
        if alone:
            x = x[0]
        for first, project, see, merge, transform in layers:
            x = merge(see(project(first(x)), n, turn)).add_(x)
            x = transform(x)
        for kept in kept_by_layer:
            kept.length = n + 1
        logits = head(norm(x))
        return logits[None] if alone else logits

    return step


# --- the parts of a block


def _attention(layer, kept, bias, alone, copies):
    """Three maps: (B, d_model) → queries, keys, values (B, (h + 2 g) d) → heads (B, h d) → x."""
    h, g, d = layer.n_heads, layer.n_kv_heads, layer.head_dim
    keys, values, rows = kept.keys, kept.values, kept.keys.shape[0]  # (B, g, T, d)
    scale = 1 / math.sqrt(d) if layer.scale is None else layer.scale
    fused, shape = F.scaled_dot_product_attention, (h * d,) if alone else (rows, h * d)
    if keys.device.type == "cpu" and keys.dtype.itemsize > 2 and (rows > 2 or g < h):
        fused = _products_of_heads(keys, values, h // g)
    sizes, grouped = (h, g, g), g < h
    usual = fused is F.scaled_dot_product_attention and bias is None and layer.scale is None
    usual = usual and not grouped  # naming what is None anyway takes its time

    def see(qkv, n, turn):
        qkv = qkv.view(rows, h + 2 * g, 1, d)
        q, k, v = qkv.split(sizes, 1)
        if turn is not None:
            q, k = _turned(qkv.narrow(1, 0, h + g), turn).split(sizes[:2], 1)
        keys.narrow(2, n, 1).copy_(k)
        values.narrow(2, n, 1).copy_(v)
        k, v = keys.narrow(2, 0, n + 1), values.narrow(2, 0, n + 1)
        if usual:
            return fused(q, k, v).view(shape)
        mask = None if bias is None else bias.narrow(3, 0, n + 1)
        return fused(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped).view(shape)

    if isinstance(layer, QuantizedAttention):
        project = layer.packed
    else:
        project = _product(layer.in_proj_weight, layer.in_proj_bias, alone, copies)
    return project, see, _product(layer.out_proj, None, alone, copies)


def _products_of_heads(keys, values, group):
    """Attention of one query by two batched products: on a CPU ahead of the fused kernel's."""
    rows, g, _, d = keys.shape

    def attend(q, k, v, attn_mask, scale, enable_gqa):
        q = (q * scale).view(rows * g, group, d)
        scores = torch.bmm(q, k.flatten(0, 1).mT)  # (B·g, h/g, length)
        if attn_mask is not None:
            scores.view(rows, -1, scores.shape[-1]).add_(attn_mask[:, 0])
        return torch.bmm(torch.softmax(scores, -1), v.flatten(0, 1))

    return attend


def _turned(x, turn):
    """Rotary positions in the half layout: each pair (x_i, x_(i + d/2)) by its angle."""
    cos, sin = turn
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def _rotary_tables(rotate, places, dtype):
    """cos and ± sin of every place, (T, d), so that x cos + roll(x) sin turns the half pairs."""
    if rotate is None:
        return None
    angles = rotate.angles(places, torch.promote_types(dtype, torch.float32))
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def _feed_forward(block, alone, copies):
    """x (B, d_model) → x + FFN(norm(x))."""
    norm, net = _norm(block.norm2), block.ffn
    act, down = ACTIVATIONS[net.activation], _product(net.down, None, alone, copies)
    if type(net) is GatedFeedForward and _as_rows(net.gate, alone, copies):
        pair = (net.gate, net.up)  # one product for the two
        bias = None if net.gate.bias is None else torch.cat([layer.bias for layer in pair])
        both = _weighted_rows(_turned_copy(copies, *(layer.weight for layer in pair)), bias)

        def transform(x):
            gate, up = both(norm(x)).chunk(2)
            return down(act(gate).mul_(up)).add_(x)

        return transform
    up = _product(net.up, None, alone, copies)
    if type(net) is FeedForward:
        return lambda x: down(act(up(norm(x)))).add_(x)
    gate = _product(net.gate, None, alone, copies)

    def transform(x):
        y = norm(x)
        return down(act(gate(y)).mul_(up(y))).add_(x)

    return transform


def _norm(layer):
    weight, size, eps = layer.weight, layer.weight.shape, layer.eps
    if type(layer) is LayerNorm:
        bias = layer.bias
        return lambda x: torch.layer_norm(x, size, weight, bias, eps)
    if weight.dtype.itemsize == 2:
        return lambda x: torch.rms_norm(x, size, weight, eps)
    # √(mean(x²) + ε) = √(|x|² + ε d) / √d: one norm, one hypotenuse
    root, least = weight * math.sqrt(size[0]), weight.new_tensor(math.sqrt(eps * size[0]))
    norm = torch.linalg.vector_norm
    return lambda x: x.div(torch.hypot(norm(x, 2, -1, True), least)).mul_(root)


def _product(layer, bias, alone, copies):
    """x → x Wᵀ + b, of a linear layer or of W and b themselves; alone: x is one vector.

    copies: where the matrix's copy in another layout is kept, or None for the matrix as it is.
    """
    if isinstance(layer, nn.Module):
        if type(layer) is not nn.Linear:
            return layer  # any other that maps (B, d_in) to (B, d_out)
        layer, bias = layer.weight, layer.bias
    if _as_rows(layer, alone, copies):
        return _weighted_rows(_turned_copy(copies, layer), bias)
    if alone:
        if bias is None:
            return lambda x: torch.mv(layer, x)
        return lambda x: torch.addmv(bias, layer, x)
    # Short rows, one behind the other, come from memory at about half the rate of long ones.
    tall = copies is not None and layer.shape[0] > layer.shape[1]
    turned = _turned_copy(copies, layer) if tall else layer.t()
    if bias is None:
        return lambda x: torch.mm(x, turned)
    return lambda x: torch.addmm(bias, x, turned)


def _as_rows(layer, alone, copies):
    """Is a product with this matrix, or linear layer, better taken as a sum of weighted rows?"""
    weight = getattr(layer, "weight", layer)
    large = alone and copies is not None and weight.numel() > SMALL
    return large and weight.dtype == torch.float32


def _weighted_rows(turned, bias):
    """x (in,) → Σ_i x_i · turned[i] + b, turned (in, out).

    That is what an embedding bag with weights computes. It asks memory for the rows to come, which
    a product of a matrix and a vector does not: a Llama of 5 M wrote in 0.6 of the time.
    """
    rows, begin = torch.arange(len(turned)), torch.tensor([0])
    bag = functools.partial(torch.embedding_bag, turned, rows, begin, False, 0, False)
    if bias is None:
        return lambda x: bag(x)[0][0]
    return lambda x: bag(x)[0][0].add_(bias)


def _pays(model, tokens, like):
    """Are copies of the weights in another layout worth their making and their room?"""
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    plain = like.device.type == "cpu" and like.dtype.itemsize > 2
    return plain and held <= COPIED and tokens >= WORTH_COPIES


def _turned_copy(copies, *weights):
    """Matrices (out, in) side by side, (in, all outs): a copy, made once and kept in copies."""
    if weights not in copies:
        copies[weights] = torch.cat(weights).t().contiguous()
    return copies[weights]


# --- where it applies


def _all_plain(model):
    if any(type(block.attention) is not MultiHeadAttention for block in model.blocks):
        return False
    layers = [model.head, *(block.attention.out_proj for block in model.blocks)]
    layers += [m for block in model.blocks for m in block.ffn.children()]
    return all(type(layer) in (nn.Linear, nn.Dropout) for layer in layers)


def _known(block, first):
    attention = getattr(block, "attention", None)
    return (
        (
            type(block).forward in (gpt.Block.forward, llama.Block.forward)
            or (type(block).forward is qwen.WindowedBlock.forward and not block.near)
        )
        and set(block._modules) <= _PARTS
        and _ATTENTIONS.get(type(attention)) == set(attention._modules)
        and attention.rotate is first.attention.rotate
        and (attention.rotate is None or type(attention.rotate) is Rotary)
        and (attention.rotate is None or attention.rotate.layout == "half")
        and type(block.ffn) in (FeedForward, GatedFeedForward)
        and all(type(norm) in _NORMS for norm in (block.norm1, block.norm2))
    )
