"""The encoder–decoder Transformer of 2017: two stacks, one for reading and one for writing.

    encoder layer: self-attention, feed-forward network
    decoder layer: masked self-attention, cross-attention to the encoder's output, feed-forward
    x = √d · E[ids] + PE;  logits = decoder(y, encoder(x)) Eᵀ

Every sub-layer has a residual connection and a LayerNorm, after the sum (post-norm, the paper) or
before the sub-layer (pre-norm, and one more norm at the end of each stack). Source: Vaswani et al.
2017; the activations: Hendrycks and Gimpel 2016, Shazeer 2020.
"""

import math
import re
from dataclasses import asdict, dataclass, fields

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.layers import FeedForward, GatedFeedForward, LayerNorm, Residual
from llmbook.models.layout import Layout
from llmbook.models.pretrained import Pretrained
from llmbook.multihead import KVCache, MultiHeadAttention
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
        sizes = ("vocab_size", "d_model", "n_heads", "n_encoder_layers", "n_decoder_layers")
        for name in sizes if self.d_ff is None else (*sizes, "d_ff"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1: got {value!r}")
        if self.d_model % self.n_heads or self.d_model % 2:
            raise ValueError(
                "n_heads must divide d_model, which must be even: got "
                f"d_model={self.d_model}, n_heads={self.n_heads}"
            )
        for name, known in (("placement", PLACEMENTS), ("activation", FEED_FORWARDS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}: got {getattr(self, name)!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1: got {self.dropout}")
        for name in ("pad_id", "bos_id", "eos_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(
                    f"{name} must be a token, 0 to {self.vocab_size - 1}: got "
                    f"{getattr(self, name)}"
                )


class EncoderLayer(nn.Module):
    """Self-attention, then the feed-forward network; each with its residual and its norm."""

    def __init__(self, config):
        super().__init__()
        self.attend = _wrap(_attention(config), config)
        self.transform = _wrap(_feed_forward(config), config)

    def forward(self, x, mask=None):
        """x (batch, tokens, d_model) → the same; mask (batch, 1, 1, tokens), True = a token."""
        return self.transform(self.attend(x, mask=mask))


class DecoderLayer(nn.Module):
    """Masked self-attention, cross-attention to the encoder's output, feed-forward network."""

    def __init__(self, config):
        super().__init__()
        self.attend = _wrap(_attention(config), config)
        self.cross = _wrap(_attention(config), config)
        self.transform = _wrap(_feed_forward(config), config)

    def forward(self, y, memory, mask=None, cache=(None, None)):
        """y (batch, targets, d_model), memory (batch, tokens, d_model) → y's shape.

        mask: which tokens of memory are no padding. cache: a `KVCache` for each attention.
        """
        y = self.attend(y, causal=True, cache=cache[0])
        y = self.cross(y, memory, mask=mask, cache=cache[1])
        return self.transform(y)


class Transformer(Pretrained, nn.Module):
    """The encoder–decoder model: `model(input_ids, decoder_input_ids)` → logits.

    `embed`, `encode` and `decode` are its parts, `loss` is for training. No published checkpoint
    has this form; `save` writes a folder of our own names that `llmbook.models.load` reads.
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
        self.encoder = nn.ModuleList(
            EncoderLayer(config) for _ in range(config.n_encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(config) for _ in range(config.n_decoder_layers)
        )
        self.encoder_norm, self.decoder_norm = (
            LayerNorm(config.d_model, config.eps) if config.placement == "pre" else nn.Identity()
            for _ in range(2)
        )
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

    def forward(self, input_ids, decoder_input_ids, attention_mask=None, *, cache=None):
        """Logits of the next target token: (batch, targets, vocab_size).

        input_ids (batch, tokens) int64; decoder_input_ids (batch, targets) int64, starting with
        bos_id; attention_mask (batch, tokens), 1 or True for tokens and 0 for padding, on either
        side. cache: from `new_cache`; its first call reads the source, later ones take the new
        targets only and leave input_ids aside.
        """
        _check_ids("decoder_input_ids", decoder_input_ids)
        if cache is None or cache.memory is None:
            memory, mask = self.encode(input_ids, attention_mask)
            if cache is not None:
                cache.memory, cache.mask = memory, mask
        else:
            memory, mask = cache.memory, cache.mask
        if memory.shape[0] != decoder_input_ids.shape[0]:
            raise ValueError(
                "decoder_input_ids must have the batch of the source: got "
                f"{decoder_input_ids.shape[0]}, expected {memory.shape[0]}"
            )
        return self.head(self.decode(decoder_input_ids, memory, mask, cache))

    def embed(self, table, ids, positions):
        """√d_model · table[ids] + PE[positions]: (batch, tokens, d_model)."""
        scale = math.sqrt(self.config.d_model)
        x = table(ids) * scale
        return self.dropout(x + sinusoidal(positions, self.config.d_model, dtype=x.dtype))

    def encode(self, input_ids, attention_mask=None):
        """Read the source: memory (batch, tokens, d_model), and its mask or None.

        Positions count the tokens alone, so padding may stand on either side.
        """
        _check_ids("input_ids", input_ids)
        mask, positions = None, torch.arange(input_ids.shape[1], device=input_ids.device)
        if attention_mask is not None:
            if attention_mask.shape != input_ids.shape:
                raise ValueError(
                    f"attention_mask must have input_ids' shape {tuple(input_ids.shape)}: got "
                    f"{tuple(attention_mask.shape)}"
                )
            keep = attention_mask.bool()
            mask, positions = keep[:, None, None, :], (keep.long().cumsum(-1) - 1).clamp(min=0)
        x = self.embed(self.tokens, input_ids, positions)
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder_norm(x), mask

    def decode(self, decoder_input_ids, memory, mask=None, cache=None):
        """Hidden states of the targets, given the memory: (batch, targets, d_model)."""
        past = 0 if cache is None else cache.length
        positions = torch.arange(past, past + decoder_input_ids.shape[1], device=memory.device)
        y = self.embed(self.target_tokens, decoder_input_ids, positions)
        for i, layer in enumerate(self.decoder):
            y = layer(y, memory, mask, (None, None) if cache is None else cache.layer(i, memory))
        return self.decoder_norm(y)

    def loss(self, input_ids, targets, attention_mask=None, *, smoothing=0.0):
        """Mean cross-entropy of `targets` (batch, targets), teacher-forced, in nats: scalar.

        targets end with eos_id and are padded with −100; the decoder reads them shifted by one,
        behind bos_id. See `label_smoothing`.
        """
        start = torch.full_like(targets[:, :1], self.config.bos_id)
        shifted = torch.cat([start, targets[:, :-1]], 1)
        shifted = shifted.masked_fill(shifted < 0, self.config.pad_id)
        logits = self(input_ids, shifted, attention_mask).float()
        return label_smoothing(logits.flatten(0, 1), targets.flatten(), smoothing)

    def new_cache(self, batch, max_len):
        """An empty `TransformerCache` for `max_len` target tokens."""
        return TransformerCache(self, batch, max_len)

    @property
    def layout(self):
        """Names in checkpoint files: our own."""
        names = [re.sub(r"\.\d+\.", ".*.", name) for name, _ in self.named_parameters()]
        return Layout(dict(zip(names, names, strict=True)))

    @classmethod
    def config_from(cls, stored):
        """Our config from config.json's content."""
        known = {field.name for field in fields(TransformerConfig)}
        return TransformerConfig(**{k: v for k, v in stored.items() if k in known})

    def config_to(self):
        """config.json's content."""
        return {**asdict(self.config), "model_type": "transformer", "is_encoder_decoder": True}


class TransformerCache:
    """What writing keeps: the source's memory, and keys and values of every decoder layer.

    Self-attention's grow with each target; cross-attention's are made once from the memory.
    """

    def __init__(self, model, batch, max_len):
        self.selves = [layer.attend.sublayer.new_cache(batch, max_len) for layer in model.decoder]
        self.crosses = [None] * len(self.selves)
        self.memory = self.mask = None

    @property
    def length(self):
        """Number of target tokens held."""
        return self.selves[0].length

    @property
    def nbytes(self):
        """Bytes of all keys and values, filled or not."""
        return sum(one.nbytes for one in (*self.selves, *self.crosses) if one is not None)

    def layer(self, i, memory):
        """The caches of layer i's two attentions; the second is sized by the memory."""
        if self.crosses[i] is None:
            own = self.selves[i].keys
            self.crosses[i] = KVCache(own.shape[0], own.shape[1], memory.shape[1], own.shape[3],
                                      device=own.device, dtype=own.dtype)  # fmt: skip
        return self.selves[i], self.crosses[i]

    def reorder(self, rows):
        """Let row i of the batch continue row rows[i] (beam search); the batch may change size."""
        for one in (*self.selves, *self.crosses):
            if one is not None:
                one.reorder(rows)
        if self.memory is not None:
            self.memory = self.memory[rows]
            self.mask = None if self.mask is None else self.mask[rows]

    def crop(self, length):
        """Forget the target tokens from position `length` on."""
        for one in self.selves:
            one.crop(length)


def label_smoothing(logits, targets, smoothing=0.1, ignore_index=-100):
    """Mean cross-entropy against (1 − ε) · one-hot + ε/V, in nats: scalar.

        loss = −(1 − ε) log p(target) − ε · mean over the V tokens of log p

    logits (n, V); targets (n,) int64, `ignore_index` where nothing counts. Equal to
    `torch.nn.functional.cross_entropy(…, label_smoothing=ε)`, which serves where ε = 0. Source:
    Szegedy et al. 2016.
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be from 0 to 1: got {smoothing}")
    if smoothing == 0:
        return F.cross_entropy(logits, targets, ignore_index=ignore_index)
    counts = targets != ignore_index
    log_p = logits[counts].log_softmax(-1)
    right = log_p.gather(-1, targets[counts][:, None])[:, 0]
    return -((1 - smoothing) * right + smoothing * log_p.mean(-1)).mean()


def _attention(config):
    return MultiHeadAttention(config.d_model, config.n_heads)


def _feed_forward(config):
    if config.activation == "swiglu":
        return GatedFeedForward(config.d_model, config.d_ff)
    return FeedForward(config.d_model, config.d_ff, activation=config.activation)


def _wrap(sublayer, config):
    norm = LayerNorm(config.d_model, config.eps)
    return Residual(sublayer, norm, placement=config.placement, dropout=config.dropout)


def _check_ids(name, ids):
    if ids.ndim != 2 or ids.dtype != torch.int64:
        raise ValueError(
            f"{name} must be int64 (batch, tokens): got {ids.dtype} {tuple(ids.shape)}"
        )
