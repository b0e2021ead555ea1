"""Bad input, said in one way: `name must be what is expected: got what was given`.

    d_model = whole("d_model", d_model, least=1)
    one_of("backend", backend, BACKENDS)
    share("dropout", dropout)
    token_ids("input_ids", input_ids, vocab_size=512)

Each raises TypeError for a value of the wrong type and ValueError for a wrong value of the right
type, naming the argument, and returns what it was given. Whole numbers are Python's and NumPy's;
True and False are none. A tensor of another dtype is a wrong type, one of another shape a wrong
value.
"""

import math
from numbers import Integral, Real

import torch


def listed(choices):
    """Names in a row, as errors tell them: `a, b, c`."""
    return ", ".join(map(str, choices))


def whole(name, value, *, least=None, most=None):
    """A whole number from `least` to `most`, as an int."""
    expected = "a whole number" + _range(least, most)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be {expected}: got {value!r}")
    value = int(value)
    if (least is not None and value < least) or (most is not None and value > most):
        raise ValueError(f"{name} must be {expected}: got {value}")
    return value


def wholes(least, **values):
    """Several whole numbers of at least `least`, by name."""
    for name, value in values.items():
        whole(name, value, least=least)


def number(name, value, *, least=None, most=None, above=None, below=None):
    """A finite real number within bounds: `least` and `most` belong to them, the others don't."""
    bounds = [("at least", least), ("above", above), ("at most", most), ("below", below)]
    expected = " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)
    if least is not None and most is not None:
        expected = f"from {least} to {most}"
    expected = f"a number {expected}".strip()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {expected}: got {value!r}")
    inside = (
        (least is None or value >= least)
        and (most is None or value <= most)
        and (above is None or value > above)
        and (below is None or value < below)
    )
    if not (inside and math.isfinite(value)):
        raise ValueError(f"{name} must be {expected}: got {value}")
    return value


def positive(name, value):
    """A finite number above 0."""
    return number(name, value, above=0)


def share(name, value, *, zero=True, one=True):
    """A probability, or a part of something: from 0 to 1, each end included unless said."""
    low = {"least": 0} if zero else {"above": 0}
    high = {"most": 1} if one else {"below": 1}
    return number(name, value, **low, **high)


def flag(name, value):
    """True or False, and nothing that only counts as such."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False: got {value!r}")
    return value


def one_of(name, value, choices):
    """One of several names, or of several whole numbers, which come back as an int."""
    kinds = {type(choice) for choice in choices}
    if int in kinds and isinstance(value, Integral) and not isinstance(value, bool):
        value = int(value)
    if not isinstance(value, tuple(kinds)) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{name} must be one of {listed(choices)}: got {value!r}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {listed(choices)}: got {value!r}")
    return value


def divides(name, value, of, total):
    """`value` divides `total`: heads a width, micro-batches a batch."""
    if not value or total % value:
        raise ValueError(f"{name} must divide {of}: got {of}={total}, {name}={value}")
    return value


def tensor(name, value, axes, dtype=None, **sizes):
    """A tensor with these axes, a text such as "batch tokens d_model", `...` for any before.

    dtype: what it must have, or several, or `float` for any floating point. sizes: how long an
    axis must be, by its name; those of other axes have no part in it.
    """
    names = axes.split()
    if not isinstance(value, torch.Tensor):
        expected, got = _expected(names, dtype, sizes), type(value).__name__
        raise TypeError(f"{name} must be a tensor, {expected}: got {got}")
    if dtype is float:
        right = value.is_floating_point()
    else:
        kinds = dtype if isinstance(dtype, tuple | list) else (dtype, None)
        right = value.dtype in kinds or dtype is None
    any_before = names[0] == "..."
    own = names[1:] if any_before else names
    shape = (*value.shape,)
    fits = right and (any_before or len(shape) == len(own)) and len(shape) >= len(own)
    if fits and sizes:
        for axis, size in zip(reversed(own), reversed(shape)):
            fits = fits and sizes.get(axis, size) == size
    if not fits:
        expected = _expected(names, dtype, sizes)
        got = f"{_plain(value.dtype)} {tuple(value.shape)}"
        raise (ValueError if right else TypeError)(f"{name} must be {expected}: got {got}")
    return value


def on_device(whose, device, **tensors):
    """Tensors that are where another one is: `on_device("q", q.device, k=k, v=v)`; None passes."""
    for name, value in tensors.items():
        if value is not None and value.device != device:
            raise ValueError(f"{name} must be on {whose}'s device {device}: got {value.device}")


def token_ids(name, ids, *, vocab_size=None, max_len=None, ignored=None, axes="batch tokens"):
    """Token ids, int64 (batch, tokens): at most max_len tokens, each from 0 to vocab_size − 1.

    ignored: one more value that may stand there, such as the −100 of a masked target. The values
    are looked at on the CPU alone: elsewhere a look would wait for the device, and its own
    assertion ends the program. Under torch.compile they are not looked at either.
    """
    tensor(name, ids, axes, torch.int64)
    if max_len is not None and ids.shape[-1] > max_len:
        raise ValueError(f"{name} must have at most max_len={max_len} tokens: got {ids.shape[-1]}")
    looked_at = vocab_size is not None and ids.device.type == "cpu" and ids.numel()
    if looked_at and not torch.compiler.is_compiling():
        outside = (ids < 0) | (ids >= vocab_size)
        if ignored is not None:
            outside &= ids != ignored
        if outside.any():
            at = tuple(outside.nonzero()[0].tolist())
            raise ValueError(
                f"{name} must be from 0 to vocab_size − 1 = {vocab_size - 1}: "
                f"got {int(ids[at])} at {at}"
            )
    return ids


def text(name, value, *, least=1, most=None):
    """A string of `least` to `most` characters; of at least one unless said."""
    length = _range(least or None, most)
    plural = "s" * ((least, most) != (1, None))
    expected = f"a text{length} character{plural}" if length else "a text"
    if not isinstance(value, str):
        raise TypeError(f"{name} must be {expected}: got {value!r}")
    if len(value) < least or (most is not None and len(value) > most):
        raise ValueError(f"{name} must be {expected}: got {value!r}")
    return value


def _range(least, most):
    if least is not None and most is not None:
        return f" from {least} to {most}"
    if least is not None:
        return f" of at least {least}"
    return "" if most is None else f" of at most {most}"


def _expected(names, dtype, sizes):
    kinds = dtype if isinstance(dtype, tuple | list) else [dtype] * (dtype is not None)
    words = "".join([" or ".join(map(_plain, kinds)), " " * bool(kinds)])
    legend = ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in names)
    return f"{words}({legend}{',' * (len(names) == 1)})"  # as Python writes a shape


def _plain(dtype):
    return "floating point" if dtype is float else str(dtype).removeprefix("torch.")
