"""The encoder–decoder Transformer of 2017: two stacks, one for reading and one for writing.

    encoder layer: self-attention, feed-forward network
    decoder layer: masked self-attention, cross-attention to the encoder's output, feed-forward
    x = √d · E[ids] + PE;  logits = decoder(y, encoder(x)) Eᵀ

Every sub-layer has a residual connection and a LayerNorm, after the sum (post-norm, the paper) or
before the sub-layer (pre-norm, and one more norm at the end of each stack). Source: Vaswani et al.
2017; the activations: Hendrycks and Gimpel 2016, Shazeer 2020.
"""

import math
from dataclasses import asdict, dataclass, fields

import torch
from torch import nn

from llmbook.checks import one_of, share, token_ids, whole
from llmbook.layers import FeedForward, GatedFeedForward, LayerNorm, Residual
from llmbook.models import encoder_decoder
from llmbook.models.common import check_heads, check_sizes, token_mask
from llmbook.models.encoder_decoder import EncoderDecoder
from llmbook.models.pretrained import config_json
from llmbook.models.pretrained.layout import Layout, general
from llmbook.multihead import MultiHeadAttention
from llmbook.positions import sinusoidal

PLACEMENTS = ("post", "pre")
FEED_FORWARDS = ("relu", "gelu", "swiglu")


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and choices of a `Transformer`; the defaults are the paper's base model.

    One vocabulary serves both languages. d_ff None: 4 · d_model, or with "swiglu" the 8/3 that
    make it as large. tied: source embedding, target embedding and output head are one matrix.
    dropout falls on the embeddings and on the output of each sub-layer, as in the paper.
    """

    vocab_size: int
    d_model: int = 512
    n_heads: int = 8
    d_ff: int | None = None
    n_encoder_layers: int = 6
    n_decoder_layers: int = 6
    placement: str = "post"
    activation: str = "relu"
    dropout: float = 0.1
    tied: bool = True
    eps: float = 1e-5
    pad_id: int = 0
    bos_id: int = 1
    eos_id: int = 2

    def __post_init__(self):
        check_sizes(
            self,
            "vocab_size",
            "d_model",
            "n_heads",
            "n_encoder_layers",
            "n_decoder_layers",
            *([] if self.d_ff is None else ["d_ff"]),
        )
        check_heads(self.d_model, self.n_heads)
        if self.d_model % 2:
            raise ValueError(f"d_model must be even: got {self.d_model}")
        one_of("placement", self.placement, PLACEMENTS)
        one_of("activation", self.activation, FEED_FORWARDS)
        share("dropout", self.dropout, one=False)
        for name in ("pad_id", "bos_id", "eos_id"):
            whole(name, getattr(self, name), least=0, most=self.vocab_size - 1)

    @property
    def start_id(self):
        """What the decoder reads first."""
        return self.bos_id


class EncoderLayer(encoder_decoder.EncoderLayer):
    """Self-attention, then the feed-forward network, of a `TransformerConfig`."""

    def __init__(self, config):
        super().__init__(_attention(config), _feed_forward(config))


class DecoderLayer(encoder_decoder.DecoderLayer):
    """Masked self-attention, cross-attention, feed-forward network, of a `TransformerConfig`."""

    def __init__(self, config):
        super().__init__(_attention(config), _attention(config), _feed_forward(config))


class Transformer(EncoderDecoder):
    """The encoder–decoder model: `model(input_ids, decoder_input_ids)` → logits.

    `embed`, `encode`, `decode` and `logits` are its parts; the call itself, `loss` and the cache
    are every encoder–decoder's. No published checkpoint has this form; `save` writes a folder of
    our own names that `llmbook.models.load` reads.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.target_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.target_tokens.weight = self.head.weight = self.tokens.weight
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_decoder_layers))
        self.encoder_norm, self.decoder_norm = _last_norm(config), _last_norm(config)
        self.reset_parameters()

    def reset_parameters(self):
        """Xavier for every matrix, zero biases; embeddings normal with deviation 1/√d_model."""
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for table in (self.tokens, self.target_tokens, self.head):
            nn.init.normal_(table.weight, std=self.config.d_model**-0.5)

    def embed(self, table, ids, positions):
        """√d_model · table[ids] + PE[positions]: (batch, tokens, d_model)."""
        scale = math.sqrt(self.config.d_model)
        x = table(ids) * scale
        return self.dropout(x + sinusoidal(positions, self.config.d_model, dtype=x.dtype))

    def encode(self, input_ids, attention_mask=None):
        """Read the source: memory (batch, tokens, d_model), and its mask or None.

        Positions count the tokens alone, so padding may stand on either side.
        """
        token_ids("input_ids", input_ids, vocab_size=self.config.vocab_size)
        mask = token_mask(attention_mask, *input_ids.shape)
        if mask is None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        else:
            positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
            mask = mask[:, None, None, :]
        x = self.embed(self.tokens, input_ids, positions)
        return self.encoder_norm(self.run_encoder(x, mask)), mask

    def decode(self, decoder_input_ids, memory, mask=None, cache=None):
        """Hidden states of the targets, given the memory: (batch, targets, d_model)."""
        past = 0 if cache is None else cache.length
        positions = torch.arange(past, past + decoder_input_ids.shape[1], device=memory.device)
        y = self.embed(self.target_tokens, decoder_input_ids, positions)
        return self.decoder_norm(self.run_decoder(y, memory, mask, cache))

    def logits(self, hidden):
        """Scores of the vocabulary: (batch, targets, d_model) → (batch, targets, vocab_size)."""
        return self.head(hidden)

    @property
    def layout(self):
        names = {general(name) for name, _ in self.named_parameters()}
        return Layout({name: name for name in names})

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        names = {field.name: field.name for field in fields(TransformerConfig)}
        activation = stored.get("activation", "relu")  # under our own name, as all of them
        return config_json.read(TransformerConfig, stored, names, activation=activation)

    def config_to(self):
        return {**asdict(self.config), "model_type": "transformer", "is_encoder_decoder": True}


def _attention(config):
    return _wrap(MultiHeadAttention(config.d_model, config.n_heads), config)


def _feed_forward(config):
    if config.activation == "swiglu":
        return _wrap(GatedFeedForward(config.d_model, config.d_ff), config)
    ffn = FeedForward(config.d_model, config.d_ff, activation=config.activation)
    return _wrap(ffn, config)


def _wrap(sublayer, config):
    norm = LayerNorm(config.d_model, config.eps)
    return Residual(sublayer, norm, placement=config.placement, dropout=config.dropout)


def _last_norm(config):
    """At a stack's end: a norm where the sub-layers normalise their input only."""
    if config.placement == "pre":
        return LayerNorm(config.d_model, config.eps)
    return nn.Identity()
