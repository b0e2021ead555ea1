"""The short step in C: one call a token, built once, where a C compiler is there.

`step.py` says what a step is, and of which models and caches; here the same numbers are made
without PyTorch's calls between the products, and weights in 8 or 4 bits are multiplied as they are
read. float32, in one thread; in several where a batch has many rows, which they share. `why_not`
says what keeps a model from it.
"""

import ctypes
import functools
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

from llmbook import native
from llmbook.layers import LayerNorm
from llmbook.quantization import QuantizedLinear

ROWS = 8  # as many rows are multiplied one by one; of more, SIDE at a time
SIDE = 16
_SOURCE = Path(__file__).with_name("compiled_step.c")
_ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")
_P, _L, _D = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


def _structure(name, **fields):
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


_Linear = _structure("Linear", weight=_P, scale=_P, bias=_P, d_in=_L, d_out=_L, bits=_L, group=_L)
_Norm = _structure("Norm", weight=_P, bias=_P, centred=_L, eps=_D)
_Layer = _structure(
    "Layer",
    norm1=_Norm,
    norm2=_Norm,
    qkv=_Linear,
    project=_Linear,
    gate=_Linear,
    up=_Linear,
    down=_Linear,
    keys=_P,
    values=_P,
    activation=_L,
    scale=_D,
)
_Model = _structure(
    "Model",
    **dict.fromkeys("room width heads groups head_dim inner n_layers".split(), _L),
    **dict.fromkeys("tokens positions cosine sine bias hidden".split(), _P),
    norm=_Norm,
    head=_Linear,
    layers=ctypes.POINTER(_Layer),
)


@functools.cache
def _library():
    """(the function `step`, None), or (None, why there is none). The first call builds."""
    found, why = native.library(_SOURCE.read_text(encoding="utf-8"), "step")
    if found is None:
        return None, why
    found.step.argtypes, found.step.restype = (_P, _P, _L, _L, _L, _L, _P, _P, _P), None
    return found.step, None


def why_not(model, cache):
    """Why a model and a cache that step.py accepts cannot have this step, or None."""
    keys = cache[0].keys
    if keys.device.type != "cpu":
        return f"the compiled step runs on the CPU: got {keys.device}"
    if keys.dtype != torch.float32 or model.tokens.weight.dtype != torch.float32:
        return f"the compiled step computes in float32: got {keys.dtype}"
    sizes = {
        (b.attention.n_heads, b.attention.n_kv_heads, b.attention.head_dim, b.ffn.up.out_features)
        for b in model.blocks
    }
    if len(sizes) > 1:
        return f"the compiled step takes blocks of one size: got {sorted(sizes)}"
    for layer in _linears(model):
        if not isinstance(layer, QuantizedLinear) and type(layer) is not nn.Linear:
            return f"the compiled step knows nn.Linear and QuantizedLinear: got {type(layer)}"
    return _library()[1]


def _linears(model):
    for block in model.blocks:
        yield from (m for m in block.ffn.children() if not isinstance(m, nn.Dropout))
        yield block.attention.out_proj
    yield model.head


class _Filled:
    """The structures of one model and cache, and every tensor that they point into."""

    def __init__(self, model, cache, tables, hidden, bias):
        self.kept = []
        keys, attention, net = cache[0].keys, model.blocks[0].attention, model.blocks[0].ffn
        _, groups, room, d = keys.shape
        width, inner = model.tokens.weight.shape[1], net.up.out_features
        heads = attention.n_heads
        self.a_row = 2 * width + (2 * heads + 2 * groups) * d + 2 * inner  # of working memory
        self.widest = max(width, heads * d, inner)
        layers = [self._layer(*pair) for pair in zip(model.blocks, cache, strict=True)]
        positions = getattr(model, "positions", None)
        cosine, sine = (None, None) if tables is None else tables
        self.layers = (_Layer * len(layers))(*layers)
        self.model = _Model(
            *(room, width, heads, groups, d, inner, len(layers)),
            self._at(model.tokens.weight),
            self._at(None if positions is None else positions.weight),
            *map(self._at, (cosine, sine, bias, hidden)),
            self._norm(model.norm),
            self._linear(model.head),
            self.layers,
        )

    def _at(self, tensor):
        if tensor is None:
            return None
        tensor = tensor.detach().contiguous()
        self.kept.append(tensor)
        return tensor.data_ptr()

    def _linear(self, layer, bias=None):
        if isinstance(layer, QuantizedLinear):
            parts = map(self._at, (layer.weight, layer.scale, layer.bias))
            return _Linear(*parts, layer.in_features, layer.out_features, layer.bits, layer.group)
        weight, bias = (
            (layer.weight, layer.bias) if isinstance(layer, nn.Linear) else (layer, bias)
        )
        return _Linear(self._at(weight), None, self._at(bias), *weight.shape[::-1], 32, 0)

    def _norm(self, layer):
        bias = getattr(layer, "bias", None)
        return _Norm(self._at(layer.weight), self._at(bias), type(layer) is LayerNorm, layer.eps)

    def _layer(self, block, kept):
        attention, net = block.attention, block.ffn
        packed = getattr(attention, "packed", None)
        if packed is None:
            packed = self._linear(attention.in_proj_weight, attention.in_proj_bias)
        else:
            packed = self._linear(packed)
        scale = attention.scale
        return _Layer(
            self._norm(block.norm1),
            self._norm(block.norm2),
            packed,
            self._linear(attention.out_proj),
            self._linear(net.gate) if hasattr(net, "gate") else _Linear(),
            self._linear(net.up),
            self._linear(net.down),
            self._at(kept.keys),
            self._at(kept.values),
            _ACTIVATIONS.index(net.activation),
            1 / math.sqrt(attention.head_dim) if scale is None else scale,
        )


def step_for(model, cache, tables, hidden, bias):
    """`step.step_for`'s function in C, from what that has looked up: see there.

    The function's `several(tokens)` reads up to ROWS tokens (T,) of a single text at once: logits
    (T, V). One pass over the weights serves them all. A row's numbers do not depend on how many
    threads share the batch.
    """
    filled, function = _Filled(model, cache, tables, hidden, bias), _library()[0]
    at, layers = ctypes.byref(filled.model), list(cache)
    rows, _, room, _ = layers[0].keys.shape
    vocab_size, known = model.head.out_features, model.tokens.num_embeddings
    shares = native.shares_of(rows // SIDE) if rows > ROWS else 1
    pool = ThreadPoolExecutor(shares) if shares > 1 else None
    most = max(ROWS, -(-rows // shares))  # rows of a share, or tokens of `several`
    work = torch.empty(shares, most * filled.a_row + room)
    turned = [None] * shares
    if rows > ROWS:
        room_turned = torch.empty(shares, -(-most // SIDE) * SIDE * filled.widest)
        turned = [part.data_ptr() for part in room_turned]

    def run(tokens, new, together):
        n, tokens = layers[0].length, tokens.contiguous()
        if n + new > room:
            raise ValueError(f"the cache is full: max_len={room}, {n} held, {new} to add")
        low, high = tokens.aminmax()
        if low < 0 or high >= known:  # C would read beside the table
            raise IndexError(f"tokens must be ids below {known}: got {tokens.tolist()}")
        logits = torch.empty(len(tokens), vocab_size)

        def part(first, last, share):
            ids, out = tokens[first:last].data_ptr(), logits[first:last].data_ptr()
            memory = work[share].data_ptr(), turned[share]
            function(at, ids, first, last - first, n, together, *memory, out)

        native.in_shares(part, len(tokens), shares, pool)
        for kept in layers:
            kept.length = n + new
        return logits

    @torch.inference_mode()
    def step(token):
        return run(token, 1, 0)

    @torch.inference_mode()
    def several(tokens):
        return run(tokens, len(tokens), 1)

    # What the pointers point into lives on.
    step.several, step.kept = several, (filled, room_turned if rows > ROWS else None)
    return step
