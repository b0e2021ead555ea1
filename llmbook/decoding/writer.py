"""A model in the middle of a text: what it has read, what it has written, what it keeps.

The same for a decoder, which continues a prompt, and an encoder–decoder, which reads a source once
and begins with its start token.
"""

import torch

from llmbook.checks import tensor, token_ids, whole
from llmbook.decoding import backends, compiled
from llmbook.decoding.backends import unwrapped
from llmbook.decoding.generation_config import asked
from llmbook.decoding.step import step_for


class Writer:
    """The rows of a batch, each growing by one token at a time, with room for `room` in all.

    tokens (rows, length) int64 is the text so far; `next_logits()` what the model thinks of the
    next token; `append(token)` writes it; `reorder(rows)` is for beams, `crop` for guesses.
    backend: how a token is read, one of backends.py's; short: does nothing but our own code run?
    """

    def __init__(
        self, model, input_ids, attention_mask, start_id, max_new_tokens, use_cache, backend="auto"
    ):
        self.model, own = model, unwrapped(model)
        check_prompt(own, input_ids, attention_mask)
        self.reads_source, self.source, self.source_mask = own.reads_source, None, None
        keep = attention_mask
        if keep is not None:
            keep = keep.bool()
            keep = None if keep.all() else keep  # no padding, no mask to carry along
        if self.reads_source:
            start_id = asked(own, "decoder_start_token_id") if start_id is None else start_id
            start_id = asked(own, "bos_token_id") if start_id is None else start_id
            if start_id is None:
                raise ValueError("start_id must be given: the model's config has none")
            first = torch.full_like(input_ids[:, :1], whole("start_id", start_id, least=0))
            self.source, self.source_mask, keep = input_ids, keep, None
        else:
            first = input_ids
            if keep is not None and not keep[:, -1].all():
                raise ValueError(
                    "a prompt must be padded on the left: attention_mask has 0 in its last column"
                )
        batch, self.begin = first.shape
        room = self.begin + max_new_tokens
        _check_room(own, self.begin, max_new_tokens)
        self.cache = own.new_cache(batch, room - 1) if use_cache else None
        self._text = first.new_zeros(batch, room)
        self._text[:, : self.begin] = first
        self._keep = None
        if keep is not None:
            self._keep = keep.new_ones(batch, room)
            self._keep[:, : self.begin] = keep
        self.length, self.read = self.begin, 0
        self._asked, self._step, self._copies = backend, None, {}
        self.backend = backends.choose(model, self.cache, backend)
        self.short = self.backend != "modules"

    @property
    def tokens(self):
        """The text so far: (rows, length)."""
        return self._text[:, : self.length]

    @property
    def keep(self):
        """Which of `tokens` are no padding: bool (rows, length), or None where all are."""
        return None if self._keep is None else self._keep[:, : self.length]

    def next_logits(self):
        """Logits of the next token of each row: (rows, vocab_size), float32."""
        if not self.short:
            return self.new_logits()[:, -1].float()
        if self.read and self.read == self.length - 1:
            logits = self.step(self._text.select(1, self.read))
        else:  # the last token's alone: all tokens' would be the largest tensor of the call
            new = self._text[:, self.read : self.length]
            hidden = self.model.hidden(new, self.keep, cache=self.cache)
            logits = self.model.head(hidden[:, -1])
        self.read = self.length
        return logits.float()

    def new_logits(self):
        """Logits behind each token not read before: (rows, new tokens, vocab_size)."""
        start = 0 if self.cache is None else self.read
        new = self._text[:, start : self.length]
        if self.backend == "compiled" and start and 1 == len(new) and new.numel() <= compiled.ROWS:
            self.read = self.length
            return self.step.several(new[0])[None]
        if self.reads_source:
            # The cache holds what the source came to: it is read once.
            source, mask = (self.source, self.source_mask) if start == 0 else (None, None)
            logits = self.model(source, new, mask, cache=self.cache)
        else:
            logits = self.model(new, self.keep, cache=self.cache)
        self.read = self.length
        return logits

    @property
    def step(self):
        """The short step over this cache, made when it is first needed."""
        if self._step is None:
            self._step = step_for(self.model, self.cache, self.keep, self.backend, self._copies)
        return self._step

    def append(self, token):
        """Write one token in each row: (rows,) int64."""
        self._text.select(1, self.length).copy_(token)
        self.length += 1

    def crop(self, length):
        """Go back to the first `length` tokens, in the cache too."""
        self.length = length
        if self.read > length:
            self.read = length
            if self.cache is not None:
                self.cache.crop(length)

    def reorder(self, rows):
        """Let row i continue row rows[i]; the number of rows may change."""
        before, self._text = len(self._text), self._text[rows]
        self._keep = None if self._keep is None else self._keep[rows]
        if self.source is not None:
            self.source = self.source[rows]
            self.source_mask = None if self.source_mask is None else self.source_mask[rows]
        if self.cache is not None:
            self.cache.reorder(rows)
            self._step = None
            if len(rows) != before:
                self.backend = backends.choose(self.model, self.cache, self._asked)


def _check_room(model, begin, new):
    """Raise where positions have a last one, and the text comes to it too soon."""
    most = getattr(model, "max_len", None)
    if most is not None and begin + new - 1 > most:  # the last token is not read again
        raise ValueError(
            f"the text that is read, input_ids and max_new_tokens less one, must fit the model's "
            f"max_len={most} tokens: got {begin} + {new} − 1 = {begin + new - 1}"
        )


def check_prompt(model, input_ids, attention_mask):
    """Raise unless ids are int64 (batch, tokens) of the vocabulary, with a mask of that shape."""
    vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
    token_ids("input_ids", input_ids, vocab_size=vocab_size)
    if 0 in input_ids.shape:
        raise ValueError(
            "input_ids must be (batch, tokens) with at least one of each: got "
            f"{tuple(input_ids.shape)}; begin an empty prompt with the model's first token"
        )
    if attention_mask is not None:
        batch, tokens = input_ids.shape
        tensor("attention_mask", attention_mask, "batch tokens", batch=batch, tokens=tokens)
