"""Weights in 8 or 4 bits: linear layers that keep whole numbers and scales, nothing else changed.

    w ≈ s · q,  s = max |w| / Q,  q = round(w / s) in −Q … Q,  Q = 127 (8 bits) or 7 (4 bits)

One scale s for each output channel in 8 bits; in 4, two numbers to a byte, one for each `group` of
a channel's inputs. No weight is further than s/2 from its own: |w − s q| ≤ s/2. Only weights are
rounded; activations, norms, biases and embeddings stay. A step of decoding reads every weight
once, so a quarter of the bytes is what may make it faster. Source: Dettmers et al. 2022 on scales
for each channel; Frantar et al. 2023 for groups.

`block_scaled` rounds to the small floating-point numbers that today's chips multiply; `hadamard`
is the rotation that spreads an outlier over its neighbours first.

Shapes: a weight is (out, in); its numbers are cut along `in` into groups, (out, groups, group),
with scales (out, groups); in 8 bits a whole channel is one group.
"""

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.checks import one_of, whole
from llmbook.multihead import MultiHeadAttention

BITS = (8, 4)
WRITTEN_OUT = 4096  # rows of a matrix that are numbers at a time
_LARGEST = {8: 127, 4: 7}


def quantize_weight(weight, bits=8, group=32):
    """q and scales of a weight (out, in): int8 (out, in) and float32 (out, groups).

    groups is 1 in 8 bits. In 4 bits a group is `group` inputs; the last may be shorter. A channel
    or group of zeros has scale 0.
    """
    one_of("bits", bits, BITS)
    whole("group", group, least=1)
    d_out, d_in = weight.shape
    size = d_in if bits == 8 else group
    most = _LARGEST[bits]
    padded = F.pad(weight.float(), (0, -d_in % size)).view(d_out, -1, size)
    scale = padded.abs().amax(-1) / most  # (out, groups)
    q = (padded / scale.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).round()
    q = q.clamp(-most, most).to(torch.int8).view(d_out, -1)[:, :d_in]
    return q.contiguous(), scale


class QuantizedLinear(nn.Module):
    """A linear layer y = x Wᵀ + b whose W is kept in 8 or 4 bits: (…, in) → (…, out).

    Buffers: `weight`, int8 (out, in) or, in 4 bits, uint8 (out, ⌈in/2⌉), even inputs in the low
    half; `scale`, float32 (out, groups); parameter `bias` (out,) or None. It does not train.
    In 8 bits on a CPU, bfloat16 activations are multiplied without W being written out, where in
    divides by 32 and out by 16; otherwise W is written out, in x's dtype, at every call.
    """

    def __init__(self, weight, bias=None, *, bits=8, group=32):
        super().__init__()
        q, scale = quantize_weight(weight.detach(), bits, group)
        self.bits, self.group = bits, group
        self.out_features, self.in_features = q.shape
        self.register_buffer("weight", q if bits == 8 else _packed(q))
        self.register_buffer("scale", scale)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach()))

    def dequantized(self, rows=slice(None)):
        """W, or some of its rows, as numbers: float32 (rows, in)."""
        q = self.weight[rows]
        scale = self.scale[rows]
        if self.bits == 8:
            return q.float() * scale
        q = _unpacked(q, self.in_features).float()
        return q * scale.repeat_interleave(self.group, 1)[:, : self.in_features]

    def forward(self, x, rows=slice(None)):
        """(…, in) → (…, out), or of some of the outputs; the result has x's dtype."""
        bias = None if self.bias is None else self.bias[rows].to(x.dtype)
        if self._fused(x, rows):
            flat = x.reshape(-1, self.in_features)
            scale = self.scale[rows, 0].to(x.dtype)
            y = torch._weight_int8pack_mm(flat, self.weight[rows], scale)
            y = y.view(*x.shape[:-1], -1)
            return y if bias is None else y + bias
        first, last, step = rows.indices(self.out_features)
        if step != 1:
            raise ValueError(f"rows must be a slice without a step: got {rows}")
        cuts = range(first, last, WRITTEN_OUT)  # all of a vocabulary's would be the peak
        parts = [slice(start, min(start + WRITTEN_OUT, last)) for start in cuts]
        y = [F.linear(x, self.dequantized(part).to(x.dtype)) for part in parts]
        y = y[0] if len(y) == 1 else torch.cat(y, -1)
        return y if bias is None else y + bias

    def _fused(self, x, rows):
        """Can PyTorch's kernel take it? It reads past the end of sizes that are no multiples."""
        right = self.bits == 8 and x.dtype == torch.bfloat16 and x.device.type == "cpu"
        d_out = len(range(self.out_features)[rows])
        return right and x.numel() > 0 and self.in_features % 32 == 0 and d_out % 16 == 0

    def _apply(self, fn, recurse=True):
        """Moved with the model, but a change of dtype leaves the scales in float32."""
        super()._apply(fn, recurse)
        self.scale = self.scale.float()
        return self

    def extra_repr(self):
        """Sizes, as `print(module)` shows them."""
        groups = f", group={self.group}" if self.bits == 4 else ""
        return f"{self.in_features}, {self.out_features}, bits={self.bits}{groups}"


class QuantizedAttention(MultiHeadAttention):
    """A `MultiHeadAttention` whose packed Q, K, V matrix is a `QuantizedLinear`."""

    def __init__(self, attention, *, bits=8, group=32):
        nn.Module.__init__(self)
        for name in ("d_model", "n_heads", "n_kv_heads", "head_dim"):
            setattr(self, name, getattr(attention, name))
        for name in ("dropout", "scale", "rotate", "backend"):
            setattr(self, name, getattr(attention, name))
        how = {"bits": bits, "group": group}
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self.packed = QuantizedLinear(weight, bias, **how)
        self.out_proj = QuantizedLinear(attention.out_proj.weight, attention.out_proj.bias, **how)
        self.dtype = weight.dtype

    @property
    def in_proj_weight(self):
        """The packed matrix as numbers, written out."""
        return self.packed.dequantized().to(self.dtype)

    def in_proj(self, x, rows=None):
        """x times the packed matrix, or those rows of it."""
        return self.packed(x, slice(None) if rows is None else rows)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.dtype = fn(torch.zeros((), dtype=self.dtype, device="cpu")).dtype
        return self


def quantize(model, bits=8, *, group=32, skip=()):
    """Put quantised layers in place of a model's linear layers and attentions; returns the model.

    skip: names of modules, as in `named_modules`, left as they are with all that is in them
    ("head"). An output matrix tied to the embedding becomes a quantised copy; the embedding stays.
    Raises ValueError for a name that is not there, and where nothing is left to quantise.
    """
    one_of("bits", bits, BITS)
    whole("group", group, least=1)
    names = {name for name, _ in model.named_modules()}
    for name in skip:
        if name not in names:
            raise ValueError(f"skip must name modules of the model: got {name!r}")
    how, found = {"bits": bits, "group": group}, 0
    for name, module in list(model.named_modules()):
        for part, child in list(module.named_children()):
            path = f"{name}.{part}" if name else part
            if any(path == one or path.startswith(f"{one}.") for one in skip):
                continue
            if type(child) is MultiHeadAttention:
                new = QuantizedAttention(child, **how)
            elif type(child) is nn.Linear and type(module) is not MultiHeadAttention:
                new = QuantizedLinear(child.weight, child.bias, **how)
            else:
                continue
            setattr(module, part, new.train(child.training))
            found += 1
    if not found:
        raise ValueError("model must have linear layers to quantise: got none, or all skipped")
    return model


def save_quantized(model, path, *, skip=()):
    """Write a quantised model's tensors and how they were made into one safetensors file.

    skip: what `quantize` was told. Tensors that two names share are written once.
    """
    from safetensors.torch import save_file

    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    if not layers:
        raise ValueError("model must be quantised: got one without a QuantizedLinear")
    held, seen = {}, set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or not tensor.numel():
            held[name] = tensor.contiguous()
        seen.add(tensor.data_ptr())
    facts = {"bits": str(layers[0].bits), "group": str(layers[0].group), "skip": ",".join(skip)}
    save_file(held, path, metadata={"format": "pt", **facts})


def load_quantized(model, path):
    """Quantise a model of the same shape as the file's and fill it; returns the model.

    Raises ValueError for a file that is not `save_quantized`'s or another model's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            held = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is cut off, damaged or no safetensors file: {error}") from error
    if not {"bits", "group", "skip"} <= set(facts):
        raise ValueError(f"{path} must be written by save_quantized: it doesn't say its bits")
    skip = tuple(name for name in facts["skip"].split(",") if name)
    quantize(model, int(facts["bits"]), group=int(facts["group"]), skip=skip)
    own = model.state_dict()
    first, expected = {}, []
    for name, tensor in own.items():  # of tensors that share memory, the first is in the file
        if first.setdefault(tensor.data_ptr(), name) == name or not tensor.numel():
            expected.append(name)
    odd = sorted(set(expected) ^ set(held))
    wrong = [n for n in expected if n in held and held[n].shape != own[n].shape]
    if odd or wrong:
        raise ValueError(
            f"{path} must be of this model's shape: they differ in {(odd + wrong)[0]}"
        )
    model.load_state_dict(held, strict=False)
    return model


# --- small floating-point numbers, emulated

_FORMATS = {"fp8": (8, 3, 448.0), "fp4": (2, 1, 6.0)}  # largest exponent, bits of fraction, most


def block_scaled(x, form="fp4", block=32):
    """x rounded as the microscaling formats do, in float32: (…, d) → the same.

        x ≈ 2^s · v,  s = ⌊log₂ max |x|⌋ − e,  v in E4M3 ("fp8", e = 8) or E2M1 ("fp4", e = 2)

    One power of two for each `block` of neighbours in the last axis, which may end with a shorter
    one. v is the nearest of its format's numbers, ties to even, and at most its largest: 448 or 6.
    E2M1 has ±{0, 0.5, 1, 1.5, 2, 3, 4, 6}. Costs 8.25 or 4.25 bits a number at 32. Source: Rouhani
    et al. 2023; the Open Compute Project's specification of microscaling formats.
    """
    one_of("form", form, tuple(_FORMATS))
    whole("block", block, least=1)
    top, fraction, most = _FORMATS[form]
    d = x.shape[-1]
    parts = F.pad(x.float(), (0, -d % block)).unflatten(-1, (-1, block))
    scale = _power_below(parts.abs().amax(-1, keepdim=True)) * 2.0**-top
    v = parts / scale
    lowest = 2.0 ** (0 if form == "fp4" else -6)  # below it numbers are evenly spaced
    step = _power_below(v.abs()).clamp(min=lowest) * 2.0**-fraction
    v = ((v / step).round() * step).clamp(-most, most)
    return (v * scale).flatten(-2)[..., :d]


def hadamard(n):
    """The rotation of n = 2^k numbers whose entries are all ±1/√n: float32 (n, n), H Hᵀ = I.

    y = x Wᵀ = (x H)(W H)ᵀ, so both sides may be rounded after the rotation, in which no number is
    much larger than the rest. Raises ValueError unless n is a power of two. Source: Ashkboos et
    al. 2024.
    """
    whole("n", n, least=1)
    if n & (n - 1):
        raise ValueError(f"n must be a power of two: got {n}")
    rows = torch.ones(1, 1)
    while len(rows) < n:
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    return rows / n**0.5


def _power_below(x):
    """The largest power of two that is no larger: 2^⌊log₂ x⌋, and 1 for 0."""
    return torch.where(x > 0, torch.ldexp(torch.ones_like(x), torch.frexp(x).exponent - 1), 1.0)


# --- packing


def _packed(q):
    """int8 (out, in) of −7 … 7 → uint8 (out, ⌈in/2⌉): even inputs in the low four bits."""
    q = F.pad(q, (0, q.shape[1] % 2)) + 8  # 1 … 15
    q = q.to(torch.uint8)
    return q[:, 0::2] | (q[:, 1::2] << 4)


def _unpacked(packed, d_in):
    both = torch.stack([packed & 15, packed >> 4], -1).flatten(1)
    return both[:, :d_in].to(torch.int8) - 8
