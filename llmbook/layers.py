"""The small parts between attentions: norms, feed-forward networks, the residual block.

Each norm has its formula (`backend="reference"`) and PyTorch's fused one ("torch"); "auto" takes
the latter. Statistics are taken in float32 (float64 for float64) whatever the precision of x.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.checks import number, one_of, whole

BACKENDS = ("reference", "torch")
SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


# --- norms


def layer_norm(x, weight=None, bias=None, eps=1e-5, backend="auto"):
    """LayerNorm of the last axis, (x − mean) / √(variance + eps) · weight + bias: (…, d) → (…, d).

    Mean and variance are those of each token alone; the variance divides by d, not d − 1.
    weight, bias: (d,) or None. Source: Ba et al. 2016.
    """
    _check_norm(x, weight, bias, eps, backend)
    if backend != "reference":
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    high = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = high - high.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    out = centred * torch.rsqrt(variance + eps)
    if weight is not None:
        out = out * weight
    if bias is not None:
        out = out + bias
    return out.to(x.dtype)


def rms_norm(x, weight=None, eps=1e-6, backend="auto"):
    """RMSNorm over the last axis, x / √(mean(x²) + eps) · weight: (…, d) → (…, d).

    LayerNorm without the mean and the bias. weight: (d,) or None. Source: Zhang and Sennrich 2019.
    """
    _check_norm(x, weight, None, eps, backend)
    if backend != "reference":
        if weight is not None:  # a half-precision weight of a float32 x is one, for the fused path
            weight = weight.to(torch.promote_types(x.dtype, weight.dtype))
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    high = x.to(torch.promote_types(x.dtype, torch.float32))
    out = high * torch.rsqrt(high.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        out = out * weight
    return out.to(x.dtype)


def _check_norm(x, weight, bias, eps, backend):
    one_of("backend", backend, ("auto", *BACKENDS))
    if not x.is_floating_point() or not x.ndim:
        raise TypeError(f"x must be floating point, (…, d): got {x.dtype} {tuple(x.shape)}")
    for name, given in (("weight", weight), ("bias", bias)):
        if given is not None and given.shape != x.shape[-1:]:
            raise ValueError(
                f"{name} must have the size of x's last axis, ({x.shape[-1]},): "
                f"got {tuple(given.shape)}"
            )
    number("eps", eps, least=0)


class LayerNorm(nn.Module):
    """LayerNorm, parameters as in `torch.nn.LayerNorm`: weight (ones), bias (zeros, or none).

    See `layer_norm`. BERT's checkpoints use eps=1e-12, GPT-2's 1e-5.
    """

    def __init__(self, d_model, eps=1e-5, bias=True, backend="auto"):
        super().__init__()
        self.eps, self.backend = eps, backend
        self.weight = nn.Parameter(torch.ones(whole("d_model", d_model, least=1)))
        self.register_parameter("bias", nn.Parameter(torch.zeros(d_model)) if bias else None)

    def forward(self, x):
        """Normalise each token: (…, d_model) → (…, d_model)."""
        return layer_norm(x, self.weight, self.bias, self.eps, self.backend)


class RMSNorm(nn.Module):
    """RMSNorm with its parameter named as in `torch.nn.RMSNorm`: weight (ones). See `rms_norm`."""

    def __init__(self, d_model, eps=1e-6, backend="auto"):
        super().__init__()
        self.eps, self.backend = eps, backend
        self.weight = nn.Parameter(torch.ones(whole("d_model", d_model, least=1)))

    def forward(self, x):
        """Normalise each token: (…, d_model) → (…, d_model)."""
        return rms_norm(x, self.weight, self.eps, self.backend)


# --- feed-forward networks


def gelu(x):
    """GELU, x Φ(x) with the normal distribution function Φ. Source: Hendrycks and Gimpel 2016."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x):
    """GPT-2's approximate GELU, x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))): up to 5e-4 off."""
    return 0.5 * x * (1 + torch.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x**3)))


def silu(x):
    """SiLU (Swish), x σ(x): the gate of SwiGLU."""
    return x * torch.sigmoid(x)


ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,  # x Φ(x), as in BERT
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),  # as in GPT-2
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """Two linear layers with a bend between: down(φ(up(x))), the same for every token.

    φ: "relu" (the original), "gelu", "gelu_tanh" or "silu". d_ff: 4 · d_model when None.
    up.weight (d_ff, d_model), down.weight (d_model, d_ff). Source: Vaswani et al. 2017, section
    3.3.
    """

    def __init__(self, d_model, d_ff=None, activation="relu", bias=True, dropout=0.0):
        super().__init__()
        whole("d_model", d_model, least=1)
        d_ff = 4 * d_model if d_ff is None else d_ff
        whole("d_ff", d_ff, least=1)
        self.activation = one_of("activation", activation, ACTIVATIONS)
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x):
        """(…, d_model) → (…, d_model); dropout falls on the hidden layer, in training."""
        return self.down(self.dropout(self.hidden(x)))

    def hidden(self, x):
        """φ(up(x)): (…, d_model) → (…, d_ff)."""
        return ACTIVATIONS[self.activation](self.up(x))


class GatedFeedForward(nn.Module):
    """A gated feed-forward net, down(φ(gate(x)) ⊙ up(x)): SwiGLU with "silu", GEGLU with "gelu".

    Three matrices instead of two. d_ff: 8/3 · d_model, rounded up to a multiple of 8, when None,
    which makes it as large as `FeedForward`'s default. No biases, as in Llama. gate.weight and
    up.weight (d_ff, d_model), down.weight (d_model, d_ff). Source: Shazeer 2020.
    """

    def __init__(self, d_model, d_ff=None, activation="silu", bias=False, dropout=0.0):
        super().__init__()
        whole("d_model", d_model, least=1)
        d_ff = 8 * math.ceil(d_model / 3) if d_ff is None else d_ff
        whole("d_ff", d_ff, least=1)
        self.activation = one_of("activation", activation, ACTIVATIONS)
        self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x):
        """(…, d_model) → (…, d_model)."""
        return self.down(self.dropout(self.hidden(x)))

    def hidden(self, x):
        """φ(gate(x)) ⊙ up(x): (…, d_model) → (…, d_ff)."""
        return ACTIVATIONS[self.activation](self.gate(x)) * self.up(x)


# --- the residual block


class Residual(nn.Module):
    """A sub-layer with its residual connection and its norm.

    placement "pre": x + dropout(sublayer(norm(x))), as in GPT-2 and Llama. "post": norm(x +
    dropout(sublayer(x))), as in the original Transformer and BERT. Further arguments of the call
    go to the sub-layer. Source: He et al. 2016; Xiong et al. 2020 on the placement.
    """

    def __init__(self, sublayer, norm, placement="pre", dropout=0.0):
        super().__init__()
        one_of("placement", placement, ("pre", "post"))
        self.sublayer, self.norm, self.placement = sublayer, norm, placement
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, *args, **kwargs):
        """(…, d_model) → (…, d_model)."""
        if self.placement == "pre":
            return x + self.dropout(self.sublayer(self.norm(x), *args, **kwargs))
        return self.norm(x + self.dropout(self.sublayer(x, *args, **kwargs)))
