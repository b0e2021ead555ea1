"""The three families as classes: what each is built of, and what it is asked.

Encoder          BERT   [CLS] text [SEP], 40% of the tokens hidden  → the hidden ones
Decoder          GPT    text                                       → each next token
EncoderDecoder   T5     text with spans cut out                     → the spans
"""

from dataclasses import dataclass

import torch

from llmbook.checks import one_of
from llmbook.data.corruption import masked_batch, span_batch
from llmbook.models.bert import BertConfig, BertForMaskedLM
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.t5 import T5, T5Config
from llmbook.positions import sinusoidal
from llmbook.tokenization import END_OF_TEXT

LENGTH = 128  # tokens of text in a window
# Of the encoder's tokens, hidden: a short run gets more questions than with BERT's 15%. Wettig et
# al. (2023) found 40% better for models of BERT-large's size; for this one, nobody compared.
MASKED = 0.4
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(16))
SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", END_OF_TEXT, *SENTINELS)


@dataclass(frozen=True)
class Special:
    """Ids of a tokenizer's special tokens."""

    pad: int
    cls: int
    sep: int
    mask: int
    end: int
    sentinels: tuple

    @classmethod
    def of(cls, tokenizer):
        """Those of a tokenizer. Raises ValueError when it lacks one."""
        ids = tokenizer.special_tokens
        lacking = [name for name in SPECIAL_TOKENS if name not in ids]
        if lacking:
            raise ValueError(f"the tokenizer must have the special token {lacking[0]}")
        first = (ids[name] for name in SPECIAL_TOKENS[:5])
        return cls(*first, tuple(ids[name] for name in SENTINELS))


class Family:
    """What the three have in common: a name, a tokenizer with its special tokens, an objective.

    `build()`: a model with fresh weights, of about 0.98 million parameters; what one spends on a
    head or on cross-attention, it saves in the feed-forward networks. `pretraining_batch(…)`: the
    tensors that `model.loss(*batch)` takes.
    """

    name, objective = "", ""

    def __init__(self, tokenizer):
        self.special, self.vocab_size = Special.of(tokenizer), len(tokenizer)

    def pretraining_batch(self, text, targets, generator):
        """(input_ids, targets) from windows and their next tokens, int64 (batch, tokens)."""
        raise NotImplementedError


class Encoder(Family):
    """BERT: reads in both directions, and fills in what is hidden."""

    name = "encoder"
    objective = "masked tokens, 40% (80% [MASK], 10% any token, 10% kept); no next sentence"

    def build(self, max_len=LENGTH):
        """`BertForMaskedLM`."""
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=self.vocab_size,
                max_len=max_len + 2,
                d_model=128,
                n_layers=4,
                n_heads=4,
                d_ff=496,
                dropout=0.0,
                attention_dropout=0.0,
                pad_id=self.special.pad,
                init_std=0.06,
            )
        )
        table = model.body.positions.weight  # learned, from a start in which near ones are alike
        table.data.copy_(0.08 * sinusoidal(torch.arange(len(table)), table.shape[1]))
        return model

    def pretraining_batch(self, text, targets, generator):
        """The windows between [CLS] and [SEP], and what was hidden of them."""
        special = self.special
        batch = masked_batch(
            [[special.cls, *row, special.sep] for row in text.tolist()],
            mask_id=special.mask,
            pad_id=special.pad,
            vocab_size=self.vocab_size,
            special_ids=(special.cls, special.sep),
            share=MASKED,
            generator=generator,
        )
        return batch["input_ids"], batch["targets"]


class Decoder(Family):
    """GPT: reads from left to right, and continues."""

    name, objective = "decoder", "next token"

    def build(self, max_len=LENGTH):
        """`GPT`."""
        return GPT(
            GPTConfig(
                vocab_size=self.vocab_size,
                max_len=max_len,
                d_model=128,
                n_layers=4,
                n_heads=4,
                d_ff=512,
                eos_id=self.special.end,
            )
        )

    def pretraining_batch(self, text, targets, generator):
        """The text as it is."""
        return text, targets


class EncoderDecoder(Family):
    """T5: reads a source in both directions, and writes from left to right."""

    name, objective = "encoder_decoder", "span corruption, 15% in spans of mean length 3"

    def build(self, max_len=LENGTH):
        """`T5`; its relative positions have no longest text."""
        return T5(
            T5Config(
                vocab_size=self.vocab_size,
                d_model=128,
                n_heads=4,
                head_dim=32,
                d_ff=416,
                n_encoder_layers=2,
                n_decoder_layers=2,
                dropout=0.0,
                pad_id=self.special.pad,
                start_id=self.special.pad,
                eos_id=self.special.end,
            )
        )

    def pretraining_batch(self, text, targets, generator):
        """The windows without some spans, and the spans."""
        batch = span_batch(
            text.tolist(),
            sentinels=self.special.sentinels,
            pad_id=self.special.pad,
            eos_id=self.special.end,
            generator=generator,
        )
        return batch["input_ids"], batch["targets"]


FAMILIES = {cls.name: cls for cls in (Encoder, Decoder, EncoderDecoder)}


def family_named(name, tokenizer):
    """The family of a name, with a tokenizer. Raises ValueError for an unknown one."""
    return FAMILIES[one_of("family", name, FAMILIES)](tokenizer)
