"""Random numbers that depend on what they are for: `generator(seed, "order", epoch)`.

    seed/what/…  → sha256 →  56 bits  →  torch.Generator

What is drawn for a step is a function of (seed, step): it doesn't matter what was drawn before, so
a resumed run needs only the step's number. And two steps, or two seeds, never share their draws,
as `1000 * seed + step` lets seed 0 at step 1000 share those of seed 1 at step 0.
"""

import hashlib
from numbers import Integral

import torch

from llmbook.checks import whole


def number(seed, *what):
    """A whole number from 0 to 2^56 − 1 for a seed and what it is for; equal on every machine.

    what: whole numbers and names. A name has no "/" in it, so that ("a/b",) and ("a", "b") differ.
    """
    parts = [whole("seed", seed, least=0)]
    for part in what:
        if isinstance(part, str):
            if "/" in part or not part or part.lstrip("-").isdecimal():
                raise ValueError(f"what must be names without a slash, or numbers: got {part!r}")
        else:
            whole("what", part)
        parts.append(part)
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def generator(seed, *what):
    """A CPU `torch.Generator` for a seed and what it is for; see `number`."""
    return torch.Generator().manual_seed(number(seed, *what))


def as_generator(given):
    """A CPU `torch.Generator` from a plain seed, or itself: what a `generator` argument may be.

    The same seed draws the same numbers each time; a generator moves on.
    """
    if isinstance(given, torch.Generator):
        if given.device.type != "cpu":
            raise ValueError(f"generator must be a CPU generator: got one on {given.device}")
        return given
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise TypeError(f"generator must be a seed (int) or a torch.Generator: got {given!r}")
    return torch.Generator().manual_seed(int(given))
