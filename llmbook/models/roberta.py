"""RoBERTa: BERT's network, trained longer on more text, without next-sentence prediction.

One segment; positions start behind pad_id and pass over padding; the masked-token head always has
GELU. Everything else is in bert.py. Source: Liu et al. 2019.
"""

from dataclasses import dataclass

from torch import nn

from llmbook.checks import whole
from llmbook.models.bert import (
    Bert,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    Body,
)


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """As `BertConfig`. Rows 0 to pad_id of the position table belong to padding."""

    vocab_size: int = 50265
    n_segments: int = 1
    eps: float = 1e-5
    pad_id: int = 1

    def __post_init__(self):
        whole("pad_id", self.pad_id, least=0)
        super().__post_init__()

    @property
    def first_position(self):
        """The row of the position table that the first token takes."""
        return self.pad_id + 1

    @property
    def head_activation(self):
        """φ in the masked-token head: always GELU."""
        return "gelu"


class RobertaBody(Body):
    """Embeddings and layers: input_ids → hidden states."""

    def rows(self, input_ids):
        """Rows of the position table: (batch, tokens). Padding is passed over (row pad_id)."""
        real = (input_ids != self.config.pad_id).long()
        return real.cumsum(-1) * real + self.config.pad_id


class RobertaFamily(nn.Module):
    """What RoBERTa's models have in place of BERT's: names in files, config, body."""

    family = "roberta"
    config_class = RobertaConfig
    body_class = RobertaBody
    bias_name = "lm_head.bias"
    decoder_name = "lm_head.decoder"
    head_names = {
        "head.dense": "lm_head.dense",
        "head.norm": "lm_head.layer_norm",
        "classifier": "classifier",
        "span": "qa_outputs",
    }


class Roberta(RobertaFamily, Bert):
    """RoBERTa without a head: hidden states."""

    architecture = "RobertaModel"


class RobertaForMaskedLM(RobertaFamily, BertForMaskedLM):
    """RoBERTa with its head over the vocabulary."""


class RobertaForSequenceClassification(RobertaFamily, BertForSequenceClassification):
    """RoBERTa's classifier, W tanh(W' x) with dropout before each; W' stands where BERT pools."""

    head_names = {"pooler": "classifier.dense", "classifier": "classifier.out_proj"}

    def pool(self, hidden):
        """tanh(W' dropout(x)) of the first token: (batch, d_model)."""
        return super().pool(self.dropout(hidden[:, :1]))


class RobertaForTokenClassification(RobertaFamily, BertForTokenClassification):
    """RoBERTa with a class for each token."""


class RobertaForQuestionAnswering(RobertaFamily, BertForQuestionAnswering):
    """RoBERTa with the start and end of an answer."""
