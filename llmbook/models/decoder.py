"""What every model that writes from left to right shares: the call, the loss, cache and padding.

    x = embed(ids);  x = block(x), n_layers times;  logits = head(norm(x))

`Decoder` holds that order. What stands in a block, how ids become vectors and what a layer keeps
of the past is each model's own, in its own file.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from llmbook.cache import Caches
from llmbook.checks import tensor, token_ids, whole
from llmbook.losses import IGNORED, next_token_loss
from llmbook.models.common import init_normal, run_layer, token_mask
from llmbook.models.pretrained import Pretrained
from llmbook.ragged import Texts


class Places(NamedTuple):
    """Where the new tokens of a call stand, and what they may see: a block reads what it needs.

    positions: int64 (tokens,) or (batch, tokens), counting tokens alone, not padding.
    mask: bool, broadcastable to (batch, heads, tokens, tokens so far), or None: attention's, to be
    joined with its causal one.
    kept: bool (batch, tokens), False at padding, or None: for layers that mix or count tokens
    without attention (a state, a router).
    texts: `Texts`, or None: where given, the batch is one row without padding, and mask a list,
    one for each of their groups.
    near: as mask, within a window besides; for models of which some layers have one.
    """

    positions: torch.Tensor
    mask: torch.Tensor | list | None
    kept: torch.Tensor | None
    texts: Texts | None = None
    near: torch.Tensor | list | None = None


def _at(hidden, wanted, kept, batch, tokens):
    """The hidden states of the wanted places; kept: of which places there are any, or None."""
    tensor("wanted", wanted, "batch tokens", torch.bool, batch=batch, tokens=tokens)
    if kept is None:
        return hidden[wanted]
    if (wanted & ~kept).any():
        raise ValueError(
            "wanted must be False at padding, where documents is 0 (a target there is −100)"
        )
    return hidden[0, wanted[kept]]


class Decoder(Pretrained, nn.Module):
    """A decoder-only language model: `model(input_ids) → logits`.

    A model makes in `__init__`, in the order in which their weights are drawn, and then calls
    `reset_parameters`:

    * `tokens`, the embedding (an own `embed(input_ids, places)` adds positions to it);
    * `blocks`, a list of modules `block(x, places, cache=None)` → x, each with
      `new_cache(batch, max_len)`, what that layer keeps of the past, and `into_stream`, the
      weights of what it adds to the residual stream. A block may return (x, extra) instead: the
      extras, a router's logits say, are what `extra_loss` gets;
    * `norm` and `head`.

    It overrides what differs: `max_len` where there is a last position, `mask` where a token
    doesn't see everything before it, `extra_loss` where the loss has a second part,
    `reset_parameters`.

    `checkpointing = True` on the model keeps only each block's input for the backward pass and
    computes the rest again: less memory, one more forward pass. `reads_source`: does it take a
    source besides the text that it writes? `shares_prompts`: do its blocks mix tokens by attention
    alone, so that texts which begin alike need not stand one behind the other?
    """

    reads_source = False
    shares_prompts = False
    checkpointing = False
    max_len = None  # the longest text; None where positions have no last

    def __init__(self, config):
        super().__init__()
        self.config = config

    def reset_parameters(self):
        """Weights normal with standard deviation 0.02, biases 0, norms 1.

        What is added to the residual stream starts smaller by 1/√(2 n_layers): there are that many
        additions, and the stream's size should not grow with depth. Source: Radford et al. 2019.
        """
        init_normal(self, 0.02)
        for block in self.blocks:
            for weight in block.into_stream:
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * self.config.n_layers))

    # --- the call

    def forward(
        self,
        input_ids,
        attention_mask=None,
        *,
        cache=None,
        extras=None,
        documents=None,
        wanted=None,
    ):
        """Logits of the next token at every position: (batch, tokens, vocab_size).

        input_ids (batch, tokens) int64. attention_mask (batch, tokens so far): 1 or True for
        tokens and 0 for padding, on either side; positions count the tokens alone. cache: from
        `new_cache`, filled with earlier tokens; input_ids are then the new ones only. extras: a
        list, to which what the blocks give besides is added. documents (batch, tokens) int64, in
        attention_mask's place: several texts in a row, numbered from 1, 0 at padding; a token sees
        its own text alone, and each text counts its places from 0; logits are 0 at padding, which
        costs nothing; or `Texts` of such rows, which may share prompts. wanted: bool (batch,
        tokens), the places whose logits are asked for: (n, vocab_size) in their order, instead of
        all. Raises TypeError or ValueError for ids that are no tokens, a text that is too long,
        and a mask of another shape.
        """
        hidden, found, kept = self._run(input_ids, attention_mask, cache, documents)
        if extras is not None:
            extras += found
        if wanted is not None:
            return self.head(_at(hidden, wanted, kept, *input_ids.shape))
        logits = self.head(hidden)
        if kept is None:
            return logits
        return logits.new_zeros(*kept.shape, logits.shape[-1]).index_put((kept,), logits[0])

    def hidden(self, input_ids, attention_mask=None, *, cache=None):
        """The final normalised hidden states: (batch, tokens, d_model)."""
        return self._run(input_ids, attention_mask, cache)[0]

    def loss(self, input_ids, targets, attention_mask=None, *, documents=None):
        """Mean cross-entropy of the next tokens, in nats: scalar. Targets of −100 do not count.

        targets (batch, tokens) int64: the token after each place, so already shifted by one; where
        documents meet, −100. The model's `extra_loss` is added, where it has one.
        """
        vocab_size = self.config.vocab_size
        token_ids("targets", targets, vocab_size=vocab_size, ignored=IGNORED)
        extras = []  # by a call of the model, for those who wrap it: FSDP gathers its weights then
        asked = {"extras": extras}
        if documents is not None:  # conversations, say, of which most tokens do not count
            asked |= {"documents": documents, "wanted": targets != IGNORED}
            targets = targets[asked["wanted"]]
        loss = next_token_loss(self(input_ids, attention_mask, **asked), targets)
        kept = token_mask(attention_mask, *input_ids.shape)  # with documents no padding is left
        return loss + self.extra_loss(extras, kept) if extras else loss

    def new_cache(self, batch, max_len):
        """An empty cache for `max_len` tokens of each of `batch` texts: a `Caches`."""
        max_len = whole("max_len", max_len, least=1, most=self.max_len)
        return Caches(block.new_cache(batch, max_len) for block in self.blocks)

    def _run(self, input_ids, attention_mask=None, cache=None, documents=None):
        """Final hidden states; what the blocks gave besides, one entry a block; where tokens were.

        With documents the hidden states are those of one row, of the tokens alone, and the last is
        bool (batch, tokens), True at these; else None.
        """
        kept = None
        token_ids("input_ids", input_ids, vocab_size=self.config.vocab_size)
        if documents is None:
            places = self.places(input_ids, attention_mask, 0 if cache is None else cache.length)
        else:
            if attention_mask is not None or cache is not None:
                raise ValueError("documents take the place of attention_mask and cache: give one")
            places = self.places_of_documents(input_ids, documents)
            kept = places.texts.kept
            input_ids = input_ids[kept][None]
        x, extras = self.embed(input_ids, places), []
        for i, block in enumerate(self.blocks):
            x = run_layer(self, block, x, places, None if cache is None else cache[i])
            if isinstance(x, tuple):
                x, extra = x
                extras.append(extra)
        return self.norm(x), extras, kept

    # --- a model's own

    def embed(self, input_ids, places):
        """What the first block reads: (batch, tokens) → (batch, tokens, d_model)."""
        return self.tokens(input_ids)

    def extra_loss(self, extras, kept):
        """What `loss` adds, from the blocks' extras; kept: bool (batch, tokens) or None."""
        raise NotImplementedError(f"{type(self).__name__}'s blocks return extras: say what for")

    def places(self, input_ids, attention_mask=None, past=0):
        """The `Places` of input_ids behind `past` tokens that a cache holds."""
        batch, tokens = input_ids.shape
        total = past + tokens
        if self.max_len is not None and total > self.max_len:
            raise ValueError(
                f"the text must have at most max_len={self.max_len} tokens: got {total}"
            )
        kept, device = token_mask(attention_mask, batch, total), input_ids.device
        mask = self.mask(kept, tokens, total, device)
        near = self.near(mask, tokens, total, device)
        if kept is None:
            positions = torch.arange(past, total, device=device)
            return Places(positions, mask, None, near=near)
        positions = (kept.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
        return Places(positions, mask, kept[:, past:], near=near)

    def places_of_documents(self, input_ids, documents):
        """The `Places` of rows that hold several texts each; see `forward`."""
        batch, tokens = input_ids.shape
        if self.max_len is not None and tokens > self.max_len:
            raise ValueError(
                f"a row must have at most max_len={self.max_len} tokens: got {tokens}"
            )
        texts, device = self._texts(documents, batch, tokens), input_ids.device
        masks = [self.mask(None, n, n, device) for n in texts.longest]
        pairs = zip(masks, texts.longest, strict=True)
        near = [self.near(seen, n, n, device) for seen, n in pairs]
        return Places(texts.positions[None], masks, None, texts, near)

    def _texts(self, documents, batch, tokens):
        if not isinstance(documents, Texts):
            tensor("documents", documents, "batch tokens", torch.int64, batch=batch, tokens=tokens)
            return Texts(documents)
        tensor("documents.kept", documents.kept, "batch tokens", batch=batch, tokens=tokens)
        if documents.shared and not self.shares_prompts:
            raise ValueError(
                f"documents must share no prompt: {type(self).__name__} reads a row in its order"
            )
        return documents

    def mask(self, kept, tokens, total, device):
        """Which of the `total` tokens so far the last `tokens` may see, besides the causal mask.

        kept: bool (batch, total), False at padding, or None → broadcastable to (batch, heads,
        tokens, total), or None where there is nothing to hide.
        """
        return None if kept is None else kept[:, None, None, :]

    def near(self, seen, tokens, total, device):
        """`seen`, what `mask` gave, for layers with a window that not all of a model's have."""
        return None
