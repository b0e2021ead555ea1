"""Reading config.json's content into our configs, and back.

A family's table goes from our field to config.json's key, or to several keys, the first of which
is written. `read` holds every value to the type that our field is annotated with, and says what is
wrong in config.json's own words.
"""

import re
import types
import typing
from numbers import Integral, Real

# config.json's name of an activation: ours. The first of each is what we write.
_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple: "a list of whole numbers",
    dict: "an object",
    types.NoneType: "null",
}


def read(config_class, stored, table, **others):
    """A `config_class` from config.json's content: of each key that is there, the field's value.

    others: fields that are not read from one key; they count before the table's. null is taken
    where the field's annotation has None. Raises ValueError, naming the key, for a value of
    another type or that makes no config.
    """
    hints, found = typing.get_type_hints(config_class), {}
    for ours, keys in table.items():
        key = next((k for k in _listed(keys) if k in stored), None)
        if key is not None and ours not in others:
            found[ours] = value(key, stored[key], hints[ours])
            if ours == "activation":
                found[ours] = activation_from(key, found[ours])
    try:
        return config_class(**found, **others)
    except (TypeError, ValueError) as error:
        theirs = {ours: _listed(keys)[0] for ours, keys in table.items()}
        words = re.sub(r"\w+", lambda m: theirs.get(m[0], m[0]), str(error))
        raise ValueError(words) from error


def write(config, table):
    """The reverse: {key: our field's value}, the activation under config.json's name."""
    out = {_listed(keys)[0]: getattr(config, ours) for ours, keys in table.items()}
    if "activation" in table:
        out[_listed(table["activation"])[0]] = activation_to(config.activation)
    return out


def value(key, given, kind):
    """`given` as one of the types that the annotation `kind` names; ValueError naming the key."""
    kinds = typing.get_args(kind) or (kind,)
    for one in kinds:
        if _is(given, one):
            return tuple(given) if one is tuple else one(given) if one is float else given
    expected = " or ".join(_WORDS.get(one, one.__name__) for one in kinds)
    raise ValueError(f"{key} must be {expected}: got {given!r}")


def require(stored, **expected):
    """Raise unless these keys, where they are there, have the one value that we compute with."""
    for key, wanted in expected.items():
        if stored.get(key) not in (None, wanted):
            raise ValueError(f"{key} must be {wanted!r}, we have no other: got {stored[key]!r}")


def activation_from(key, name):
    """Our name of an activation; ValueError for one that we lack."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"{key} must be one of {', '.join(_ACTIVATIONS)}: got {name!r}")
    return _ACTIVATIONS[name]


def activation_to(name):
    """config.json's name of our activation."""
    return next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == name)


def labels_from(stored):
    """The names of the classes, in order; two when none are named."""
    named = stored.get("id2label")
    if named is None or named == {}:
        count = value("num_labels", stored.get("num_labels"), int | None)
        return tuple(f"LABEL_{i}" for i in range(count or 2))
    if not isinstance(named, dict) or set(named) != {str(i) for i in range(len(named))}:
        raise ValueError(f"id2label must count from 0 without a gap: got {named!r}")
    return tuple(named[str(i)] for i in range(len(named)))


def labels_to(labels):
    """config.json's two tables of the classes' names."""
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def _is(given, kind):
    if kind is float:
        return isinstance(given, Real) and not isinstance(given, bool)
    if kind is int:
        return isinstance(given, Integral) and not isinstance(given, bool)
    if kind is tuple:
        return isinstance(given, list) and len(given) > 0 and all(_is(one, int) for one in given)
    return isinstance(given, kind)


def _listed(keys):
    return (keys,) if isinstance(keys, str) else keys
