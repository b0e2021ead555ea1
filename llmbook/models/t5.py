"""T5: the encoder–decoder Transformer for which every task is text in, text out.

    x = E[ids];  pre-norm layers with RMSNorm;  scores = Q Kᵀ + b(key − query), without 1/√d
    logits = d^(−1/2) · y Eᵀ  (version 1.0, tied)  or  y W_outᵀ  (version 1.1)

No absolute positions: one learned number per head and bucket of distance is added to the scores,
the same in all layers of a stack, and not in cross-attention. No biases anywhere. Version 1.1
has a gated feed-forward network and its own output matrix. Source: Raffel et al. 2020; Shazeer
2020.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from llmbook.checks import token_ids
from llmbook.layers import ACTIVATIONS, FeedForward, GatedFeedForward, Residual, RMSNorm
from llmbook.models.common import check_choices, check_sizes, token_mask
from llmbook.models.encoder_decoder import DecoderLayer, EncoderDecoder, EncoderLayer
from llmbook.models.pretrained import config_json
from llmbook.models.pretrained.layout import Layout
from llmbook.multihead import MultiHeadAttention
from llmbook.positions import T5RelativeBias, exact_buckets


@dataclass(frozen=True)
class T5Config:
    """Sizes and choices of a `T5`; the defaults are T5-small's.

    gated: the feed-forward network of version 1.1. tied: the output matrix is the embedding.
    scale_output: d_model^(−1/2) before the output matrix, as version 1.0 has it. dropout falls on
    embeddings, attention weights, the hidden layer of the feed-forward net and every sub-layer's
    output.
    """

    vocab_size: int = 32128
    d_model: int = 512
    n_heads: int = 8
    head_dim: int = 64
    d_ff: int = 2048
    n_encoder_layers: int = 6
    n_decoder_layers: int = 6
    activation: str = "relu"
    gated: bool = False
    n_buckets: int = 32
    max_distance: int = 128
    dropout: float = 0.1
    eps: float = 1e-6
    tied: bool = True
    scale_output: bool = True
    pad_id: int = 0
    eos_id: int | tuple | None = 1
    start_id: int = 0

    def __post_init__(self):
        check_sizes(
            self,
            "vocab_size",
            "d_model",
            "n_heads",
            "head_dim",
            "d_ff",
            "n_encoder_layers",
            "n_decoder_layers",
            "n_buckets",
        )
        check_choices(self, "dropout")
        exact_buckets(True, self.n_buckets, self.max_distance)  # raises where they make no sense


# --- in half precision
#
# T5 was trained in bfloat16, and the larger ones' sums leave float16's range, which ends at
# 65,504. So what is added up stays float32, and a feed-forward net's result is scaled on its way.


class Sublayer(Residual):
    """x + dropout(sublayer(norm(x))), x in float32 though the weights are half precision."""

    def forward(self, x, *args, **kwargs):
        """(…, d_model) → (…, d_model), both float32 or wider."""
        read = self.norm(x).to(self.norm.weight.dtype)
        return x + self.dropout(self.sublayer(read, *args, **kwargs))


class WideFeedForward(FeedForward):
    """A `FeedForward` whose result is float32 where it is computed in float16."""

    def forward(self, x):
        """(…, d_model) → (…, d_model)."""
        return _wide_product(self.down, self.dropout(self.hidden(x)))


class WideGatedFeedForward(GatedFeedForward):
    """A `GatedFeedForward` whose products are float32 where it is computed in float16."""

    def forward(self, x):
        """(…, d_model) → (…, d_model)."""
        return _wide_product(self.down, self.dropout(self.hidden(x)))

    def hidden(self, x):
        """φ(gate(x)) ⊙ up(x): (…, d_model) → (…, d_ff)."""
        return ACTIVATIONS[self.activation](_wide(self.gate(x))) * self.up(x)


def _wide(x):
    """float16 and bfloat16 as float32; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _wide_product(linear, x):
    """linear(x), without a bias: rows are divided by their largest number, then float16 sees them.

    Exact but for rounding, on the hardware's fast path, and no sum can overflow.
    """
    device, dtype = x.device.type, linear.weight.dtype
    if device != "meta" and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if dtype != torch.float16:
        return linear(x.to(linear.weight.dtype))
    size = x.detach().abs().amax(-1, keepdim=True).clamp(min=1).float()
    return linear((x / size).to(dtype)).float() * size


# --- the model


class T5(EncoderDecoder):
    """The encoder–decoder model: `model(input_ids, decoder_input_ids)` → logits.

    Relative positions know no longest text, and padding may stand on either side.
    """

    architecture = "T5ForConditionalGeneration"
    model_type = "t5"
    defaults = {"num_layers": 6, "eos_token_id": None}  # of config.json, where it has none

    def __init__(self, config):
        super().__init__()
        self.config = config
        d = config.d_model
        self.tokens = nn.Embedding(config.vocab_size, d)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder_bias = _bias(config, bidirectional=True)
        self.encoder = nn.ModuleList(
            EncoderLayer(_attention(config), _feed_forward(config))
            for _ in range(config.n_encoder_layers)
        )
        self.encoder_norm = RMSNorm(d, config.eps)
        self.decoder_bias = _bias(config, bidirectional=False)
        self.decoder = nn.ModuleList(
            DecoderLayer(_attention(config), _attention(config), _feed_forward(config))
            for _ in range(config.n_decoder_layers)
        )
        self.decoder_norm = RMSNorm(d, config.eps)
        self.head = nn.Linear(d, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.tokens.weight
        self.reset_parameters()

    def reset_parameters(self):
        """T5's own: what the missing 1/√head_dim would do is in W_Q's standard deviation."""
        c = self.config
        inner = c.n_heads * c.head_dim
        nn.init.normal_(self.tokens.weight, std=1.0)
        if not c.tied:
            nn.init.normal_(self.head.weight, std=c.d_model**-0.5)
        for bias in (self.encoder_bias, self.decoder_bias):
            nn.init.normal_(bias.relative_attention_bias.weight, std=c.d_model**-0.5)
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                q, kv = module.in_proj_weight[:inner], module.in_proj_weight[inner:]
                nn.init.normal_(q, std=(c.d_model * c.head_dim) ** -0.5)
                nn.init.normal_(kv, std=c.d_model**-0.5)
                nn.init.normal_(module.out_proj.weight, std=inner**-0.5)
            elif isinstance(module, (FeedForward, GatedFeedForward)):
                nn.init.normal_(module.down.weight, std=c.d_ff**-0.5)
                nn.init.normal_(module.up.weight, std=c.d_model**-0.5)
                if isinstance(module, GatedFeedForward):
                    nn.init.normal_(module.gate.weight, std=c.d_model**-0.5)

    def encode(self, input_ids, attention_mask=None):
        """Read the source: memory (batch, tokens, d_model), and its mask or None."""
        token_ids("input_ids", input_ids, vocab_size=self.config.vocab_size)
        mask = token_mask(attention_mask, *input_ids.shape)
        mask = None if mask is None else mask[:, None, None, :]
        x = self.dropout(_wide(self.tokens(input_ids)))
        bias = self.encoder_bias(x.shape[1], x.shape[1])
        x = self.run_encoder(x, mask, bias)
        return self._last(self.encoder_norm, x), mask

    def decode(self, decoder_input_ids, memory, mask=None, cache=None):
        """Hidden states of the targets, given the memory: (batch, targets, d_model)."""
        past = 0 if cache is None else cache.length
        y = self.dropout(_wide(self.tokens(decoder_input_ids)))
        bias = self.decoder_bias(y.shape[1], past + y.shape[1])
        y = self.run_decoder(y, memory, mask, cache, bias)
        return self._last(self.decoder_norm, y)

    def _last(self, norm, x):
        """A stack's output, in the weights' dtype again."""
        return self.dropout(norm(x).to(norm.weight.dtype))

    def logits(self, hidden):
        """Scores of the vocabulary: (batch, targets, d_model) → (batch, targets, vocab_size)."""
        scale = self.config.d_model**-0.5
        return self.head(hidden * scale if self.config.scale_output else hidden)

    # --- checkpoints

    @property
    def layout(self):
        names = {"tokens": "shared", "head": "lm_head"}
        for stack in ("encoder", "decoder"):
            names |= _names(stack, self.config.gated)
        copied = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
        copied += ["lm_head.weight"] if self.config.tied else []
        return Layout(names, ignored=_UNUSED, copies=dict.fromkeys(copied, "tokens.weight"))

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        stored = {**cls.defaults, **stored}
        gated = "gated-" if stored.get("is_gated_act") else ""
        default = f"{gated}{stored.get('dense_act_fn', 'relu')}"
        named = config_json.value(
            "feed_forward_proj", stored.get("feed_forward_proj", default), str
        )
        gate, _, activation = named.rpartition("-")
        if gate not in ("", "gated"):
            raise ValueError(
                f"feed_forward_proj must be an activation or 'gated-' and one: got {named!r}"
            )
        if gate and activation == "gelu":
            activation = "gelu_new"  # version 1.1 says gelu and means the approximation
        if stored.get("num_decoder_layers") is None:
            stored["num_decoder_layers"] = stored["num_layers"]
        scale = stored.get("scale_decoder_outputs", stored.get("tie_word_embeddings", True))
        config = config_json.read(
            T5Config,
            stored,
            _FIELDS,
            gated=bool(gate),
            scale_output=config_json.value("scale_decoder_outputs", scale, bool),
            activation=config_json.activation_from("feed_forward_proj", activation),
        )
        # transformers 5 writes "tied" for version 1.1 too, and "untied" where there is one matrix:
        # the files say which it is.
        if checkpoint is not None and "shared.weight" in checkpoint.names:
            if "lm_head.weight" not in checkpoint.names:
                return replace(config, tied=True)
            head, tokens = (checkpoint.tensor(f"{n}.weight") for n in ("lm_head", "shared"))
            if head.shape != tokens.shape or not torch.equal(head, tokens):
                return replace(config, tied=False)
        return config

    def config_to(self):
        c = self.config
        activation = config_json.activation_to(c.activation)
        if c.gated:
            activation = "gated-" + ("gelu" if activation == "gelu_new" else activation)
        return {
            **config_json.write(c, _FIELDS),
            "model_type": self.model_type,
            "is_encoder_decoder": True,
            "feed_forward_proj": activation,
            "scale_decoder_outputs": c.scale_output,
        }


class MT5(T5):
    """T5 in 101 languages: version 1.1, and nothing scaled before the output.

    Source: Xue et al. 2021.
    """

    architecture = "MT5ForConditionalGeneration"
    model_type = "mt5"
    defaults = {
        "vocab_size": 250_112,
        "d_ff": 1024,
        "num_layers": 8,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
        "eos_token_id": None,
    }

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        return super().config_from({**stored, "scale_decoder_outputs": False}, checkpoint)


def _attention(config):
    attention = MultiHeadAttention(
        config.d_model,
        config.n_heads,
        head_dim=config.head_dim,
        bias=False,
        dropout=config.dropout,
        scale=1.0,
    )
    return _wrap(attention, config)


def _feed_forward(config):
    cls = WideGatedFeedForward if config.gated else WideFeedForward
    ffn = cls(config.d_model, config.d_ff, config.activation, bias=False, dropout=config.dropout)
    return _wrap(ffn, config)


def _wrap(sublayer, config):
    return Sublayer(sublayer, RMSNorm(config.d_model, config.eps), "pre", config.dropout)


def _bias(config, bidirectional):
    return T5RelativeBias(
        config.n_heads,
        bidirectional=bidirectional,
        n_buckets=config.n_buckets,
        max_distance=config.max_distance,
    )


_FIELDS = {
    "vocab_size": "vocab_size",
    "d_model": "d_model",
    "n_heads": "num_heads",
    "head_dim": "d_kv",
    "d_ff": "d_ff",
    "n_encoder_layers": "num_layers",
    "n_decoder_layers": "num_decoder_layers",
    "n_buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "dropout": "dropout_rate",
    "eps": "layer_norm_epsilon",
    "tied": "tie_word_embeddings",
    "pad_id": "pad_token_id",
    "eos_id": "eos_token_id",
    "start_id": "decoder_start_token_id",
}


def _names(stack, gated):
    """A stack's lines of the layout."""
    stored, ours = f"{stack}.block.*.layer", f"{stack}.*"
    ffn = 1 if stack == "encoder" else 2  # behind the attentions
    up = {"gate": "wi_0", "up": "wi_1"} if gated else {"up": "wi"}
    bias = "relative_attention_bias"
    return {
        f"{stack}_bias.{bias}": f"{stack}.block.0.layer.0.SelfAttention.{bias}",
        f"{stack}_norm": f"{stack}.final_layer_norm",
        f"{ours}.attend.norm": f"{stored}.0.layer_norm",
        f"{ours}.attend.sublayer.in_proj": tuple(f"{stored}.0.SelfAttention.{n}" for n in "qkv"),
        f"{ours}.attend.sublayer.out_proj": f"{stored}.0.SelfAttention.o",
        f"{ours}.cross.norm": f"{stored}.1.layer_norm",
        f"{ours}.cross.sublayer.in_proj": tuple(f"{stored}.1.EncDecAttention.{n}" for n in "qkv"),
        f"{ours}.cross.sublayer.out_proj": f"{stored}.1.EncDecAttention.o",
        f"{ours}.transform.norm": f"{stored}.{ffn}.layer_norm",
        f"{ours}.transform.sublayer.down": f"{stored}.{ffn}.DenseReluDense.wo",
        **{
            f"{ours}.transform.sublayer.{name}": f"{stored}.{ffn}.DenseReluDense.{theirs}"
            for name, theirs in up.items()
        },
    }


# Cross-attention has no relative bias; early files hold an unused one.
_UNUSED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)
