"""BERT: the encoder-only Transformer, and the heads that read it.

    x = LN(E[ids] + P[positions] + S[segments])
    x = LN(x + Attention(x));  x = LN(x + FFN(x)), n_layers times       (post-norm)
    pooled = tanh(W x_[CLS])

Every token sees every other one. Source: Devlin et al. 2019.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.checks import token_ids, whole
from llmbook.layers import ACTIVATIONS, FeedForward, LayerNorm, Residual
from llmbook.models.common import (
    check_choices,
    check_heads,
    check_sizes,
    init_normal,
    run_layer,
    token_mask,
)
from llmbook.models.pretrained import Pretrained, config_json
from llmbook.models.pretrained.layout import Layout
from llmbook.multihead import MultiHeadAttention


@dataclass(frozen=True)
class BertConfig:
    """Sizes and choices of a `Bert`; the defaults are BERT-base's.

    dropout falls on the embeddings and the output of each sub-layer, attention_dropout on the
    attention weights, classifier_dropout (dropout when None) before a classifier. labels: names
    of a classifier's classes. tied: the masked-token head's matrix is the token embedding. pooler:
    has the model without a head its pooler? Published files of masked models have none.
    """

    vocab_size: int = 30522
    max_len: int = 512
    d_model: int = 768
    n_layers: int = 12
    n_heads: int = 12
    d_ff: int = 3072
    n_segments: int = 2
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float | None = None
    eps: float = 1e-12
    pad_id: int | None = 0
    tied: bool = True
    init_std: float = 0.02
    labels: tuple = ("LABEL_0", "LABEL_1")
    pooler: bool = True

    def __post_init__(self):
        check_sizes(self, "vocab_size", "max_len", "d_model", "n_layers", "n_heads", "d_ff")
        whole("n_segments", self.n_segments, least=0)
        check_heads(self.d_model, self.n_heads)
        check_choices(self, "dropout", "attention_dropout", "classifier_dropout")
        if self.pad_id is not None:
            whole("pad_id", self.pad_id, least=0, most=self.vocab_size - 1)
        if len(self.labels) < 1:
            raise ValueError("labels must name at least one class")

    @property
    def first_position(self):
        """The row of the position table that the first token takes."""
        return 0

    @property
    def head_activation(self):
        """φ in the masked-token head: the layers' own."""
        return self.activation


# --- its names in checkpoints

_FIELDS = {
    "vocab_size": "vocab_size",
    "max_len": "max_position_embeddings",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "n_segments": "type_vocab_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "eps": "layer_norm_eps",
    "classifier_dropout": "classifier_dropout",
    "pad_id": "pad_token_id",
    "tied": "tie_word_embeddings",
    "init_std": "initializer_range",
}
_QKV = tuple(f"encoder.layer.*.attention.self.{name}" for name in ("query", "key", "value"))
_BODY = {
    "body.tokens": "embeddings.word_embeddings",
    "body.positions": "embeddings.position_embeddings",
    "body.segments": "embeddings.token_type_embeddings",
    "body.norm": "embeddings.LayerNorm",
    "body.layers.*.attend.sublayer.in_proj": _QKV,
    "body.layers.*.attend.sublayer.out_proj": "encoder.layer.*.attention.output.dense",
    "body.layers.*.attend.norm": "encoder.layer.*.attention.output.LayerNorm",
    "body.layers.*.transform.sublayer.up": "encoder.layer.*.intermediate.dense",
    "body.layers.*.transform.sublayer.down": "encoder.layer.*.output.dense",
    "body.layers.*.transform.norm": "encoder.layer.*.output.LayerNorm",
    "pooler": "pooler.dense",
}
_OLD = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
_ELSEWHERE = (  # what other classes of the family have, and a buffer
    r"pooler\.dense\.(weight|bias)",
    r"cls\.seq_relationship\.(weight|bias)",
    r"(cls\.predictions|lm_head)\.(bias|decoder\.(weight|bias))",
    r"(cls\.predictions\.transform|lm_head)\.(dense|LayerNorm|layer_norm)\.(weight|bias)",
    r"embeddings\.position_ids",
)


# --- the model


class BertLayer(nn.Module):
    """Self-attention, then the feed-forward network; each added to its input, then normalised."""

    def __init__(self, config):
        super().__init__()
        d, p = config.d_model, config.dropout
        attention = MultiHeadAttention(d, config.n_heads, dropout=config.attention_dropout)
        self.attend = Residual(attention, LayerNorm(d, config.eps), "post", p)
        ffn = FeedForward(d, config.d_ff, activation=config.activation)
        self.transform = Residual(ffn, LayerNorm(d, config.eps), "post", p)

    def forward(self, x, mask=None):
        """x (batch, tokens, d_model) → the same; mask (batch, 1, 1, tokens)."""
        return self.transform(self.attend(x, mask=mask))


class Body(nn.Module):
    """Embeddings and layers: input_ids → hidden states. All models of this file share it."""

    checkpointing = False

    def __init__(self, config):
        super().__init__()
        self.config = config
        d = config.d_model
        self.tokens = nn.Embedding(config.vocab_size, d)
        self.positions = nn.Embedding(config.max_len + config.first_position, d)
        if config.n_segments:
            self.segments = nn.Embedding(config.n_segments, d)
        self.norm = LayerNorm(d, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.n_layers))

    def forward(self, input_ids, attention_mask=None, segment_ids=None):
        """Hidden states of the last layer: (batch, tokens) → (batch, tokens, d_model)."""
        c = self.config
        token_ids("input_ids", input_ids, vocab_size=c.vocab_size, max_len=c.max_len)
        mask = token_mask(attention_mask, *input_ids.shape)
        x = self.tokens(input_ids) + self.positions(self.rows(input_ids))
        if segment_ids is not None:
            if not c.n_segments:
                raise ValueError("segment_ids must be None: this model has no segments")
            token_ids("segment_ids", segment_ids, vocab_size=c.n_segments)
            x = x + self.segments(segment_ids)
        elif c.n_segments:
            x = x + self.segments.weight[0]
        x = self.dropout(self.norm(x))
        mask = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            x = run_layer(self, layer, x, mask)
        return x

    def rows(self, input_ids):
        """Rows of the position table: (tokens,) or (batch, tokens). All tokens are counted."""
        return torch.arange(input_ids.shape[1], device=input_ids.device)


class BertModel(Pretrained, nn.Module):
    """What the models share: a body, perhaps a pooler, and `read`, which makes the output.

    A subclass has `pooled` (does it need the pooler?), makes its head in `build`, and says in
    `read` what it makes of the hidden states. A family of the same network, as RoBERTa, says what
    the class attributes below say.
    """

    reads_source = False
    pooled = False
    family = "bert"  # config.json's model_type, and the prefix of the body's names in files
    config_class = BertConfig
    body_class = Body
    fields = _FIELDS
    body_names = _BODY
    bias_name = "cls.predictions.bias"  # the masked-token head's, in files
    decoder_name = "cls.predictions.decoder"
    elsewhere = _ELSEWHERE
    head_names = {
        "head.dense": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
        "next_sentence": "cls.seq_relationship",
        "classifier": "classifier",
        "span": "qa_outputs",
    }

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.body = self.body_class(config)
        if self.pooled:
            self.pooler = nn.Linear(config.d_model, config.d_model)
        p = config.dropout if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(p)
        self.build(config)
        self.reset_parameters()

    @property
    def checkpointing(self):
        """As a `Decoder`'s: keep each layer's input only, and compute the rest again."""
        return self.body.checkpointing

    @checkpointing.setter
    def checkpointing(self, value):
        self.body.checkpointing = value

    def build(self, config):
        """Make the head's modules."""

    def read(self, hidden):
        """The output, from hidden states (batch, tokens, d_model)."""
        return hidden

    def reset_parameters(self):
        """Every matrix normal with standard deviation init_std, biases 0, norms 1."""
        init_normal(self, self.config.init_std)

    def forward(self, input_ids, attention_mask=None, *, segment_ids=None, cache=None):
        """The output of `read` for input_ids (batch, tokens).

        attention_mask (batch, tokens): 1 or True for tokens, 0 for padding, which belongs on the
        right. segment_ids (batch, tokens): 0 for the first text, 1 for the second; 0 when None.
        cache must be None: an encoder reads both ways, so nothing can be kept.
        """
        if cache is not None:
            raise ValueError("an encoder has no cache: every token sees the later ones")
        return self.read(self.body(input_ids, attention_mask, segment_ids))

    def pool(self, hidden):
        """tanh(W x) of the first token, [CLS]: (batch, d_model)."""
        return torch.tanh(self.pooler(hidden[:, 0]))

    @classmethod
    def on(cls, model, **changes):
        """A model of this class on a copy of another's body (and pooler), with a fresh head.

        changes: fields of the config that differ, labels=("no", "yes") for one.
        """
        new = cls(replace(model.config, **changes))
        weight = model.body.tokens.weight
        new = new.to(weight.device, weight.dtype)
        new.body.load_state_dict(model.body.state_dict())
        if new.pooled and model.pooled:
            new.pooler.load_state_dict(model.pooler.state_dict())
        return new

    @property
    def layout(self):
        names, copies, also = {**self._body_names(f"{self.family}."), **self.head_names}, {}, {}
        if hasattr(self, "head"):
            # Files keep the vocabulary head's bias twice; the decoder's is the one that is used.
            bias, decoder = self.bias_name, self.decoder_name
            if self.config.tied:
                names["head.output.bias"] = bias
                copies = {f"{decoder}.weight": "body.tokens.weight"}
                copies[f"{decoder}.bias"] = "head.output.bias"
            else:
                names["head.output"] = decoder
                also = {} if bias == f"{decoder}.bias" else {bias: "head.output.bias"}
        return Layout(
            names,
            prefix=f"{self.family}.",
            spellings=_OLD,
            ignored=self.elsewhere,
            copies=copies,
            also=also,
        )

    def _body_names(self, prefix):
        """The body's lines of the layout, each stored name behind `prefix`."""
        return {
            ours: tuple(prefix + s for s in stored)
            if isinstance(stored, tuple)
            else prefix + stored
            for ours, stored in self.body_names.items()
        }

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        config_json.require(
            stored, position_embedding_type="absolute", is_decoder=False, add_cross_attention=False
        )
        missing = {"max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12}
        stored = {**missing, **stored}
        labels = config_json.labels_from(stored)
        config = config_json.read(cls.config_class, stored, cls.fields, labels=labels)
        rows, first = config.max_len, config.first_position
        if rows <= first:
            raise ValueError(f"max_position_embeddings must be above {first}: got {rows}")
        return replace(config, max_len=rows - first)

    def config_to(self):
        c = self.config
        return {
            **config_json.write(c, self.fields),
            "model_type": self.family,
            "max_position_embeddings": c.max_len + c.first_position,
            **config_json.labels_to(c.labels),
        }


# --- the models


class Bert(BertModel):
    """The encoder without a head: hidden states (batch, tokens, d_model); `pool` reads [CLS]."""

    architecture = "BertModel"

    @property
    def pooled(self):
        """Whether there is a pooler: files of a masked model have none."""
        return self.config.pooler

    def pool(self, hidden):
        """tanh(W x) of the first token, [CLS]: (batch, d_model)."""
        if not self.pooled:
            raise ValueError("this model has no pooler: its files hold none")
        return super().pool(hidden)

    def _body_names(self, prefix):
        return super()._body_names("")

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        config = super().config_from(stored, checkpoint)
        held = "" if checkpoint is None else " ".join(checkpoint.names)
        return config if "pooler.dense." in held or not held else replace(config, pooler=False)


class MaskedLMHead(nn.Module):
    """Logits of the hidden token: E LN(φ(W x)) + b, with the token embedding E when tied."""

    def __init__(self, config, tokens):
        super().__init__()
        d = config.d_model
        self.activation = config.head_activation
        self.dense = nn.Linear(d, d)
        self.norm = LayerNorm(d, config.eps)
        self.output = nn.Linear(d, config.vocab_size)
        if config.tied:
            self.output.weight = tokens.weight

    def forward(self, x):
        """(…, d_model) → (…, vocab_size)."""
        return self.output(self.norm(ACTIVATIONS[self.activation](self.dense(x))))


class BertForMaskedLM(BertModel):
    """Logits of the token at each place: (batch, tokens, vocab_size)."""

    def build(self, config):
        """The head over the vocabulary."""
        self.head = MaskedLMHead(config, self.body.tokens)

    def read(self, hidden):
        """(batch, tokens, vocab_size)."""
        return self.head(hidden)

    def loss(self, input_ids, targets, attention_mask=None, *, segment_ids=None):
        """Mean cross-entropy of the hidden tokens, in nats: scalar.

        targets (batch, tokens): the token where one is to be guessed, −100 elsewhere. Logits are
        computed for those places alone.
        """
        hidden = self.body(input_ids, attention_mask, segment_ids)
        asked = targets >= 0
        return F.cross_entropy(self.head(hidden[asked]).float(), targets[asked])


class BertForPreTraining(BertModel):
    """Both objectives: (logits of tokens, logits of "is the second text the next one?").

    The second are (batch, 2): class 0 says that it is, class 1 that it is a random one.
    """

    pooled = True

    def build(self, config):
        """The heads over the vocabulary and over the two answers."""
        self.head = MaskedLMHead(config, self.body.tokens)
        self.next_sentence = nn.Linear(config.d_model, 2)

    def read(self, hidden):
        """(batch, tokens, vocab_size) and (batch, 2)."""
        return self.head(hidden), self.next_sentence(self.pool(hidden))

    def loss(self, input_ids, targets, is_random, attention_mask=None, *, segment_ids=None):
        """Both mean cross-entropies' sum, in nats; is_random (batch,): 1 for a random text."""
        hidden = self.body(input_ids, attention_mask, segment_ids)
        asked = targets >= 0
        masked = F.cross_entropy(self.head(hidden[asked]).float(), targets[asked])
        answers = self.next_sentence(self.pool(hidden)).float()
        return masked + F.cross_entropy(answers, is_random)


class BertForNextSentencePrediction(BertModel):
    """Logits of "is it the next text?" (0: yes, 1: a random one): (batch, 2)."""

    pooled = True

    def build(self, config):
        """The head over the two answers."""
        self.next_sentence = nn.Linear(config.d_model, 2)

    def read(self, hidden):
        """(batch, 2)."""
        return self.next_sentence(self.pool(hidden))


class BertForSequenceClassification(BertModel):
    """Logits of a whole text's class, read from [CLS] through the pooler: (batch, labels)."""

    pooled = True

    def build(self, config):
        """A linear classifier."""
        self.classifier = nn.Linear(config.d_model, len(config.labels))

    def read(self, hidden):
        """(batch, labels)."""
        return self.classifier(self.dropout(self.pool(hidden)))


class BertForTokenClassification(BertModel):
    """Logits of each token's class: (batch, tokens, labels)."""

    def build(self, config):
        """A linear classifier."""
        self.classifier = nn.Linear(config.d_model, len(config.labels))

    def read(self, hidden):
        """(batch, tokens, labels)."""
        return self.classifier(self.dropout(hidden))


class BertForQuestionAnswering(BertModel):
    """Logits of "the answer starts here" and "it ends here": (batch, tokens, 2)."""

    def build(self, config):
        """Two scores a token."""
        self.span = nn.Linear(config.d_model, 2)

    def read(self, hidden):
        """(batch, tokens, 2): starts, then ends."""
        return self.span(hidden)
