"""Qwen2 and Qwen3: Llama with biases on queries, keys and values, and with norms in their place.

    Qwen2:  q = W_q x + b_q (k and v alike), no bias behind the heads
    Qwen3:  q = RMSNorm(W_q x), k = RMSNorm(W_k x), each head's alone, before the rotation

A bias or a norm keeps the products of queries and keys in bounds while the model learns. Source:
Yang et al. 2024; Yang et al. 2025.
"""

from dataclasses import dataclass

from torch import nn

from llmbook.layers import RMSNorm
from llmbook.models import llama
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


# --- Qwen2


class Qwen2Block(llama.Block):
    """Llama's block with biases on queries, keys and values."""

    def self_attention(self, config, rotary):
        """The attention of the block."""
        attention = super().self_attention(config, rotary)
        inner = attention.out_proj.in_features
        attention.out_proj = nn.Linear(inner, config.d_model, bias=False)
        return attention


@dataclass(frozen=True)
class Qwen2Config(llama.LlamaConfig):
    """As `LlamaConfig`; attention_bias is that of queries, keys and values."""

    attention_bias: bool = True


class Qwen2(llama.Llama):
    """A decoder-only language model: `model(input_ids) → logits`."""

    architecture = "Qwen2ForCausalLM"
    model_type = "qwen2"
    config_class = Qwen2Config
    block = Qwen2Block
    fields = _SHARED
    defaults = _DEFAULTS

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        key = "use_sliding_window"
        if config_json.value(key, stored.get(key, False), bool):
            raise ValueError(f"{key} must be False, we have no other: got True")
        kinds = config_json.value("layer_types", stored.get("layer_types"), list | None)
        if kinds is not None and set(kinds) - {"full_attention"}:
            raise ValueError(f"layer_types must all be full_attention: got {kinds}")
        return super().config_from(stored, checkpoint)

    def config_to(self):
        return {**super().config_to(), "use_sliding_window": False}


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


class Qwen3Block(llama.Block):
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
    config_class = llama.LlamaConfig
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
