"""What every model that reads with one stack and writes with another shares.

    memory = encode(source);  p(y_t | y_<t, source) = softmax(logits(decode(y_<t, memory)))

A source is read once, whatever is written after it. `EncoderDecoder` holds that order, the loss
and the cache; how a model reads, writes and scores tokens stands in its own file.
"""

import torch
from torch import nn

from llmbook.cache import EncoderDecoderCache
from llmbook.checks import token_ids, whole
from llmbook.losses import label_smoothing
from llmbook.models.common import run_layer
from llmbook.models.pretrained import Pretrained


class EncoderLayer(nn.Module):
    """Self-attention, then the feed-forward network, each with its residual and its norm.

    attend, transform: two sub-layers, `llmbook.layers.Residual` or such.
    """

    def __init__(self, attend, transform):
        super().__init__()
        self.attend, self.transform = attend, transform

    def forward(self, x, mask=None, bias=None):
        """x (batch, tokens, d_model) → the same.

        mask (batch, 1, 1, tokens), True at tokens; bias (1, n_heads, tokens, tokens), added to the
        scores.
        """
        return self.transform(self.attend(x, mask=mask, bias=bias))


class DecoderLayer(nn.Module):
    """Masked self-attention, cross-attention to the encoder's output, feed-forward network."""

    def __init__(self, attend, cross, transform):
        super().__init__()
        self.attend, self.cross, self.transform = attend, cross, transform

    def forward(self, y, memory, mask=None, bias=None, cache=(None, None)):
        """y (batch, targets, d_model), memory (batch, tokens, d_model) → y's shape.

        mask: which tokens of memory are no padding. bias: self-attention's. cache: a `KVCache` for
        each attention.
        """
        y = self.attend(y, bias=bias, causal=True, cache=cache[0])
        y = self.cross(y, memory, mask=mask, cache=cache[1])
        return self.transform(y)


class EncoderDecoder(Pretrained, nn.Module):
    """The common half of an encoder–decoder: `model(input_ids, decoder_input_ids)` → logits.

    A model has three methods of its own:

    * `encode(input_ids, attention_mask)` → memory (batch, tokens, d_model) and its mask or None;
    * `decode(decoder_input_ids, memory, mask, cache)` → hidden states (batch, targets, d_model);
    * `logits(hidden)` → (batch, targets, vocab_size).

    It also has `encoder` and `decoder`, lists of the layers above, which `run_encoder` and
    `run_decoder` go through, and in its config start_id and pad_id. `checkpointing`: as a
    `Decoder`'s.
    """

    reads_source = True  # what a caller asks instead of looking at the signature
    max_len = None  # of what is written; None where positions have no last
    checkpointing = False

    def forward(self, input_ids, decoder_input_ids, attention_mask=None, *, cache=None):
        """Logits of the next target token: (batch, targets, vocab_size).

        input_ids (batch, tokens) int64; decoder_input_ids (batch, targets) int64, starting with
        start_id; attention_mask (batch, tokens), 1 or True for tokens and 0 for padding. cache:
        from `new_cache`; its first call reads the source, later ones take the new targets only and
        leave input_ids aside.
        """
        token_ids("decoder_input_ids", decoder_input_ids, vocab_size=self.config.vocab_size)
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
        return self.logits(self.decode(decoder_input_ids, memory, mask, cache))

    def loss(self, input_ids, targets, attention_mask=None, *, smoothing=0.0):
        """Mean cross-entropy of `targets` (batch, targets), teacher-forced, in nats: scalar.

        Targets of −100 do not count; the decoder reads them shifted by one, behind start_id.
        smoothing: see `label_smoothing`.
        """
        shifted = shift_right(targets, self.config.start_id, self.config.pad_id)
        logits = self(input_ids, shifted, attention_mask).float()
        return label_smoothing(logits.flatten(0, 1), targets.flatten(), smoothing)

    def run_encoder(self, x, mask, bias=None):
        """x through the encoder's layers: (batch, tokens, d_model) → the same."""
        for layer in self.encoder:
            x = run_layer(self, layer, x, mask, bias)
        return x

    def run_decoder(self, y, memory, mask, cache, bias=None):
        """y through the decoder's layers: (batch, targets, d_model) → the same."""
        for i, layer in enumerate(self.decoder):
            kept = (None, None) if cache is None else cache.layer(i, memory)
            y = run_layer(self, layer, y, memory, mask, bias, kept)
        return y

    def new_cache(self, batch, max_len):
        """An empty cache for `max_len` target tokens."""
        max_len = whole("max_len", max_len, least=1, most=self.max_len)
        return EncoderDecoderCache(
            layer.attend.sublayer.new_cache(batch, max_len) for layer in self.decoder
        )


def shift_right(targets, start_id, pad_id):
    """What the decoder reads: targets (batch, n) behind start_id; −100 → pad_id."""
    start = torch.full_like(targets[:, :1], start_id)
    shifted = torch.cat([start, targets[:, :-1]], 1)
    return shifted.masked_fill(shifted < 0, pad_id)
