"""Text as characters: a vocabulary, and batches for next-character prediction."""

import string
from numbers import Integral

import torch

PRINTABLE = "\n" + "".join(sorted(set(string.printable) - set("\t\n\r\x0b\x0c")))
"""The 96 characters of the documentation corpus: printable ASCII and the newline."""


class Characters:
    """One id for each character, in sorted order: id 0 is the least.

    `Characters(text)` takes the characters that occur in `text`; `Characters()` those of the
    documentation corpus, on every machine the same 96. Raises ValueError for an empty text.
    """

    def __init__(self, text=PRINTABLE):
        if not isinstance(text, str) or not text:
            raise ValueError(f"text must be a string with at least one character: got {text!r}")
        self.characters = "".join(sorted(set(text)))
        self._ids = {character: i for i, character in enumerate(self.characters)}

    def __len__(self):
        return len(self.characters)

    def __contains__(self, character):
        return character in self._ids

    def __repr__(self):
        return f"Characters({self.characters!r})"

    def encode(self, text):
        """Ids of a text: `(characters,)` int64. Raises ValueError for a character it lacks."""
        try:
            return torch.tensor([self._ids[c] for c in text], dtype=torch.int64)
        except KeyError as error:
            raise ValueError(
                f"character {error.args[0]!r} at position {text.index(error.args[0])} is not "
                f"among the {len(self)} of this vocabulary"
            ) from None

    def decode(self, ids):
        """The text of ids: a tensor (characters,) or a list, or one id. Raises ValueError for an unknown id."""
        ids = ids.tolist() if isinstance(ids, torch.Tensor) else ids
        ids = list(ids) if hasattr(ids, "__iter__") else [ids]
        for i in ids:
            if not (isinstance(i, Integral) and 0 <= i < len(self)):
                raise ValueError(f"ids must be whole numbers from 0 to {len(self) - 1}: got {i!r}")
        return "".join(self.characters[i] for i in ids)


def batches(ids, batch, length, generator=0):
    """Endless random windows of a text for next-token prediction: yields `(inputs, targets)`.

    targets[b, t] = ids[start_b + t + 1]: the token after inputs[b, t].
    ids: (tokens,) int64; inputs, targets: (batch, length) int64, on the device of `ids`. Windows
    start anywhere and may overlap. `generator`: a seed or a CPU `torch.Generator`; with the same
    seed the same batches, on every device. Raises ValueError/TypeError, at the call, for unfit
    arguments.
    """
    if not isinstance(ids, torch.Tensor) or ids.dtype != torch.int64 or ids.ndim != 1:
        got = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, torch.Tensor) else type(ids)
        raise TypeError(f"ids must be an int64 tensor (tokens,): got {got}")
    at_least(1, batch=batch, length=length)
    if len(ids) < length + 1:
        raise ValueError(f"ids must hold length + 1 = {length + 1} tokens or more: got {len(ids)}")
    return _windows(ids, batch, length, as_generator(generator))


def _windows(ids, batch, length, generator):
    offsets = torch.arange(length + 1, device=ids.device)
    while True:
        starts = torch.randint(len(ids) - length, (batch, 1), generator=generator)
        window = ids[starts.to(ids.device) + offsets]  # (batch, length + 1)
        yield window[:, :-1], window[:, 1:]


def as_generator(generator):
    """A CPU `torch.Generator` from a seed or itself; TypeError/ValueError for anything else."""
    if isinstance(generator, torch.Generator):
        if generator.device.type != "cpu":
            raise ValueError(f"generator must be a CPU generator: got one on {generator.device}")
        return generator
    if isinstance(generator, bool) or not isinstance(generator, Integral):
        raise TypeError(f"generator must be a seed (int) or a torch.Generator: got {generator!r}")
    return torch.Generator().manual_seed(int(generator))


def at_least(least, **arguments):
    """Raise TypeError or ValueError unless each named argument is a whole number from `least` up."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number: got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}: got {value}")
