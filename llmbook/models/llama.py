"""Llama: the decoder-only Transformer as it is built today.

    x = E[ids];  x = x + Attention(RMSNorm(x));  x = x + SwiGLU(RMSNorm(x)), n_layers times
    logits = RMSNorm(x) W_outᵀ

Against GPT-2: RMSNorm for LayerNorm, rotary positions for learned ones, a gated feed-forward
network, fewer key/value heads than query heads, no biases. Source: Touvron et al. 2023; Dubey et
al. 2024 (Llama 3, and its stretched rotary frequencies).
"""

import re
from dataclasses import dataclass, replace

import torch
from torch import nn

from llmbook.checks import divides
from llmbook.layers import GatedFeedForward, RMSNorm
from llmbook.models.common import check_choices, check_heads, check_sizes
from llmbook.models.decoder import Decoder
from llmbook.models.pretrained import config_json
from llmbook.models.pretrained.layout import Layout
from llmbook.multihead import MultiHeadAttention
from llmbook.positions import Llama3Scaling, Rotary


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes and choices of a `Llama`; the defaults are Llama-2-7B's.

    n_kv_heads: n_heads when None. head_dim: d_model / n_heads when None. rope_base: the base of
    the rotary frequencies. rope_scaling: None, a `Llama3Scaling`, or a number, by which all
    frequencies are divided. eos_id: a token, or several.
    """

    vocab_size: int = 32000
    max_len: int = 4096
    d_model: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int | None = None
    head_dim: int | None = None
    d_ff: int = 11008
    activation: str = "silu"
    eps: float = 1e-5
    rope_base: float = 10_000.0
    rope_scaling: Llama3Scaling | float | None = None
    tied: bool = False
    attention_bias: bool = False
    ffn_bias: bool = False
    attention_dropout: float = 0.0
    bos_id: int | None = None
    eos_id: int | tuple | None = None
    pad_id: int | None = None

    def __post_init__(self):
        check_sizes(self, "vocab_size", "max_len", "d_model", "n_layers", "n_heads", "d_ff")
        if self.head_dim is None:
            check_heads(self.d_model, self.n_heads)
        else:
            check_sizes(self, "head_dim")
        head_dim = self.head_dim or self.d_model // self.n_heads
        if head_dim % 2:
            raise ValueError(f"head_dim must be even, as rotary turns pairs: got {head_dim}")
        if self.n_kv_heads is not None:
            check_sizes(self, "n_kv_heads")
            divides("n_kv_heads", self.n_kv_heads, "n_heads", self.n_heads)
        check_choices(self, "attention_dropout")
        self.rotary()  # raises where base, scaling and head_dim make no sense

    def rotary(self):
        """The rotary encoding of queries and keys."""
        head_dim = self.head_dim or self.d_model // self.n_heads
        scaling, factor = self.rope_scaling, 1.0
        if scaling is not None and not callable(scaling):
            scaling, factor = "linear", self.rope_scaling
        with torch.device("cpu"):  # not the meta device: the frequencies are no parameters
            return Rotary(head_dim, base=self.rope_base, scaling=scaling, factor=factor)


# --- its names in checkpoints

FIELDS = {
    "vocab_size": "vocab_size",
    "max_len": "max_position_embeddings",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "activation": "hidden_act",
    "eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
    "attention_bias": "attention_bias",
    "ffn_bias": "mlp_bias",
    "attention_dropout": "attention_dropout",
    "bos_id": "bos_token_id",
    "eos_id": "eos_token_id",
    "pad_id": "pad_token_id",
}
_DEFAULTS = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048}  # where config.json has none
NAMES = {
    "tokens": "model.embed_tokens",
    "blocks.*.norm1": "model.layers.*.input_layernorm",
    "blocks.*.attention.in_proj": tuple(f"model.layers.*.self_attn.{n}_proj" for n in "qkv"),
    "blocks.*.attention.out_proj": "model.layers.*.self_attn.o_proj",
    "blocks.*.norm2": "model.layers.*.post_attention_layernorm",
    "blocks.*.ffn.gate": "model.layers.*.mlp.gate_proj",
    "blocks.*.ffn.up": "model.layers.*.mlp.up_proj",
    "blocks.*.ffn.down": "model.layers.*.mlp.down_proj",
    "norm": "model.norm",
    "head": "lm_head",
}
_BUFFERS = (r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)


# --- the model


class Block(nn.Module):
    """Attention, then the gated feed-forward network, each on its normalised input."""

    def __init__(self, config, rotary):
        super().__init__()
        d = config.d_model
        self.norm1 = RMSNorm(d, config.eps)
        self.attention = self.self_attention(config, rotary)
        self.norm2 = RMSNorm(d, config.eps)
        self.ffn = self.feed_forward(config)

    def self_attention(self, config, rotary):
        """The first part of the block, where a relative of Llama's may differ."""
        return MultiHeadAttention(
            config.d_model,
            config.n_heads,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            bias=config.attention_bias,
            dropout=config.attention_dropout,
            rotate=rotary,
        )

    def feed_forward(self, config):
        """The second part of the block, where a relative of Llama's may differ."""
        return GatedFeedForward(
            config.d_model, config.d_ff, config.activation, bias=config.ffn_bias
        )

    def forward(self, x, places, cache=None):
        """x (batch, tokens, d_model) → the same; see `Decoder` for places and cache."""
        x = self.attend(x, places, cache)
        return x + self.ffn(self.norm2(x))

    def attend(self, x, places, cache):
        """The first half of the block: x and what attention adds to it."""
        return x + self.attention(
            self.norm1(x),
            mask=places.mask,
            causal=True,
            positions=places.positions,
            cache=cache,
            texts=places.texts,
        )

    def new_cache(self, batch, max_len):
        """An empty cache for this block's keys and values."""
        return self.attention.new_cache(batch, max_len)

    @property
    def into_stream(self):
        """The weights of what is added to the residual stream."""
        return [self.attention.out_proj.weight, self.ffn.down.weight]


class Llama(Decoder):
    """A decoder-only language model: `model(input_ids) → logits`. Positions have no last one.

    A relative, as Mistral, says what differs in the attributes below: its block, its config, and
    of config.json the fields, and what counts where config.json has none.
    """

    architecture = "LlamaForCausalLM"
    shares_prompts = True
    model_type = "llama"
    config_class = LlamaConfig
    block = Block
    fields = FIELDS
    defaults = _DEFAULTS

    def __init__(self, config):
        super().__init__(config)
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        rotary = config.rotary()
        self.blocks = nn.ModuleList(self.block(config, rotary) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.tokens.weight
        self.reset_parameters()

    # --- checkpoints

    @property
    def layout(self):
        copies = {"lm_head.weight": "tokens.weight"} if self.config.tied else {}
        return Layout(NAMES, prefix="model.", ignored=_BUFFERS, copies=copies)

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        rope = {}
        for key in ("rope_scaling", "rope_parameters"):  # before transformers 5, and since
            rope |= config_json.value(key, stored.get(key), dict | None) or {}
        config_json.require(rope, partial_rotary_factor=1.0)
        config_json.require(stored, partial_rotary_factor=1.0)
        stored = {**cls.defaults, **stored}
        base = rope.get("rope_theta", stored.get("rope_theta", 10_000.0))
        config = config_json.read(
            cls.config_class,
            stored,
            cls.fields,
            rope_base=config_json.value("rope_theta", base, float),
            rope_scaling=_scaling_from(rope, stored),
        )
        same_heads = config.n_kv_heads == config.n_heads
        same_width = config.head_dim == config.d_model / config.n_heads
        return replace(
            config,
            n_kv_heads=None if same_heads else config.n_kv_heads,
            head_dim=None if same_width else config.head_dim,
        )

    def config_to(self):
        c = self.config
        head_dim = c.head_dim or c.d_model // c.n_heads
        rope = {"rope_theta": c.rope_base, **_scaling_to(c.rope_scaling)}
        return {
            **config_json.write(c, self.fields),
            "model_type": self.model_type,
            "num_key_value_heads": c.n_kv_heads or c.n_heads,
            "head_dim": head_dim,
            "rope_parameters": rope,
            # for readers before transformers 5
            "rope_theta": c.rope_base,
            "rope_scaling": None if c.rope_scaling is None else _scaling_to(c.rope_scaling),
        }


def _scaling_from(rope, stored):
    """What config.json says of rotary frequencies: None, a number, a `Llama3Scaling`."""

    def number(key):
        if key not in rope:
            raise ValueError(f"rope_parameters must have {key} for rope_type {kind!r}: got {rope}")
        return config_json.value(f"rope_parameters' {key}", rope[key], float)

    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return number("factor")
    if kind == "llama3":
        # Left out, the length is that of the model itself.
        key, default = "original_max_position_embeddings", stored["max_position_embeddings"]
        length = config_json.value(f"rope_parameters' {key}", rope.get(key, default), int)
        parts = (number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
        try:
            return Llama3Scaling(*parts, length)
        except ValueError as error:
            theirs = {"low": "low_freq_factor", "high": "high_freq_factor"}
            words = re.sub(r"\w+", lambda m: theirs.get(m[0], m[0]), str(error))
            raise ValueError(f"rope_parameters: {words}") from error
    raise ValueError(
        f"rope_parameters' rope_type must be 'default', 'linear' or 'llama3': got {kind!r}"
    )


def _scaling_to(scaling):
    if scaling is None:
        return {"rope_type": "default"}
    if not isinstance(scaling, Llama3Scaling):
        return {"rope_type": "linear", "factor": scaling}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low,
        "high_freq_factor": scaling.high,
        "original_max_position_embeddings": scaling.original_max_len,
    }
