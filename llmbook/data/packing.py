"""From documents to batches: one stream of tokens, cut into windows, shuffled anew each epoch.

    stream:  ⊔ document 1 ⊔ document 2 ⊔ … ⊔       ⊔: the end-of-text token
    window:  length + 1 tokens; inputs are all but the last, targets all but the first

Windows do not overlap but in the one token that ends a window's targets and begins the next one's
inputs, so an epoch predicts every token once. Which windows make up the batch of a step is a
function of (seed, step, rank, world): to resume, a step's number is all that need be known.
"""

import numpy as np
import torch

from llmbook.checks import tensor, wholes
from llmbook.seeds import as_generator, generator


def pack(documents, end_of_text=None):
    """One stream from documents' ids: an int32 tensor (tokens,).

    documents: an iterable of lists of ids. end_of_text: the id that stands before the first,
    between any two and after the last; with None there is nothing between.
    """
    edge = np.asarray([] if end_of_text is None else [end_of_text], dtype=np.int32)
    parts = [edge]
    for document in documents:
        parts += [np.asarray(document, dtype=np.int32), edge]
    return torch.from_numpy(np.concatenate(parts))


def pad(rows, value):
    """Lists of whole numbers as one batch, padded on the right: ids, mask, int64 (batch, longest).

    value: what stands behind a shorter row. mask: 1 where a row has a number, 0 behind it. Raises
    ValueError without rows, or for an empty one.
    """
    if not rows or not all(len(row) for row in rows):
        raise ValueError("rows must be one or more lists of token ids, none empty")
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), value, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


class Windows:
    """Windows of a stream, in an endless order that (seed, epoch) decides; random access to it.

    ids: whole numbers (tokens,); length: tokens of inputs. `len(windows)`: windows an epoch. Each
    epoch cuts the stream from another offset, so that texts are not cut at the same places again,
    and has the same number of windows: all but less than two windows' tokens are targets, each
    once. A batch that reaches over the end of an epoch takes its last windows from the next.
    """

    def __init__(self, ids, length, seed=0):
        if tensor("ids", ids, "tokens").is_floating_point():
            raise TypeError(f"ids must be whole numbers (tokens,): got {ids.dtype}")
        wholes(1, length=length)
        wholes(0, seed=seed)
        if len(ids) < 2 * length:
            raise ValueError(
                f"ids must hold at least 2 · length = {2 * length} tokens: got {len(ids)}"
            )
        self.ids, self.length, self.seed = ids, length, seed
        self._offsets = torch.arange(length + 1)
        self._epochs = {}

    def __len__(self):
        return (len(self.ids) - self.length) // self.length

    def starts(self, epoch):
        """Where the windows of an epoch start, in their order: int64 (windows,)."""
        if epoch not in self._epochs:
            draw = generator(self.seed, epoch)
            first = torch.randint(self.length, (1,), generator=draw)
            order = torch.randperm(len(self), generator=draw)
            # A batch touches two epochs at most, unless it is larger than one.
            self._epochs = {e: s for e, s in self._epochs.items() if abs(e - epoch) <= 1}
            self._epochs[epoch] = first + self.length * order
        return self._epochs[epoch]

    def samples(self, first, count):
        """Starts of `count` windows of the endless order, from number `first` on."""
        wholes(0, first=first)
        wholes(1, count=count)
        parts, n = [], len(self)
        while count:
            epoch, place = divmod(first, n)
            part = self.starts(epoch)[place : place + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return torch.cat(parts)

    def batch(self, step, batch_size, rank=0, world=1):
        """The batch of a step: inputs and targets, int64 (batch_size / world, length).

        batch_size: over all processes, which take equal parts of it. Whatever the world, a step's
        batch is the same.
        """
        wholes(1, batch_size=batch_size, world=world)
        if not 0 <= rank < world or batch_size % world:
            raise ValueError(
                "world must divide batch_size, and rank be from 0 to world − 1: "
                f"got batch_size={batch_size}, world={world}, rank={rank}"
            )
        share = batch_size // world
        starts = self.samples(step * batch_size + rank * share, share)
        window = self.ids[starts[:, None] + self._offsets].long()
        return window[:, :-1], window[:, 1:]


def batches(ids, batch, length, generator=0):
    """Endless random windows of a text for next-token prediction: yields `(inputs, targets)`.

    targets[b, t] = ids[start_b + t + 1]: the token after inputs[b, t].
    ids: (tokens,) int64; inputs, targets: (batch, length) int64, on the device of `ids`. Windows
    start anywhere and may overlap. `generator`: a seed or a CPU `torch.Generator`; with the same
    seed the same batches, on every device. Raises ValueError/TypeError, at the call, for unfit
    arguments.
    """
    tensor("ids", ids, "tokens", torch.int64)
    wholes(1, batch=batch, length=length)
    if len(ids) < length + 1:
        raise ValueError(f"ids must hold length + 1 = {length + 1} tokens or more: got {len(ids)}")
    return _random_windows(ids, batch, length, as_generator(generator))


def _random_windows(ids, batch, length, draw):
    offsets = torch.arange(length + 1, device=ids.device)
    while True:
        starts = torch.randint(len(ids) - length, (batch, 1), generator=draw)
        window = ids[starts.to(ids.device) + offsets]  # (batch, length + 1)
        yield window[:, :-1], window[:, 1:]
