"""What a model writes, held against what it has read: does it use words, and does it copy?"""

import re

import numpy as np
import torch

from llmbook.decoding import generate

_WORD = re.compile(r"[^\W\d_]+")  # a run of letters
_BATCH = 32


def written(model, count, tokens, start_id, *, temperature=1.0, top_p=None, seed=0):
    """What a model writes after the start mark: `count` lists of ids, `tokens` at most in each.

    start_id begins a text and ends it; neither it nor anything after it is in the lists.
    """
    device = next(model.parameters()).device
    out = []
    for i in range(0, count, _BATCH):
        start = torch.full((min(_BATCH, count - i), 1), start_id, device=device)
        ids = generate(
            model,
            start,
            max_new_tokens=tokens,
            temperature=temperature,
            top_p=top_p,
            eos_id=start_id,
            seed=seed + i,
        )
        for row in ids[:, 1:].tolist():
            out.append(row[: row.index(start_id)] if start_id in row else row)
    return out


def words(text):
    """The words of a text: runs of letters, as they stand."""
    return _WORD.findall(text)


def known_share(texts, known):
    """Share of the words of some texts that are in a set of known words; nan without a word."""
    found = [word in known for text in texts for word in words(text)]
    return sum(found) / len(found) if found else float("nan")


def copied_share(texts, stream, length=30):
    """Share of the spans of `length` ids in some texts that stand in a stream just so.

    texts: lists of ids; stream (tokens,): ids, as a tensor or an array. nan where no text is as
    long as a span. Spans are compared by a 64-bit hash.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1: got {length}")
    stream = np.asarray(stream)
    there = _spans(stream, length)
    mine = [_spans(np.asarray(ids, dtype=np.int64), length) for ids in texts]
    mine = np.concatenate([there[:0], *mine])
    return float(np.isin(mine, there).mean()) if len(mine) else float("nan")


def _spans(ids, length):
    """A hash of each span of `length` ids: uint64 (len(ids) − length + 1,)."""
    count = max(0, len(ids) - length + 1)
    out = np.zeros(count, dtype=np.uint64)
    with np.errstate(over="ignore"):  # modulo 2^64
        mixed = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        for j in range(length):
            out *= np.uint64(0xBF58476D1CE4E5B9)
            out += mixed[j : j + count]
    return out
