"""Mamba-2: one decay a head, B and C shared by groups of heads, and all made from the input at
once.

    z, x, B, C, Δ = W_in RMSNorm(s);   x, B, C = silu(conv(x, B, C))
    s = s + W_out GroupNorm(scan(x, Δ, a, B, C) ∘ silu(z))

The norm before the last projection comes after the gate and takes its mean square over each group
of channels alone. The state is n_heads matrices of head_dim × d_state. Source: Dao and Gu 2024.

Shapes in comments: b batch, t tokens, h n_heads, p head_dim, g n_groups, n d_state; width = h · p.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from llmbook.cache import StateCache
from llmbook.checks import divides
from llmbook.layers import ACTIVATIONS, RMSNorm
from llmbook.models.common import check_choices, check_sizes
from llmbook.models.mamba import (
    Mamba,
    check_steps,
    hide_padding,
    in_full,
    init_step_bias,
    new_state,
    short_convolution,
    text_starts,
)
from llmbook.models.pretrained import config_json
from llmbook.ssm import ssd


@dataclass(frozen=True)
class Mamba2Config:
    """Sizes and choices of a `Mamba2`; the defaults are those of the published 130m.

    head_dim must divide expand · d_model, and n_groups the number of heads. dt_low, dt_high: what
    Δ is clamped to, always. dt_min, dt_max: between which it starts. chunk: what config.json
    tells others to compute by; the result does not depend on it, and `ssd` takes its own.
    """

    vocab_size: int = 50288
    d_model: int = 768
    n_layers: int = 24
    d_state: int = 128
    head_dim: int = 64
    n_groups: int = 1
    expand: int = 2
    d_conv: int = 4
    chunk: int = 256
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dt_low: float = 0.0
    dt_high: float = math.inf
    bias: bool = False
    conv_bias: bool = True
    activation: str = "silu"
    eps: float = 1e-5
    tied: bool = True
    bos_id: int | None = None
    eos_id: int | tuple | None = None
    pad_id: int | None = None

    def __post_init__(self):
        check_sizes(self, "vocab_size", "d_model", "n_layers", "d_state", "expand", "d_conv")
        check_sizes(self, "head_dim", "n_groups", "chunk")
        divides("head_dim", self.head_dim, "expand · d_model", self.width)
        divides("n_groups", self.n_groups, "n_heads", self.n_heads)
        check_choices(self)
        check_steps(self)
        if not 0 <= self.dt_low <= self.dt_high:
            raise ValueError(
                f"dt_low must be from 0 to dt_high: got {self.dt_low}, dt_high={self.dt_high}"
            )

    @property
    def width(self):
        """Channels of the scan: expand · d_model."""
        return self.expand * self.d_model

    @property
    def n_heads(self):
        """Heads of the scan."""
        return self.width // self.head_dim

    @property
    def d_mixed(self):
        """Channels of the convolution: x, and B and C of every group."""
        return self.width + 2 * self.n_groups * self.d_state


class Block(nn.Module):
    """Norm, convolution, Mamba-2's scan, gate and grouped norm between two projections."""

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        self.act = ACTIVATIONS[c.activation]
        self.norm = RMSNorm(c.d_model, c.eps)
        self.in_proj = nn.Linear(c.d_model, c.width + c.d_mixed + c.n_heads, bias=c.bias)
        self.conv = nn.Conv1d(c.d_mixed, c.d_mixed, c.d_conv, groups=c.d_mixed, bias=c.conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(c.n_heads))
        self.A_log = nn.Parameter(torch.empty(c.n_heads))
        self.D = nn.Parameter(torch.empty(c.n_heads))
        self.out_norm = GroupedRMSNorm(c.width, c.n_groups, c.eps)
        self.out_proj = nn.Linear(c.width, c.d_model, bias=c.bias)

    @torch.no_grad()
    def init_states(self):
        """Decays spread from 1 to 16, Δ between dt_min and dt_max, D = 1."""
        nn.init.uniform_(self.A_log, 1.0, 16.0).log_()
        self.D.fill_(1.0)
        init_step_bias(self.dt_bias, self.config.dt_min, self.config.dt_max)

    def forward(self, x, places, cache=None):
        """x (batch, tokens, d_model) → the same; see `Decoder` for places and cache."""
        c, kept = self.config, places.kept
        z, inner, delta = self.in_proj(self.norm(x)).split([c.width, c.d_mixed, c.n_heads], -1)
        inner = hide_padding(inner, kept)
        past = None if cache is None else cache["conv"]
        weight, bias, starts = self.conv.weight, self.conv.bias, text_starts(places)
        inner, past = short_convolution(inner, weight, bias, past, starts)
        inner = hide_padding(self.act(inner), kept)
        groups = c.n_groups * c.d_state
        heads, B, C = inner.split([c.width, groups, groups], dim=-1)
        heads = heads.unflatten(-1, (c.n_heads, c.head_dim))  # (b, t, h, p)
        y, state = ssd(
            heads,
            delta,
            -in_full(self.A_log).exp(),
            B.unflatten(-1, (c.n_groups, c.d_state)),  # (b, t, g, n)
            C.unflatten(-1, (c.n_groups, c.d_state)),
            D=self.D,
            delta_bias=self.dt_bias,
            delta_softplus=True,
            delta_limit=(c.dt_low, c.dt_high),
            initial_state=None if cache is None else cache["state"],
            starts=starts,
            return_state=True,
        )
        if cache is not None:
            cache.update(x.shape[1], conv=past, state=state)
        return x + self.out_proj(self.out_norm(y.flatten(2), z))

    def new_cache(self, batch, max_len):
        """Zeros for the convolution's past and the state: one size, whatever max_len is."""
        c, weight = self.config, self.in_proj.weight
        conv = torch.zeros(
            batch, c.d_conv - 1, c.d_mixed, dtype=weight.dtype, device=weight.device
        )
        state = new_state(weight, batch, c.n_heads, c.head_dim, c.d_state)
        return StateCache(conv=conv, state=state)

    @property
    def into_stream(self):
        """The weights of what is added to the residual stream."""
        return [self.out_proj.weight]


class GroupedRMSNorm(nn.Module):
    """RMSNorm of x ∘ silu(z) over each group of channels: (…, width), (…, width) → (…, width)."""

    def __init__(self, width, n_groups, eps):
        super().__init__()
        self.n_groups, self.eps = n_groups, eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x, z):
        high = x.to(torch.promote_types(x.dtype, torch.float32))
        high = high * nn.functional.silu(z.to(high.dtype))
        groups = high.unflatten(-1, (self.n_groups, -1))  # (b, t, g, width / g)
        groups = groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * groups.flatten(-2).to(x.dtype)


class Mamba2(Mamba):
    """As `Mamba`, of Mamba-2's blocks: `model(input_ids) → logits`."""

    architecture = "Mamba2ForCausalLM"
    block = Block

    # --- checkpoints

    @property
    def names(self):
        return _NAMES

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        stored = {**_DEFAULTS, **stored}
        low, high = _limits(stored.get("time_step_limit", (0.0, math.inf)))
        config = config_json.read(Mamba2Config, stored, _FIELDS, dt_low=low, dt_high=high)
        config_json.require(stored, num_heads=config.n_heads)
        return config

    def config_to(self):
        c = self.config
        return {
            **config_json.write(c, _FIELDS),
            "model_type": "mamba2",
            "num_heads": c.n_heads,
            "time_step_limit": [_told(c.dt_low), _told(c.dt_high)],
            "time_step_rank": math.ceil(c.d_model / 16),  # read by none, expected by some
        }


def _limits(given):
    """Two numbers; infinity is stored as a table {"__float__": "Infinity"}, or as a text."""
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise ValueError(f"time_step_limit must be two numbers: got {given!r}")
    found = []
    for one in given:
        one = one.get("__float__") if isinstance(one, dict) else one
        try:
            found.append(float(one))
        except (TypeError, ValueError):
            raise ValueError(f"time_step_limit must be two numbers: got {given!r}") from None
    return found


def _told(number):
    return {"__float__": "Infinity"} if math.isinf(number) else number


_FIELDS = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "d_state": "state_size",
    "head_dim": "head_dim",
    "n_groups": "n_groups",
    "expand": "expand",
    "d_conv": "conv_kernel",
    "chunk": "chunk_size",
    "dt_min": "time_step_min",
    "dt_max": "time_step_max",
    "bias": "use_bias",
    "conv_bias": "use_conv_bias",
    "activation": "hidden_act",
    "eps": "layer_norm_epsilon",
    "tied": "tie_word_embeddings",
    "bos_id": "bos_token_id",
    "eos_id": "eos_token_id",
    "pad_id": "pad_token_id",
}
_DEFAULTS = {  # where config.json has none
    "num_hidden_layers": 64,
    "n_groups": 8,
    "tie_word_embeddings": False,
    "vocab_size": 32768,
    "hidden_size": 4096,
}
_LAYER, _MIXER = "backbone.layers.*", "backbone.layers.*.mixer"
_NAMES = {
    "tokens": "backbone.embeddings",
    "blocks.*.norm": f"{_LAYER}.norm",
    "blocks.*.in_proj": f"{_MIXER}.in_proj",
    "blocks.*.conv": f"{_MIXER}.conv1d",
    "blocks.*.dt_bias": f"{_MIXER}.dt_bias",
    "blocks.*.A_log": f"{_MIXER}.A_log",
    "blocks.*.D": f"{_MIXER}.D",
    "blocks.*.out_norm": f"{_MIXER}.norm",
    "blocks.*.out_proj": f"{_MIXER}.out_proj",
    "norm": "backbone.norm_f",
    "head": "lm_head",
}
