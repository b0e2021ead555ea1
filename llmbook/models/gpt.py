"""GPT: the decoder-only Transformer, in GPT-2's form.

    x = E[ids] + P[positions];  x = x + Attention(LN(x));  x = x + FFN(LN(x)), n_layers times
    logits = LN(x) W_outᵀ,  W_out = E when tied

Attention is causal: the logits at a position depend on the tokens up to it. Source: Radford et al.
2019; Brown et al. 2020 for the initialisation as it is written here.
"""

from dataclasses import dataclass, replace

from torch import nn

from llmbook.layers import FeedForward, LayerNorm
from llmbook.models.common import check_choices, check_heads, check_sizes
from llmbook.models.decoder import Decoder
from llmbook.models.pretrained import config_json
from llmbook.models.pretrained.layout import Layout
from llmbook.multihead import MultiHeadAttention


@dataclass(frozen=True)
class GPTConfig:
    """Sizes and choices of a `GPT`. d_ff: 4 · d_model when None; max_len: the longest text.

    embedding_dropout and attention_dropout: as dropout when None.
    """

    vocab_size: int
    max_len: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int | None = None
    activation: str = "gelu_tanh"
    dropout: float = 0.0
    eps: float = 1e-5
    tied: bool = True
    embedding_dropout: float | None = None
    attention_dropout: float | None = None
    eos_id: int | tuple | None = None

    def __post_init__(self):
        check_sizes(self, "vocab_size", "max_len", "d_model", "n_layers", "n_heads")
        if self.d_ff is not None:
            check_sizes(self, "d_ff")
        check_heads(self.d_model, self.n_heads)
        check_choices(self, "dropout", "embedding_dropout", "attention_dropout")


# --- the model


class Block(nn.Module):
    """One pre-norm block: attention, then the feed-forward network, each added to its input."""

    def __init__(self, config):
        super().__init__()
        d, p = config.d_model, config.dropout
        self.norm1 = LayerNorm(d, eps=config.eps)
        on_weights = p if config.attention_dropout is None else config.attention_dropout
        self.attention = MultiHeadAttention(d, config.n_heads, dropout=on_weights)
        self.norm2 = LayerNorm(d, eps=config.eps)
        self.ffn = FeedForward(d, config.d_ff, activation=config.activation)
        self.dropout = nn.Dropout(p)

    def forward(self, x, places, cache=None):
        """x (batch, tokens, d_model) → the same; see `Decoder` for places and cache."""
        attended = self.attention(
            self.norm1(x), mask=places.mask, causal=True, cache=cache, texts=places.texts
        )
        x = x + self.dropout(attended)
        return x + self.dropout(self.ffn(self.norm2(x)))

    def new_cache(self, batch, max_len):
        """An empty cache for this block's keys and values."""
        return self.attention.new_cache(batch, max_len)

    @property
    def into_stream(self):
        """The weights of what is added to the residual stream."""
        return [self.attention.out_proj.weight, self.ffn.down.weight]


class GPT(Decoder):
    """A decoder-only language model: `model(input_ids) → logits`."""

    architecture = "GPT2LMHeadModel"
    shares_prompts = True

    def __init__(self, config):
        super().__init__(config)
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.max_len, config.d_model)
        p = config.embedding_dropout
        self.dropout = nn.Dropout(config.dropout if p is None else p)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model, eps=config.eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.tokens.weight
        self.reset_parameters()

    @property
    def max_len(self):
        """The longest text: there is no vector for a later position."""
        return self.config.max_len

    def embed(self, input_ids, places):
        """E[ids] + P[positions]: (batch, tokens, d_model)."""
        return self.dropout(self.tokens(input_ids) + self.positions(places.positions))

    # --- checkpoints

    @property
    def layout(self):
        copies = {"lm_head.weight": "tokens.weight"} if self.config.tied else {}
        return Layout(
            _NAMES, prefix="transformer.", transposed=_CONV1D, ignored=_BUFFERS, copies=copies
        )

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        config_json.require(
            stored,
            scale_attn_weights=True,
            add_cross_attention=False,
            scale_attn_by_inverse_layer_idx=False,
        )
        stored = {**_DEFAULTS, **stored}
        for key in ("embd_pdrop", "attn_pdrop"):  # ours may be None, which says "as dropout"
            config_json.value(key, stored[key], float)
        config = config_json.read(GPTConfig, stored, _FIELDS)
        same = {
            name: None
            for name in ("embedding_dropout", "attention_dropout")
            if getattr(config, name) == config.dropout
        }
        return replace(config, **same)

    def config_to(self):
        c = self.config
        own = (c.embedding_dropout, c.attention_dropout)
        dropout = [c.dropout if p is None else p for p in own]
        return {
            **config_json.write(c, _FIELDS),
            "model_type": "gpt2",
            "embd_pdrop": dropout[0],
            "attn_pdrop": dropout[1],
            "bos_token_id": c.eos_id if isinstance(c.eos_id, int) else None,
        }


# --- its checkpoints

_FIELDS = {
    "vocab_size": "vocab_size",
    "max_len": ("n_positions", "max_position_embeddings"),
    "d_model": ("n_embd", "hidden_size"),
    "n_layers": ("n_layer", "num_hidden_layers"),
    "n_heads": ("n_head", "num_attention_heads"),
    "d_ff": "n_inner",
    "activation": "activation_function",
    "dropout": "resid_pdrop",
    "eps": "layer_norm_epsilon",
    "tied": "tie_word_embeddings",
    "embedding_dropout": "embd_pdrop",
    "attention_dropout": "attn_pdrop",
    "eos_id": "eos_token_id",
}
_DEFAULTS = {  # GPT-2's, for a config.json that leaves them out
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
}
_NAMES = {
    "tokens": "transformer.wte",
    "positions": "transformer.wpe",
    "blocks.*.norm1": "transformer.h.*.ln_1",
    "blocks.*.attention.in_proj": "transformer.h.*.attn.c_attn",
    "blocks.*.attention.out_proj": "transformer.h.*.attn.c_proj",
    "blocks.*.norm2": "transformer.h.*.ln_2",
    "blocks.*.ffn.up": "transformer.h.*.mlp.c_fc",
    "blocks.*.ffn.down": "transformer.h.*.mlp.c_proj",
    "norm": "transformer.ln_f",
    "head": "lm_head",
}
# GPT-2 keeps these weights as (in, out), and older files hold the causal mask beside them.
_CONV1D = frozenset(
    f"blocks.*.{name}"
    for name in ("attention.in_proj", "attention.out_proj", "ffn.up", "ffn.down")
)
_BUFFERS = (r"h\.\d+\.attn\.(bias|masked_bias)",)
