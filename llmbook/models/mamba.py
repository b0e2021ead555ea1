"""Mamba: a language model whose blocks carry a state instead of looking back.

    x, z = W_in RMSNorm(s);   x = silu(conv(x));   Δ, B, C from x
    s = s + W_out (scan(x, Δ, A, B, C) ∘ silu(z))

One block takes the place of attention and feed-forward network both: with expand = 2 its two large
projections hold 6 d_model² weights, half of a Transformer layer's 12. What it keeps of the text is
a state of 2 d_model · d_state numbers and the last d_conv − 1 inputs of the convolution.
Source: Gu and Dao 2023.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.cache import StateCache
from llmbook.checks import number
from llmbook.layers import ACTIVATIONS, RMSNorm
from llmbook.models.common import check_choices, check_sizes
from llmbook.models.decoder import Decoder
from llmbook.models.pretrained import config_json
from llmbook.models.pretrained.layout import Layout
from llmbook.ssm import selective_scan


@dataclass(frozen=True)
class MambaConfig:
    """Sizes and choices of a `Mamba`; the defaults are Mamba-130m's.

    dt_rank: the width that Δ is squeezed through, d_model / 16 when None. dt_min, dt_max: between
    which Δ starts. bias: of the two large projections.
    """

    vocab_size: int = 50280
    d_model: int = 768
    n_layers: int = 24
    d_state: int = 16
    expand: int = 2
    d_conv: int = 4
    dt_rank: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1
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
        if self.dt_rank is not None:
            check_sizes(self, "dt_rank")
        check_choices(self)
        check_steps(self)

    @property
    def width(self):
        """Channels of the scan: expand · d_model."""
        return self.expand * self.d_model

    @property
    def rank(self):
        """dt_rank, filled in."""
        return self.dt_rank or math.ceil(self.d_model / 16)


class Block(nn.Module):
    """Norm, convolution, selective scan and gate between two projections."""

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        self.act = ACTIVATIONS[c.activation]
        self.norm = RMSNorm(c.d_model, c.eps)
        self.in_proj = nn.Linear(c.d_model, 2 * c.width, bias=c.bias)
        self.conv = nn.Conv1d(c.width, c.width, c.d_conv, groups=c.width, bias=c.conv_bias)
        self.x_proj = nn.Linear(c.width, c.rank + 2 * c.d_state, bias=False)
        self.dt_proj = nn.Linear(c.rank, c.width)
        self.A_log = nn.Parameter(torch.empty(c.width, c.d_state))
        self.D = nn.Parameter(torch.empty(c.width))
        self.out_proj = nn.Linear(c.width, c.d_model, bias=c.bias)

    @torch.no_grad()
    def init_states(self):
        """A = −1 … −d_state in every channel, Δ between dt_min and dt_max, D = 1."""
        c = self.config
        rates = torch.arange(1, c.d_state + 1, device=self.A_log.device)
        self.A_log.copy_(rates.float().log().expand_as(self.A_log))
        self.D.fill_(1.0)
        nn.init.uniform_(self.dt_proj.weight, -(c.rank**-0.5), c.rank**-0.5)
        init_step_bias(self.dt_proj.bias, c.dt_min, c.dt_max)

    def forward(self, x, places, cache=None):
        """x (batch, tokens, d_model) → the same; see `Decoder` for places and cache."""
        c, kept = self.config, places.kept
        inner, z = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        inner = hide_padding(inner, kept)  # padding feeds neither the convolution …
        past = None if cache is None else cache["conv"]
        weight, bias, starts = self.conv.weight, self.conv.bias, text_starts(places)
        inner, past = short_convolution(inner, weight, bias, past, starts)
        inner = hide_padding(self.act(inner), kept)  # … nor the state
        delta, B, C = self.x_proj(inner).split([c.rank, c.d_state, c.d_state], dim=-1)
        y, state = selective_scan(
            inner,
            F.linear(delta, self.dt_proj.weight),
            -in_full(self.A_log).exp(),
            B,
            C,
            D=self.D,
            z=z,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            initial_state=None if cache is None else cache["state"],
            starts=starts,
            return_state=True,
        )
        if cache is not None:
            cache.update(x.shape[1], conv=past, state=state)
        return x + self.out_proj(y)

    def new_cache(self, batch, max_len):
        """Zeros for the convolution's past and the state: one size, whatever max_len is."""
        c, weight = self.config, self.in_proj.weight
        conv = torch.zeros(batch, c.d_conv - 1, c.width, dtype=weight.dtype, device=weight.device)
        return StateCache(conv=conv, state=new_state(weight, batch, c.width, c.d_state))

    @property
    def into_stream(self):
        """The weights of what is added to the residual stream."""
        return [self.out_proj.weight]


class Mamba(Decoder):
    """A decoder-only language model without attention: `model(input_ids) → logits`.

    It has no longest text. Padding must stand on the left, before the text, or behind all that
    counts: in between, the convolution would see it. Several tokens at once may follow a cache
    that already holds some.
    """

    architecture = "MambaForCausalLM"
    block = Block

    def __init__(self, config):
        super().__init__(config)
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(self.block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.tokens.weight
        self.reset_parameters()

    def reset_parameters(self):
        """As every decoder's; decays, D and the bias of Δ as the papers have them."""
        super().reset_parameters()
        for block in self.blocks:
            block.init_states()

    # --- checkpoints

    @property
    def names(self):
        """Our modules → the stored ones."""
        return _NAMES

    @property
    def layout(self):
        copies = {"lm_head.weight": "tokens.weight"} if self.config.tied else {}
        return Layout(self.names, prefix="backbone.", spellings=_SPELLINGS, copies=copies)

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        stored = {**_DEFAULTS, **stored}
        if stored.get("time_step_rank") == "auto":
            stored["time_step_rank"] = None
        config = config_json.read(MambaConfig, stored, _FIELDS)
        config_json.require(stored, intermediate_size=config.width)
        return config

    def config_to(self):
        c = self.config
        return {
            **config_json.write(c, _FIELDS),
            "model_type": "mamba",
            "intermediate_size": c.width,
            "time_step_rank": c.rank,
        }


# --- shared with Mamba-2


def check_steps(config):
    """Raise unless 0 < dt_min <= dt_max and eps is positive."""
    number("dt_min", config.dt_min, above=0)
    number("dt_max", config.dt_max, least=config.dt_min)
    number("eps", config.eps, above=0)


def init_step_bias(bias, dt_min, dt_max):
    """Fill a bias so that softplus gives steps spread evenly in log between dt_min and dt_max."""
    low, high = math.log(dt_min), math.log(dt_max)
    step = torch.exp(torch.rand(bias.shape, device=bias.device) * (high - low) + low)
    step = step.clamp(min=1e-4)
    bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus


def hide_padding(x, kept):
    """Zeros at padding: x (batch, tokens, channels), kept bool (batch, tokens) or None."""
    return x if kept is None else x * kept[..., None]


def text_starts(places):
    """Where texts begin that share a row: bool (1, tokens), or None where they share none."""
    return None if places.texts is None else places.positions == 0


def short_convolution(x, weight, bias, past=None, starts=None):
    """Each channel's last few inputs weighed: (batch, tokens, channels) → the same, and the past.

    weight (channels, 1, d_conv), bias (channels,) or None. past: the d_conv − 1 inputs before x
    (batch, d_conv − 1, channels), zeros when None; returned as it is after x. starts: bool (batch,
    tokens), True where a text begins, which then sees nothing of what stands before it.
    """
    before = weight.shape[-1] - 1
    if past is None:
        past = x.new_zeros(x.shape[0], before, x.shape[2])
    x = torch.cat([past.to(x.dtype), x], dim=1)
    if starts is not None:
        text = F.pad(starts.long().cumsum(1), (before, 0))  # 0 before the first token
        same = text.unfold(1, before + 1, 1) == text[:, before:, None]  # (batch, tokens, d_conv)
        windows = x.unfold(1, before + 1, 1)  # (batch, tokens, channels, d_conv)
        out = torch.einsum("btcj,btj,cj->btc", windows, same.to(x.dtype), weight[:, 0])
        return out if bias is None else out + bias, x[:, x.shape[1] - before :]
    out = F.conv1d(x.transpose(1, 2), weight, bias, groups=weight.shape[0]).transpose(1, 2)
    return out, x[:, x.shape[1] - before :]


def in_full(x):
    """x in float32, or float64 where it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def new_state(weight, *shape):
    """A zero state, float32 (float64 for a float64 model), on the weight's device."""
    high = torch.promote_types(weight.dtype, torch.float32)
    return torch.zeros(*shape, dtype=high, device=weight.device)


_FIELDS = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "d_state": "state_size",
    "expand": "expand",
    "d_conv": "conv_kernel",
    "dt_rank": "time_step_rank",
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
_DEFAULTS = {"num_hidden_layers": 32}  # where config.json has none
_SPELLINGS = ((r"^embedding\.", "embeddings."),)  # the authors' own files
_LAYER, _MIXER = "backbone.layers.*", "backbone.layers.*.mixer"
_NAMES = {
    "tokens": "backbone.embeddings",
    "blocks.*.norm": f"{_LAYER}.norm",
    "blocks.*.in_proj": f"{_MIXER}.in_proj",
    "blocks.*.conv": f"{_MIXER}.conv1d",
    "blocks.*.x_proj": f"{_MIXER}.x_proj",
    "blocks.*.dt_proj": f"{_MIXER}.dt_proj",
    "blocks.*.A_log": f"{_MIXER}.A_log",
    "blocks.*.D": f"{_MIXER}.D",
    "blocks.*.out_proj": f"{_MIXER}.out_proj",
    "norm": "backbone.norm_f",
    "head": "lm_head",
}
