"""Qwen2 and Qwen3: Llama with biases on queries, keys and values, and with norms in their place.

    Qwen2:  q = W_q x + b_q (k and v alike), no bias behind the heads
    Qwen3:  q = RMSNorm(W_q x), k = RMSNorm(W_k x), each head's alone, before the rotation

A bias or a norm keeps the products of queries and keys in bounds while the model learns. Some
layers, or all, may see a window of the last tokens only. Source: Yang et al. 2024; Yang et al.
2025.
"""

from dataclasses import dataclass, replace

from torch import nn

from llmbook.checks import whole
from llmbook.layers import RMSNorm
from llmbook.models import llama
from llmbook.models.mistral import windowed
from llmbook.models.pretrained import config_json
from llmbook.models.pretrained.layout import Layout

_SHARED = {k: v for k, v in llama.FIELDS.items() if k not in ("attention_bias", "ffn_bias")}
_DEFAULTS = {
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "max_position_embeddings": 32_768,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-6,
}


# --- a window, layer by layer


@dataclass(frozen=True)
class WindowsConfig(llama.LlamaConfig):
    """As `LlamaConfig`. window: how many tokens a token of some layers sees, itself counted.

    window_layers: the numbers of those layers, from 0; all of them when None.
    """

    window: int | None = None
    window_layers: tuple | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.window is not None:
            whole("window", self.window, least=1)
        elif self.window_layers is not None:
            raise ValueError(f"window_layers needs a window: got {self.window_layers}, no window")
        for layer in self.window_layers or ():
            whole("window_layers", layer, least=0, most=self.n_layers - 1)

    def window_of(self, layer):
        """The window of one layer, None where it sees everything."""
        named = self.window_layers is None or layer in self.window_layers
        return self.window if named else None


class WindowedBlock(llama.Block):
    """Llama's block; with `near` its attention is kept to the model's window."""

    near = False

    def forward(self, x, places, cache=None):
        """As Llama's."""
        if self.near:
            places = places._replace(mask=places.near)
        return super().forward(x, places, cache)


# --- Qwen2


class Qwen2Block(WindowedBlock):
    """Llama's block with biases on queries, keys and values."""

    def self_attention(self, config, rotary):
        """The attention of the block."""
        attention = super().self_attention(config, rotary)
        inner = attention.out_proj.in_features
        attention.out_proj = nn.Linear(inner, config.d_model, bias=False)
        return attention


@dataclass(frozen=True)
class Qwen2Config(WindowsConfig):
    """As `WindowsConfig`; attention_bias is that of queries, keys and values."""

    attention_bias: bool = True


class Qwen2(llama.Llama):
    """A decoder-only language model: `model(input_ids) → logits`."""

    architecture = "Qwen2ForCausalLM"
    model_type = "qwen2"
    config_class = Qwen2Config
    block = Qwen2Block
    fields = _SHARED
    defaults = _DEFAULTS

    def __init__(self, config):
        super().__init__(config)
        for layer, block in enumerate(self.blocks):
            block.near = config.window_of(layer) is not None

    def near(self, seen, tokens, total, device):
        """The window of the layers that have one."""
        return windowed(seen, self.config.window, tokens, total, device)

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        config = super().config_from(stored, checkpoint)
        return replace(config, **_windows_from(stored, config.n_layers))

    def config_to(self):
        c = self.config
        kinds = [_FULL if c.window_of(i) is None else _SLIDING for i in range(c.n_layers)]
        return {
            **super().config_to(),
            "use_sliding_window": c.window is not None,
            "sliding_window": c.window,
            "layer_types": kinds,
        }


_FULL, _SLIDING = "full_attention", "sliding_attention"


def _windows_from(stored, n_layers):
    """What config.json says of windows, as fields of `WindowsConfig`."""

    def read(key, default, kind):
        return config_json.value(key, stored.get(key, default), kind)

    window = read("sliding_window", 4096, int | None)
    window = window if read("use_sliding_window", False, bool) else None
    first = read("max_window_layers", 28, int)
    kinds = read("layer_types", None, list | None)
    if kinds is None:
        kinds = [_FULL if i < first or window is None else _SLIDING for i in range(n_layers)]
    if len(kinds) != n_layers or any(kind not in (_FULL, _SLIDING) for kind in kinds):
        raise ValueError(
            f"layer_types must be {_FULL} or {_SLIDING} for each of {n_layers} layers: got {kinds}"
        )
    layers = tuple(i for i, kind in enumerate(kinds) if kind == _SLIDING)
    if layers and window is None:
        raise ValueError(
            f"layer_types has {_SLIDING}, which needs use_sliding_window and sliding_window: got "
            f"use_sliding_window={stored.get('use_sliding_window')!r} and "
            f"sliding_window={stored.get('sliding_window')!r}"
        )
    if window is None or not layers:
        return {}
    return {"window": window, "window_layers": None if len(layers) == n_layers else layers}


# --- Qwen3


class NormedRotary(nn.Module):
    """The rotation of queries and keys, each normalised before: a `rotate` of an attention."""

    def __init__(self, head_dim, eps, rotary):
        super().__init__()
        self.q_norm, self.k_norm = RMSNorm(head_dim, eps), RMSNorm(head_dim, eps)
        self.rotary = rotary

    def forward(self, q, k, positions):
        """q, k (batch, heads, tokens, head_dim), positions (tokens,) or (batch, 1, tokens)."""
        return self.rotary(self.q_norm(q), self.k_norm(k), positions)


class Qwen3Block(WindowedBlock):
    """Llama's block with norms on queries and keys."""

    def self_attention(self, config, rotary):
        """The attention of the block."""
        attention = super().self_attention(config, rotary)
        attention.rotate = NormedRotary(attention.head_dim, config.eps, rotary)
        return attention


class Qwen3(Qwen2):
    """A decoder-only language model: `model(input_ids) → logits`."""

    architecture = "Qwen3ForCausalLM"
    model_type = "qwen3"
    config_class = WindowsConfig
    block = Qwen3Block
    fields = {**_SHARED, "attention_bias": "attention_bias"}
    defaults = {**_DEFAULTS, "head_dim": 128}

    @property
    def layout(self):
        part = "attention.rotate"
        norms = {
            f"blocks.*.{part}.{name}": f"model.layers.*.self_attn.{name}"
            for name in ("q_norm", "k_norm")
        }
        copies = {"lm_head.weight": "tokens.weight"} if self.config.tied else {}
        return Layout({**llama.NAMES, **norms}, prefix="model.", copies=copies)
