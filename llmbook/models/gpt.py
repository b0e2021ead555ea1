"""GPT: the decoder-only Transformer, in GPT-2's form.

    x = E[ids] + P[positions];  x = x + Attention(LN(x));  x = x + FFN(LN(x)), n_layers times
    logits = LN(x) W_outᵀ,  W_out = E when tied

Attention is causal: the logits at a position depend on the tokens up to it. Source: Radford et al.
2019; Brown et al. 2020 for the initialisation as it is written here.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from llmbook.cache import Caches
from llmbook.layers import ACTIVATIONS, FeedForward, LayerNorm
from llmbook.models.pretrained import Pretrained, config_json
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
    eos_id: int | None = None

    def __post_init__(self):
        for name in ("vocab_size", "max_len", "d_model", "n_layers", "n_heads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1: got {value!r}")
        if self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads must divide d_model: got d_model={self.d_model}, n_heads={self.n_heads}"
            )
        for name in ("dropout", "embedding_dropout", "attention_dropout"):
            value = getattr(self, name)
            if not 0 <= (value or 0) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1: got {value}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {tuple(ACTIVATIONS)}: got {self.activation!r}"
            )


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

    def forward(self, x, mask=None, cache=None):
        """x (batch, tokens, d_model) → the same; mask as in `attention`, over all keys."""
        x = x + self.dropout(self.attention(self.norm1(x), mask=mask, causal=True, cache=cache))
        return x + self.dropout(self.ffn(self.norm2(x)))


class GPT(Pretrained, nn.Module):
    """A decoder-only language model: `model(input_ids) → logits`.

    `checkpointing = True` on the model keeps only each block's input for the backward pass and
    computes the rest again: less memory, one more forward pass.
    """

    architecture = "GPT2LMHeadModel"

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.max_len, config.d_model)
        p = config.embedding_dropout
        self.dropout = nn.Dropout(config.dropout if p is None else p)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model, eps=config.eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.tokens.weight
        self.checkpointing = False
        self.reset_parameters()

    def reset_parameters(self):
        """Weights normal with standard deviation 0.02, biases 0, norms 1.

        What is added to the residual stream starts smaller by 1/√(2 n_layers): there are that many
        additions, and the stream's size should not grow with depth.
        """
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, MultiHeadAttention):
                nn.init.normal_(module.in_proj_weight, std=0.02)
                nn.init.zeros_(module.in_proj_bias)
        for block in self.blocks:
            for layer in (block.attention.out_proj, block.ffn.down):
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * self.config.n_layers))

    def forward(self, input_ids, attention_mask=None, *, cache=None):
        """Logits of the next token at every position: (batch, tokens, vocab_size).

        attention_mask: (batch, tokens so far), 1 or True for tokens and 0 for padding, on either
        side; positions count the tokens alone. cache: from `new_cache`, filled with earlier
        tokens; input_ids are then the new ones only.
        """
        return self.head(self.hidden(input_ids, attention_mask, cache=cache))

    def hidden(self, input_ids, attention_mask=None, *, cache=None):
        """The final normalised hidden states: (batch, tokens, d_model)."""
        past = 0 if cache is None else cache.length
        positions, mask = self._positions(input_ids, attention_mask, past)
        x = self.dropout(self.tokens(input_ids) + self.positions(positions))
        for i, block in enumerate(self.blocks):
            if self.checkpointing and self.training:
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask, None if cache is None else cache[i])
        return self.norm(x)

    def loss(self, input_ids, targets):
        """Mean cross-entropy of the next tokens, in nats: scalar. Targets below 0 do not count."""
        logits = self(input_ids)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100)

    def new_cache(self, batch, max_len):
        """Empty `Caches` for `max_len` tokens."""
        if max_len > self.config.max_len:
            raise ValueError(
                f"max_len must be at most the model's {self.config.max_len}: got {max_len}"
            )
        return Caches(block.attention.new_cache(batch, max_len) for block in self.blocks)

    def _positions(self, input_ids, attention_mask, past):
        if input_ids.ndim != 2 or input_ids.dtype != torch.int64:
            raise ValueError(
                f"input_ids must be int64 (batch, tokens): got {input_ids.dtype} "
                f"{tuple(input_ids.shape)}"
            )
        total = past + input_ids.shape[1]
        if total > self.config.max_len:
            raise ValueError(
                f"the text must have at most max_len={self.config.max_len} tokens: got {total}"
            )
        if attention_mask is None:
            return torch.arange(past, total, device=input_ids.device), None
        if attention_mask.shape != (input_ids.shape[0], total):
            raise ValueError(
                f"attention_mask must be (batch, tokens so far) = {(input_ids.shape[0], total)}: "
                f"got {tuple(attention_mask.shape)}"
            )
        keep = attention_mask.bool()
        positions = (keep.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
        return positions, keep[:, None, None, :]

    @property
    def layout(self):
        """Names and shapes in checkpoint files."""
        copies = {"lm_head.weight": "tokens.weight"} if self.config.tied else {}
        return Layout(_NAMES, "transformer.", _CONV1D, ignored=_BUFFERS, copies=copies)

    @classmethod
    def config_from(cls, stored):
        """Our config from config.json's content."""
        config_json.require(
            stored,
            scale_attn_weights=True,
            add_cross_attention=False,
            scale_attn_by_inverse_layer_idx=False,
        )
        found = config_json.fields_from({**_DEFAULTS, **stored}, _FIELDS)
        found["activation"] = config_json.activation_from(found["activation"])
        for name in ("embedding_dropout", "attention_dropout"):
            if found[name] == found["dropout"]:
                del found[name]
        return GPTConfig(**found)

    def config_to(self):
        """config.json's content."""
        c = self.config
        own = (c.embedding_dropout, c.attention_dropout)
        dropout = [c.dropout if p is None else p for p in own]
        return {
            **config_json.fields_to(c, _FIELDS),
            "model_type": "gpt2",
            "activation_function": config_json.activation_to(c.activation),
            "embd_pdrop": dropout[0],
            "attn_pdrop": dropout[1],
            "bos_token_id": c.eos_id,
        }


# --- its checkpoints

_FIELDS = {
    "vocab_size": "vocab_size",
    "max_len": "n_positions",
    "d_model": "n_embd",
    "n_layers": "n_layer",
    "n_heads": "n_head",
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
