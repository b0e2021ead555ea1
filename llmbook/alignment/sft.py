"""Supervised fine-tuning: the next-token loss on conversations, counted on the answers alone.

    loss = − mean over the tokens that the model is to write of log p(token | all before it)

A batch is (input_ids, targets, documents): ids that the model reads; the token after each,
IGNORED where it isn't the model's to write; which conversation each place belongs to, numbered
from 1, 0 at padding. Padded, a row holds one conversation; packed, as many as fit, and a document
mask keeps them apart, so that loss and gradients are the same.
"""

import torch

from llmbook import checks
from llmbook.alignment.chat import Encoded, encode
from llmbook.losses import IGNORED, count_targets, log_probs
from llmbook.seeds import generator

MEANS = ("tokens", "sequences")


# --- batches


def targets_of(encoded):
    """(ids, targets) of one conversation, shifted by one: lists, one shorter than its tokens."""
    shifted = zip(encoded.ids[1:], encoded.counts[1:])
    return encoded.ids[:-1], [token if counts else IGNORED for token, counts in shifted]


def collate(conversations, *, length=None):
    """One conversation a row, padded on the right: (input_ids, targets, documents).

    conversations: `Encoded`s. length: of every row; the longest one's when None. All three int64
    (batch, tokens). Raises ValueError for one that counts no token, or is longer than the rows.
    """
    return _rows([[conversation] for conversation in conversations], length)


def pack(conversations, length):
    """As many conversations a row as fit into `length` tokens: (input_ids, targets, documents).

    The longest go first, each into the fullest row that has room (best fit), so that little is
    left over and none is cut. Which row one is in depends on the lengths alone.
    """
    checks.whole("length", length, least=1)
    rows, room = [], []
    for conversation in sorted(conversations, key=lambda c: -len(c.ids)):
        need = len(conversation.ids) - 1
        fits = [i for i, free in enumerate(room) if free >= need]
        if not fits:
            rows.append([])
            room.append(length)
            fits = [len(rows) - 1]
        best = min(fits, key=room.__getitem__)
        rows[best].append(conversation)
        room[best] -= need
    return _rows(rows, length)


def _rows(rows, length):
    if not rows:
        raise ValueError("conversations must be one or more: got none")
    for row in rows:
        for conversation in row:
            if not isinstance(conversation, Encoded):
                raise TypeError(
                    f"conversations must be Encoded, as encode makes them: got {conversation!r}"
                )
            if not any(conversation.counts[1:]):
                raise ValueError("every conversation must have a token that counts: got none")
    sizes = [sum(len(conversation.ids) - 1 for conversation in row) for row in rows]
    length = max(sizes) if length is None else checks.whole("length", length, least=1)
    if max(sizes) > length:
        raise ValueError(f"length={length} must hold the longest conversation: got {max(sizes)}")
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    targets, documents = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    for r, row in enumerate(rows):
        at = 0
        for number, conversation in enumerate(row, start=1):
            inputs, wanted = targets_of(conversation)
            end = at + len(inputs)
            ids[r, at:end], targets[r, at:end] = torch.tensor(inputs), torch.tensor(wanted)
            documents[r, at:end] = number
            at = end
    return ids, targets, documents


# --- the loss


def sft_loss(model, input_ids, targets, documents, *, mean="tokens"):
    """Mean of −log p over the tokens that count, in nats: scalar.

    mean: "tokens", each of the batch alike, so that a long answer weighs more; or "sequences",
    the mean over conversations of each one's mean. `llmbook.training.train` takes this as `loss`.
    """
    checks.one_of("mean", mean, MEANS)
    if mean == "tokens":
        return model.loss(input_ids, targets, documents=documents)
    nats = -log_probs(model(input_ids, documents=documents), targets)
    counts = (targets != IGNORED).to(nats)
    rows = torch.arange(len(documents), device=documents.device)[:, None]
    place = rows * (documents.max() + 1) + documents  # a number of its own for each conversation
    sums = nats.new_zeros(int(place.max()) + 1).index_add(0, place.flatten(), nats.flatten())
    sizes = torch.zeros_like(sums).index_add(0, place.flatten(), counts.flatten())
    return (sums[sizes > 0] / sizes[sizes > 0]).mean()


def count_answer_tokens(input_ids, targets, documents):
    """How many tokens the mean is of: `train`'s `count`, for batches in several parts."""
    return count_targets(targets)


# --- an endless order


class Conversations:
    """Batches of conversations by step: `conversations(step)` → (input_ids, targets, documents).

    encoded: a list of `Encoded`. Each epoch goes through all of them in an order of its own, a
    function of (seed, epoch). batch_size: conversations a step. length: pack them into rows of so
    many tokens; None pads instead.
    """

    def __init__(self, encoded, batch_size, *, length=None, seed=0):
        self.encoded = list(encoded)
        checks.whole("batch_size", batch_size, least=1)
        if batch_size > len(self.encoded):
            raise ValueError(
                f"batch_size must be at most the {len(self.encoded)} conversations: "
                f"got {batch_size}"
            )
        self.batch_size, self.length, self.seed = batch_size, length, seed
        self._order = {}

    def __call__(self, step):
        first, n = step * self.batch_size, len(self.encoded)
        chosen = [self._at(*divmod(i, n)) for i in range(first, first + self.batch_size)]
        return collate(chosen) if self.length is None else pack(chosen, self.length)

    def _at(self, epoch, place):
        if epoch not in self._order:
            self._order = {e: o for e, o in self._order.items() if e == epoch - 1}
            draw = generator(self.seed, "conversations", epoch)
            self._order[epoch] = torch.randperm(len(self.encoded), generator=draw).tolist()
        return self.encoded[self._order[epoch][place]]


def encode_examples(tokenizer, examples, *, max_len=None):
    """`Encoded`s of examples that have `messages`, such as `llmbook.data.verifiable`'s."""
    return [encode(tokenizer, example.messages, max_len=max_len) for example in examples]
