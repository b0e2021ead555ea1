"""DistilBERT: BERT with half the layers, taught by BERT what it would have said.

The network is BERT's without segments and without a pooler: a classifier reads [CLS] through a
layer of its own, W ReLU(W' x_[CLS]). Everything else is in bert.py. Source: Sanh et al. 2019.
"""

from dataclasses import dataclass

from torch import nn

from llmbook.checks import share
from llmbook.models.bert import (
    Bert,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)


@dataclass(frozen=True)
class DistilBertConfig(BertConfig):
    """As `BertConfig`. answer_dropout: before the scores of an answer's start and end."""

    n_layers: int = 6
    n_segments: int = 0
    classifier_dropout: float = 0.2
    answer_dropout: float = 0.1
    pooler: bool = False

    def __post_init__(self):
        super().__post_init__()
        share("answer_dropout", self.answer_dropout, one=False)


class DistilBertFamily(nn.Module):
    """What DistilBERT's models have in place of BERT's: names in files, config."""

    family = "distilbert"
    config_class = DistilBertConfig
    fields = {
        "vocab_size": "vocab_size",
        "max_len": "max_position_embeddings",
        "d_model": ("dim", "hidden_size"),
        "n_layers": ("n_layers", "num_hidden_layers"),
        "n_heads": ("n_heads", "num_attention_heads"),
        "d_ff": "hidden_dim",
        "activation": "activation",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "classifier_dropout": "seq_classif_dropout",
        "answer_dropout": "qa_dropout",
        "pad_id": "pad_token_id",
        "tied": "tie_word_embeddings",
        "init_std": "initializer_range",
    }
    bias_name = "vocab_projector.bias"
    decoder_name = "vocab_projector"
    body_names = {
        "body.tokens": "embeddings.word_embeddings",
        "body.positions": "embeddings.position_embeddings",
        "body.norm": "embeddings.LayerNorm",
        "body.layers.*.attend.sublayer.in_proj": tuple(
            f"transformer.layer.*.attention.{n}_lin" for n in "qkv"
        ),
        "body.layers.*.attend.sublayer.out_proj": "transformer.layer.*.attention.out_lin",
        "body.layers.*.attend.norm": "transformer.layer.*.sa_layer_norm",
        "body.layers.*.transform.sublayer.up": "transformer.layer.*.ffn.lin1",
        "body.layers.*.transform.sublayer.down": "transformer.layer.*.ffn.lin2",
        "body.layers.*.transform.norm": "transformer.layer.*.output_layer_norm",
    }
    head_names = {
        "head.dense": "vocab_transform",
        "head.norm": "vocab_layer_norm",
        "reader": "pre_classifier",
        "classifier": "classifier",
        "span": "qa_outputs",
    }
    elsewhere = (
        r"vocab_(transform|layer_norm|projector)\.(weight|bias)",
        r"embeddings\.position_ids",
    )


class DistilBert(DistilBertFamily, Bert):
    """DistilBERT without a head: hidden states."""

    architecture = "DistilBertModel"


class DistilBertForMaskedLM(DistilBertFamily, BertForMaskedLM):
    """DistilBERT with its head over the vocabulary."""


class DistilBertForSequenceClassification(DistilBertFamily, BertForSequenceClassification):
    """Logits of a whole text's class: (batch, labels)."""

    pooled = False

    def build(self, config):
        """The layer that reads [CLS], and the classifier."""
        self.reader = nn.Linear(config.d_model, config.d_model)
        super().build(config)

    def pool(self, hidden):
        """ReLU(W x) of the first token, [CLS]: (batch, d_model)."""
        return self.reader(hidden[:, 0]).relu()


class DistilBertForTokenClassification(DistilBertFamily, BertForTokenClassification):
    """DistilBERT with a class for each token."""

    def build(self, config):
        """A linear classifier, behind the layers' own dropout."""
        super().build(config)
        self.dropout = nn.Dropout(config.dropout)


class DistilBertForQuestionAnswering(DistilBertFamily, BertForQuestionAnswering):
    """DistilBERT with the start and end of an answer."""

    def build(self, config):
        """Two scores a token."""
        super().build(config)
        self.dropout = nn.Dropout(config.answer_dropout)

    def read(self, hidden):
        """(batch, tokens, 2): starts, then ends."""
        return super().read(self.dropout(hidden))
