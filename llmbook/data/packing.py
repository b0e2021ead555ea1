"""From documents to batches: one stream of tokens, cut into windows, shuffled anew each epoch.

    stream:  ⊔ document 1 ⊔ document 2 ⊔ … ⊔       ⊔: the end-of-text token
    window:  length + 1 tokens; inputs are all but the last, targets all but the first

Windows do not overlap but in the one token that ends a window's targets and begins the next one's
inputs, so an epoch predicts every token once. Which windows make up the batch of a step is a
function of (seed, step, rank, world): to resume, a step's number is all that need be known.
"""

import hashlib

import numpy as np
import torch

from llmbook.tokenization.characters import at_least


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


class Windows:
    """Windows of a stream, in an endless order that (seed, epoch) decides; random access to it.

    ids: whole numbers (tokens,); length: tokens of inputs. `len(windows)`: windows an epoch. Each
    epoch cuts the stream from another offset, so that texts are not cut at the same places again,
    and has the same number of windows: all but less than two windows' tokens are targets, each
    once. A batch that reaches over the end of an epoch takes its last windows from the next.
    """

    def __init__(self, ids, length, seed=0):
        if not isinstance(ids, torch.Tensor) or ids.ndim != 1 or ids.is_floating_point():
            raise TypeError("ids must be a tensor of whole numbers (tokens,)")
        at_least(1, length=length)
        at_least(0, seed=seed)
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
            digest = hashlib.sha256(f"{self.seed}/{epoch}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            first = torch.randint(self.length, (1,), generator=generator)
            order = torch.randperm(len(self), generator=generator)
            # A batch touches two epochs at most, unless it is larger than one.
            self._epochs = {e: s for e, s in self._epochs.items() if abs(e - epoch) <= 1}
            self._epochs[epoch] = first + self.length * order
        return self._epochs[epoch]

    def samples(self, first, count):
        """Starts of `count` windows of the endless order, from number `first` on."""
        at_least(0, first=first)
        at_least(1, count=count)
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
        at_least(1, batch_size=batch_size, world=world)
        if not 0 <= rank < world or batch_size % world:
            raise ValueError(
                "world must divide batch_size, and rank be from 0 to world − 1: "
                f"got batch_size={batch_size}, world={world}, rank={rank}"
            )
        share = batch_size // world
        starts = self.samples(step * batch_size + rank * share, share)
        window = self.ids[starts[:, None] + self._offsets].long()
        return window[:, :-1], window[:, 1:]
