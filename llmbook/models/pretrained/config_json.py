"""Small helpers for reading config.json's content into our configs, and back."""

# config.json's name of an activation: ours. The first of each is what we write.
_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


def activation_from(name):
    """Our name of an activation; ValueError for one that we lack."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"the activation must be one of {tuple(_ACTIVATIONS)}: got {name!r}")
    return _ACTIVATIONS[name]


def activation_to(name):
    """config.json's name of our activation."""
    return next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == name)


def fields_from(stored, table, **others):
    """Arguments of our config: {our field: stored[key]} for the keys that are there."""
    found = {ours: stored[key] for ours, key in table.items() if stored.get(key) is not None}
    return {**found, **others}


def fields_to(config, table):
    """The reverse: {key: our field's value}."""
    return {key: getattr(config, ours) for ours, key in table.items()}


def require(stored, **expected):
    """Raise unless these keys, where they are there, have the one value that we compute with."""
    for key, value in expected.items():
        if stored.get(key) not in (None, value):
            raise ValueError(f"{key} must be {value!r}, we have no other: got {stored[key]!r}")


def labels_from(stored):
    """The names of the classes, in order; two when none are named."""
    named = stored.get("id2label")
    if not named:
        return tuple(f"LABEL_{i}" for i in range(stored.get("num_labels") or 2))
    try:
        return tuple(named[str(i)] for i in range(len(named)))
    except KeyError as error:
        raise ValueError(f"id2label must count from 0 without a gap: got {named}") from error


def labels_to(labels):
    """config.json's two tables of the classes' names."""
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
