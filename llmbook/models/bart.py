"""BART: an encoder that reads a damaged text, and a decoder that writes it whole again.

    x = LN(E[ids] + P[positions]);  post-norm layers, GELU;  logits = y Eᵀ + b

The Transformer of 2017 with learned positions (two tables, whose first two rows nothing reads), a
norm behind the embeddings, and biases throughout. Source: Lewis et al. 2020.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.checks import divides, token_ids
from llmbook.layers import FeedForward, LayerNorm, Residual
from llmbook.models.common import check_choices, check_sizes, init_normal, token_mask
from llmbook.models.encoder_decoder import DecoderLayer, EncoderDecoder, EncoderLayer
from llmbook.models.pretrained import config_json
from llmbook.models.pretrained.layout import Layout
from llmbook.multihead import MultiHeadAttention

FIRST_POSITION = 2  # the row of a position table that the first token takes


@dataclass(frozen=True)
class BartConfig:
    """Sizes and choices of a `Bart`; the defaults are BART-large's.

    tied: both embeddings and the output matrix are one. scale_embedding: √d_model · E[ids].
    dropout falls on the embeddings and every sub-layer's output, attention_dropout on the weights,
    ffn_dropout on the feed-forward net's hidden layer. start_id: what the decoder reads first.
    """

    vocab_size: int = 50265
    max_len: int = 1024
    d_model: int = 1024
    n_encoder_layers: int = 12
    n_decoder_layers: int = 12
    n_encoder_heads: int = 16
    n_decoder_heads: int = 16
    d_encoder_ff: int = 4096
    d_decoder_ff: int = 4096
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0
    scale_embedding: bool = False
    tied: bool = True
    init_std: float = 0.02
    bos_id: int | None = 0
    pad_id: int = 1
    eos_id: int | tuple | None = 2
    start_id: int = 2

    def __post_init__(self):
        check_sizes(
            self,
            "vocab_size",
            "max_len",
            "d_model",
            "n_encoder_layers",
            "n_decoder_layers",
            "n_encoder_heads",
            "n_decoder_heads",
            "d_encoder_ff",
            "d_decoder_ff",
        )
        for name in ("n_encoder_heads", "n_decoder_heads"):
            divides(name, getattr(self, name), "d_model", self.d_model)
        check_choices(self, "dropout", "attention_dropout", "ffn_dropout")


class Bart(EncoderDecoder):
    """The encoder–decoder model: `model(input_ids, decoder_input_ids)` → logits.

    Padding belongs on the right: positions count from the first column.
    """

    architecture = "BartForConditionalGeneration"

    def __init__(self, config):
        super().__init__()
        self.config = config
        d, rows = config.d_model, config.max_len + FIRST_POSITION
        self.tokens = nn.Embedding(config.vocab_size, d)
        self.target_tokens = nn.Embedding(config.vocab_size, d)
        self.positions, self.target_positions = nn.Embedding(rows, d), nn.Embedding(rows, d)
        self.norm, self.target_norm = LayerNorm(d), LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(
            _encoder_layer(config) for _ in range(config.n_encoder_layers)
        )
        self.decoder = nn.ModuleList(
            _decoder_layer(config) for _ in range(config.n_decoder_layers)
        )
        self.head = nn.Linear(d, config.vocab_size, bias=False)
        self.register_buffer("output_bias", torch.zeros(1, config.vocab_size))  # not trained
        if config.tied:
            self.target_tokens.weight = self.head.weight = self.tokens.weight
        self.reset_parameters()

    def reset_parameters(self):
        """Every matrix normal with standard deviation init_std, biases 0, norms 1."""
        init_normal(self, self.config.init_std)

    def embed(self, tokens, positions, norm, ids, past=0):
        """LN(E[ids] + P[past + 2, …]): (batch, tokens, d_model)."""
        where = torch.arange(past, past + ids.shape[1], device=ids.device) + FIRST_POSITION
        scale = math.sqrt(self.config.d_model) if self.config.scale_embedding else 1.0
        return self.dropout(norm(tokens(ids) * scale + positions(where)))

    def encode(self, input_ids, attention_mask=None):
        """Read the source: memory (batch, tokens, d_model), and its mask or None."""
        c = self.config
        token_ids("input_ids", input_ids, vocab_size=c.vocab_size, max_len=c.max_len)
        mask = token_mask(attention_mask, *input_ids.shape)
        mask = None if mask is None else mask[:, None, None, :]
        x = self.embed(self.tokens, self.positions, self.norm, input_ids)
        return self.run_encoder(x, mask), mask

    def decode(self, decoder_input_ids, memory, mask=None, cache=None):
        """Hidden states of the targets, given the memory: (batch, targets, d_model)."""
        past = 0 if cache is None else cache.length
        token_ids("decoder_input_ids", decoder_input_ids, max_len=self.config.max_len - past)
        y = self.embed(
            self.target_tokens, self.target_positions, self.target_norm, decoder_input_ids, past
        )
        return self.run_decoder(y, memory, mask, cache)

    def logits(self, hidden):
        """Scores of the vocabulary: (batch, targets, d_model) → (batch, targets, vocab_size)."""
        return F.linear(hidden, self.head.weight, self.output_bias[0])

    @property
    def max_len(self):
        """The longest text: there is no vector for a later position."""
        return self.config.max_len

    # --- checkpoints

    @property
    def layout(self):
        encoder, decoder = (f"model.{stack}.embed_tokens" for stack in ("encoder", "decoder"))
        names, copies, also = dict(_NAMES), {}, {}
        if self.config.tied:
            names["tokens"] = "model.shared"
            repeated = (f"{encoder}.weight", f"{decoder}.weight", "lm_head.weight")
            copies = dict.fromkeys(repeated, "tokens.weight")
        else:
            names |= {"tokens": encoder, "target_tokens": decoder, "head": "lm_head"}
            also = {"model.shared.weight": "tokens.weight"}  # there, and not used
        return Layout(
            names,
            prefix="model.",
            ignored=_UNUSED,
            copies=copies,
            also=also,
            optional=frozenset({"output_bias"}),
        )

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        config_json.require(
            stored,
            encoder_layerdrop=0.0,
            decoder_layerdrop=0.0,
            normalize_before=False,
            add_final_layer_norm=False,
            static_position_embeddings=False,
        )
        stored = {"eos_token_id": None, **stored}  # a file that names no end has none
        return config_json.read(BartConfig, stored, _FIELDS)

    def config_to(self):
        return {
            **config_json.write(self.config, _FIELDS),
            "model_type": "bart",
            "is_encoder_decoder": True,
        }


def _encoder_layer(config):
    attend = _attention(config, config.n_encoder_heads)
    return EncoderLayer(attend, _feed_forward(config, config.d_encoder_ff))


def _decoder_layer(config):
    attend, cross = (_attention(config, config.n_decoder_heads) for _ in ("attend", "cross"))
    return DecoderLayer(attend, cross, _feed_forward(config, config.d_decoder_ff))


def _attention(config, n_heads):
    attention = MultiHeadAttention(config.d_model, n_heads, dropout=config.attention_dropout)
    return Residual(attention, LayerNorm(config.d_model), "post", config.dropout)


def _feed_forward(config, d_ff):
    ffn = FeedForward(config.d_model, d_ff, config.activation, dropout=config.ffn_dropout)
    return Residual(ffn, LayerNorm(config.d_model), "post", config.dropout)


_FIELDS = {
    "vocab_size": "vocab_size",
    "max_len": "max_position_embeddings",
    "d_model": "d_model",
    "n_encoder_layers": "encoder_layers",
    "n_decoder_layers": "decoder_layers",
    "n_encoder_heads": "encoder_attention_heads",
    "n_decoder_heads": "decoder_attention_heads",
    "d_encoder_ff": "encoder_ffn_dim",
    "d_decoder_ff": "decoder_ffn_dim",
    "activation": "activation_function",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "ffn_dropout": "activation_dropout",
    "scale_embedding": "scale_embedding",
    "tied": "tie_word_embeddings",
    "init_std": "init_std",
    "bos_id": "bos_token_id",
    "pad_id": "pad_token_id",
    "eos_id": "eos_token_id",
    "start_id": "decoder_start_token_id",
}


def _names(stack, first):
    """A stack's lines of the layout; first: before the names of its own embeddings."""
    stored, ours = f"model.{stack}.layers.*", f"{stack}.*"
    return {
        f"{first}positions": f"model.{stack}.embed_positions",
        f"{first}norm": f"model.{stack}.layernorm_embedding",
        f"{ours}.attend.sublayer.in_proj": tuple(f"{stored}.self_attn.{n}_proj" for n in "qkv"),
        f"{ours}.attend.sublayer.out_proj": f"{stored}.self_attn.out_proj",
        f"{ours}.attend.norm": f"{stored}.self_attn_layer_norm",
        f"{ours}.cross.sublayer.in_proj": tuple(f"{stored}.encoder_attn.{n}_proj" for n in "qkv"),
        f"{ours}.cross.sublayer.out_proj": f"{stored}.encoder_attn.out_proj",
        f"{ours}.cross.norm": f"{stored}.encoder_attn_layer_norm",
        f"{ours}.transform.sublayer.up": f"{stored}.fc1",
        f"{ours}.transform.sublayer.down": f"{stored}.fc2",
        f"{ours}.transform.norm": f"{stored}.final_layer_norm",
    }


_NAMES = {
    "output_bias": "final_logits_bias",
    **_names("encoder", ""),
    **_names("decoder", "target_"),
}
_UNUSED = (r"(encoder|decoder)\.version",)
