"""Where a token stands: sinusoidal, learned and rotary encodings, and relative biases (T5, ALiBi).

Three places to put a position: added to the embedding (`sinusoidal`, `LearnedPositions`), added
to the attention scores (`T5RelativeBias`, `alibi_bias`: pass them as `attention(…, bias=…)`), or
rotated into queries and keys (`Rotary`: pass it as `MultiHeadAttention(…, rotate=…)`).

Shape legend: t tokens, d the dimension (d_model, or head_dim where pairs turn), i one of its d/2
pairs, two the numbers of a pair; h heads, q queries, k keys. Angles are (…, t, i).
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn

from llmbook.checks import listed, number, one_of, positive, whole, wholes

LAYOUTS = ("half", "interleaved", "complex")
SCALINGS = ("linear", "ntk")


# --- added to the embedding


def frequencies(d, base=10_000.0):
    """Angle per position of each pair of dimensions, ω_i = base^(−2i/d): float64 (d/2,).

    Pair i has the wavelength 2π/ω_i positions. Raises ValueError for an odd d or a base that is
    not above 0. Source: Vaswani et al. 2017, section 3.5.
    """
    if d < 2 or d % 2:
        raise ValueError(f"the dimension must be even and above 0, as it comes in pairs: got {d}")
    if not 0 < base < math.inf:
        raise ValueError(f"base must be a number above 0: got {base}")
    return base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)


def sinusoidal(positions, d_model, *, base=10_000.0, dtype=torch.float32):
    """Sinusoidal encoding, PE(t, 2i) = sin(t ω_i), PE(t, 2i+1) = cos(t ω_i), ω_i = base^(−2i/d).

    positions: a number of positions (0 … n − 1), or a tensor of any shape, fractions allowed →
    (…, d_model). Sine and cosine alternate over the dimensions (some code puts all sines first:
    the same numbers in another order). Angles are computed in float64 and the result rounded to
    dtype. Source: Vaswani et al. 2017, section 3.5.
    """
    w = frequencies(d_model, base)
    if not isinstance(positions, torch.Tensor):
        positions = torch.arange(whole("positions", positions, least=0))
    angles = positions.to(torch.float64)[..., None] * w.to(positions.device)
    both = torch.stack([angles.sin(), angles.cos()], dim=-1)
    return rearrange(both, "... i two -> ... (i two)").to(dtype)


def shift_matrix(offset, d_model, *, base=10_000.0):
    """The rotation M with PE(t + offset) = M PE(t) for every t: float64 (d_model, d_model).

    Block-diagonal, one 2 × 2 rotation by the angle offset · ω_i for each pair (sin, cos).
    """
    angle = offset * frequencies(d_model, base)
    cos, sin = angle.cos(), angle.sin()
    blocks = rearrange(torch.stack([cos, sin, -sin, cos]), "(r c) i -> i r c", r=2)
    return torch.block_diag(*blocks)


class LearnedPositions(nn.Embedding):
    """One learned vector for each position 0 … max_len − 1, to be added to the token embeddings.

    `weight` is (max_len, d_model), drawn from a normal distribution with standard deviation 0.02,
    as in BERT and GPT-2. A position past the table raises ValueError: there is nothing to look
    up. Source: Gehring et al. 2017.
    """

    def __init__(self, max_len, d_model):
        wholes(1, max_len=max_len, d_model=d_model)
        super().__init__(max_len, d_model)

    def reset_parameters(self):
        """Normal with standard deviation 0.02."""
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, positions):
        """positions: a number of positions (0 … n − 1), or int64 (…) → (…, d_model).

        A tensor on a GPU is read back to be checked; a number is not.
        """
        if not isinstance(positions, torch.Tensor):
            count = whole("positions", positions, least=0)
            low, high = 0, count - 1
            positions = torch.arange(count, device=self.weight.device)
        elif positions.numel():
            low, high = int(positions.min()), int(positions.max())
        else:
            low, high = 0, -1
        if low < 0 or high >= self.num_embeddings:
            raise ValueError(
                f"positions must be from 0 to {self.num_embeddings - 1}, the size of the table: "
                f"got {low if low < 0 else high}"
            )
        return super().forward(positions)


# --- rotated into queries and keys


def rotary_frequencies(head_dim, base=10_000.0, *, scaling=None, factor=1.0):
    """The frequencies of a rotary encoding, slowed for longer texts: float64 (head_dim/2,).

    scaling None: ω_i = base^(−2i/d). "linear" (position interpolation): ω_i / factor, the same as
    dividing every position by factor. "ntk" (NTK-aware): the base becomes base · factor^(d/(d−2)),
    which leaves the fastest pair alone and divides the slowest by factor. A function of the
    frequencies, such as a `Llama3Scaling`, is another way, with its own factor.
    Source: Su et al. 2021; Chen et al. 2023; bloc97 2023.
    """
    plain = frequencies(head_dim, base)
    if callable(scaling):
        _check_factor(factor, scaling=None)
        return scaling(plain)
    if scaling is not None and scaling not in SCALINGS:
        raise ValueError(
            f"scaling must be None, a function or one of {listed(SCALINGS)}: got {scaling!r}"
        )
    _check_factor(factor, scaling)
    if scaling == "ntk":
        if head_dim < 4:
            raise ValueError(f"scaling='ntk' needs two pairs, head_dim at least 4: got {head_dim}")
        return frequencies(head_dim, base * factor ** (head_dim / (head_dim - 2)))
    return plain / factor


def _check_factor(factor, scaling):
    number("factor", factor, least=1)
    if scaling is None and factor != 1:
        raise ValueError(f"factor={factor} needs a scaling, one of {listed(SCALINGS)}")


@dataclass(frozen=True)
class Llama3Scaling:
    """How Llama 3.1 slows its rotary frequencies for texts longer than it was first trained on.

    With the wavelength λ = 2π/ω and L = original_max_len: ω stays where λ < L / high, becomes
    ω / factor where λ > L / low, and goes from one to the other between, linearly in 1/λ.
    Source: Dubey et al. 2024.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original_max_len: int = 8192

    def __post_init__(self):
        whole("original_max_len", self.original_max_len, least=1)
        for name in ("factor", "low", "high"):
            positive(name, getattr(self, name))
        if self.factor < 1 or self.low >= self.high:
            raise ValueError(
                "scaling needs factor >= 1 and low < high: got "
                f"factor={self.factor}, low={self.low}, high={self.high}"
            )

    def __call__(self, frequencies):
        """The slowed frequencies: float64 (head_dim/2,) → the same shape."""
        turns = self.original_max_len * frequencies / (2 * math.pi)  # in the original length
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


def rotate_interleaved(x, angles):
    """Turn each pair (x_0, x_1), (x_2, x_3), … by its angle: x (…, d), angles (…, d/2) → (…, d).

    Neighbours form a pair, as in the paper and in GPT-J.
    """
    x1, x2 = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    turned = torch.stack([x1 * cos - x2 * sin, x1 * sin + x2 * cos], dim=-1)
    return rearrange(turned, "... i two -> ... (i two)")


def rotate_half(x, angles):
    """Turn each pair (x_i, x_(i + d/2)) by its angle: x (…, d), angles (…, d/2) → (…, d).

    First half and second half form the pairs, as in GPT-NeoX and in transformers' Llama.
    """
    x1, x2 = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos], dim=-1)


def rotate_complex(x, angles):
    """Multiply x_0 + i x_1, x_2 + i x_3, … by e^(i angle): x (…, d), angles (…, d/2) → (…, d).

    The pairs of `rotate_interleaved`, written as complex numbers, as in Meta's Llama code.
    """
    z = torch.view_as_complex(rearrange(x, "... (i two) -> ... i two", two=2).contiguous())
    return rearrange(
        torch.view_as_real(z * torch.polar(torch.ones_like(angles), angles)),
        "... i two -> ... (i two)",
    )


_ROTATE = {"half": rotate_half, "interleaved": rotate_interleaved, "complex": rotate_complex}


def convert_layout(x, source, target, n_heads=1, dim=-1):
    """Reorder the dimensions of each head from one rotary layout to another's.

    x: any tensor whose axis `dim` holds n_heads · head_dim numbers: queries and keys (dim=−1), or
    the rows of the weights that make them (dim=0; both W_Q and W_K, not W_V). Rotating the
    converted x with the target layout gives the converted result; scores q·k are the same to the
    last bit but for the order of summation.
    """
    for name, layout in (("source", source), ("target", target)):
        one_of(name, layout, LAYOUTS)
    size = x.shape[dim]
    if n_heads < 1 or size % (2 * n_heads):
        raise ValueError(
            f"axis {dim} must hold n_heads heads of an even size: got {size} for n_heads={n_heads}"
        )
    order = torch.arange(size, device=x.device)
    if source == "half" and target != "half":
        order = rearrange(order, "(h two i) -> (h i two)", h=n_heads, two=2)
    elif source != "half" and target == "half":
        order = rearrange(order, "(h i two) -> (h two i)", h=n_heads, two=2)
    return x.index_select(dim, order)


class Rotary:
    """Rotary encoding: pair i of queries and keys at position t is turned by the angle t ω_i.

        q_m → R(m) q,  k_n → R(n) k,  so that q_m · k_n depends on positions by m − n alone.

    An instance is the `rotate` of `llmbook.multihead.MultiHeadAttention`. layout: which numbers
    form a pair, "half" (transformers' Llama), "interleaved" (the paper), "complex" (the same
    pairs, computed as complex numbers). scaling, factor: see `rotary_frequencies`.

    Angles are float32 (float64 for float64 inputs) whatever the precision of q and k, and so are
    the products; the result has q's and k's dtype. It is no `nn.Module` on purpose:
    `model.half()` would round the frequencies. Source: Su et al. 2021.
    """

    def __init__(self, head_dim, *, base=10_000.0, layout="half", scaling=None, factor=1.0):
        one_of("layout", layout, LAYOUTS)
        self.frequencies = rotary_frequencies(head_dim, base, scaling=scaling, factor=factor)
        self.head_dim, self.base, self.layout = head_dim, base, layout
        self.scaling, self.factor = scaling, factor

    def __call__(self, q, k, positions):
        """Rotate q and k, (batch, heads, tokens, head_dim), at (tokens,) or (batch, 1, tokens)."""
        return self.rotate(q, positions), self.rotate(k, positions)

    def rotate(self, x, positions):
        """Rotate x (…, tokens, head_dim); positions, whole or not, broadcast to (…, tokens)."""
        if x.shape[-1] != self.head_dim:
            raise ValueError(
                f"x must have head_dim={self.head_dim} as last axis: got {tuple(x.shape)}"
            )
        if positions.shape[-1] not in (1, x.shape[-2]):
            raise ValueError(
                f"positions must have one entry for each of {x.shape[-2]} tokens: got "
                f"{tuple(positions.shape)}"
            )
        high = torch.promote_types(x.dtype, torch.float32)
        angles = self.angles(positions, high)
        return _ROTATE[self.layout](x.to(high), angles).to(x.dtype)

    def angles(self, positions, dtype=torch.float32):
        """t ω_i for positions (…,): (…, head_dim/2)."""
        return positions.to(dtype)[..., None] * self.frequencies.to(positions.device, dtype)

    def __repr__(self):
        scaled = "" if self.scaling is None else f", scaling={self.scaling!r}"
        scaled += f", factor={self.factor:g}" if self.factor != 1 else ""
        return f"Rotary({self.head_dim}, base={self.base:g}, layout={self.layout!r}{scaled})"


# --- added to the scores


def relative_positions(queries, keys, device=None):
    """Key position minus query position: int64 (queries, keys), negative for earlier keys.

    Bottom-right aligned as in `attention`: the last query stands at the last key.
    """
    query = torch.arange(keys - queries, keys, device=device)
    return torch.arange(keys, device=device)[None, :] - query[:, None]


def alibi_slopes(n_heads):
    """ALiBi's slope for each head: float32 (n_heads,), a geometric sequence from 2^(−8/n) to 2^−8.

    For a number that is no power of two: the slopes of the power of two below, then every other
    slope of the power of two above. Source: Press et al. 2022.
    """
    whole("n_heads", n_heads, least=1)
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    slopes += [2 ** (-4 * (h + 1) / power) for h in range(0, 2 * (n_heads - power), 2)]
    return torch.tensor(slopes)


def alibi_bias(n_heads, queries, keys, device=None):
    """ALiBi: −slope · distance, added to the scaled scores: float32 (1, n_heads, queries, keys).

    Nothing is learned. The paper uses it with a causal mask, which this does not include; keys
    after the query are penalised by their distance too.
    """
    distance = relative_positions(queries, keys, device).abs()
    return -alibi_slopes(n_heads).to(device)[None, :, None, None] * distance


def t5_bucket(relative, *, bidirectional=True, n_buckets=32, max_distance=128):
    """The bucket of each relative position, key − query: int64, same shape, in [0, n_buckets).

    Near distances have a bucket each; further ones share buckets that widen logarithmically up to
    max_distance, beyond which all share the last. bidirectional: half of the buckets are for keys
    after the query; otherwise those all fall into bucket 0 (a causal mask hides them).
    Source: Raffel et al. 2020; equal to transformers' in every bucket.
    """
    per_side, exact = exact_buckets(bidirectional, n_buckets, max_distance)
    if bidirectional:
        bucket, distance = (relative > 0).long() * per_side, relative.abs()
    else:
        bucket, distance = torch.zeros_like(relative), (-relative).clamp(min=0)
    share = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (share * (per_side - exact)).long()).clamp(max=per_side - 1)
    return bucket + torch.where(distance < exact, distance, far)


def exact_buckets(bidirectional, n_buckets, max_distance):
    """Buckets for one side, and how many of them are for one distance each."""
    per_side = n_buckets // 2 if bidirectional else n_buckets
    exact = per_side // 2
    if exact < 1 or (bidirectional and n_buckets % 2):
        sides = "even and at least 4 with bidirectional" if bidirectional else "at least 2"
        raise ValueError(f"n_buckets must be {sides}: got {n_buckets}")
    if max_distance <= exact:
        raise ValueError(
            f"max_distance must be above {exact}, the exact buckets: got {max_distance}"
        )
    return per_side, exact


class T5RelativeBias(nn.Module):
    """T5's relative bias: one learned number per head and bucket of distance, added to the scores.

    `relative_attention_bias.weight` is (n_buckets, n_heads), named as in T5's checkpoints. T5 has
    no 1/√d in its scores, and all its layers share the bias of the first. Source: Raffel et al.
    2020.
    """

    def __init__(self, n_heads, *, bidirectional=True, n_buckets=32, max_distance=128):
        super().__init__()
        whole("n_heads", n_heads, least=1)
        exact_buckets(bidirectional, n_buckets, max_distance)
        self.bidirectional = bidirectional
        self.n_buckets, self.max_distance = n_buckets, max_distance
        self.relative_attention_bias = nn.Embedding(n_buckets, n_heads)

    def forward(self, queries, keys):
        """The bias, bottom-right aligned: (1, n_heads, queries, keys)."""
        weight = self.relative_attention_bias.weight
        bucket = t5_bucket(
            relative_positions(queries, keys, weight.device),
            bidirectional=self.bidirectional,
            n_buckets=self.n_buckets,
            max_distance=self.max_distance,
        )
        return rearrange(self.relative_attention_bias(bucket), "q k h -> 1 h q k")
