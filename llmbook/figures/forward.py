"""A model in the page: weights packed for `forward.js`, and figures that compute with them.

    class Reader(WithWeights):
        script = "reader.js"           # may call linear, lstm, attention, … of forward.js

    Reader("reader", {"weight_ih": …, …})

In a notebook the packed bytes travel with the figure. On a page they would weigh it down, so there
they lie once in `_static/weights/NAME.js`, a script rather than a file to fetch, as a page that
was opened from a disk may fetch nothing; the figure loads it when it first wants it. Base64 adds a
third to float16's bytes, 3.4 MB for the 2.5 of `small`; a server that compresses takes it off.
"""

import base64
import json
from pathlib import Path

import numpy as np
import traitlets

from .interactive import Interactive

_HERE = Path(__file__).parent


def pack(weights):
    """({name: shape}, bytes) of named arrays or tensors, rounded to float16, sorted by name.

    Sorted, as the bytes are cut by the order of the names, and a notebook's file sorts those.
    Raises ValueError for a value that float16 cannot hold.
    """
    shapes, parts = {}, []
    for name, value in sorted(weights.items()):
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        with np.errstate(over="ignore"):
            rounded = array.astype("<f2")
        if not np.isfinite(rounded).all():
            raise ValueError(f"{name} has values that float16 cannot hold")
        shapes[name], parts = list(array.shape), [*parts, rounded.tobytes()]
    return shapes, b"".join(parts)


def page_script(name, shapes, packed):
    """The text of `_static/weights/NAME.js`."""
    held = json.dumps({"shapes": shapes, "bytes": base64.b64encode(packed).decode()})
    return f"(globalThis.llmbookWeights ??= {{}})[{json.dumps(name)}] = {held};\n"


class WithWeights(Interactive):
    """An interactive figure that computes with a model's weights, in the browser.

    `weights_name` names the model among all pages; `weights` are named arrays, rounded to float16.
    """

    weights_name = traitlets.Unicode("").tag(sync=True)
    weights_shapes = traitlets.Dict().tag(sync=True)
    weights = traitlets.Bytes(b"").tag(sync=True)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "script" in cls.__dict__:
            cls._esm = (_HERE / "forward.js").read_text("utf-8") + cls._esm

    def __init__(self, weights_name, weights, **state):
        shapes, packed = pack(weights)
        super().__init__(weights_name=weights_name, weights_shapes=shapes, weights=packed, **state)


def gpt_parts(model):
    """(weights, sizes) of a `GPT` as `makeGPT` of language.js wants them.

    Raises TypeError for another kind of model, ValueError for a form that the page cannot compute.
    """
    if getattr(model, "architecture", None) != "GPT2LMHeadModel":
        raise TypeError(f"model must be a GPT: got {type(model).__name__}")
    if model.config.activation != "gelu_tanh" or not model.config.tied:
        raise ValueError("model must have activation gelu_tanh and a tied head")
    weights = {name: v for name, v in model.state_dict().items() if name != "head.weight"}
    return weights, {name: getattr(model.config, name) for name in ("n_heads", "max_len", "eps")}


class WithModel(WithWeights):
    """An interactive figure in which a GPT reads and writes, in the browser: `language.js`.

    model: a `GPT`, or None for a figure that shows what is stored and nothing else; tokenizer: the
    byte-level `BPETokenizer` that it was trained with; weights_name: the model among all pages.
    Raises TypeError for another kind of model, ValueError for a vocabulary that is not the
    model's.
    """

    model_config = traitlets.Dict().tag(sync=True)
    tokenizer = traitlets.Dict().tag(sync=True)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "script" in cls.__dict__:
            cls._esm = (_HERE / "language.js").read_text("utf-8") + cls._esm

    def __init__(self, model=None, tokenizer=None, weights_name="", **state):
        if model is None:
            super().__init__("", {}, **state)
            return
        weights, sizes = gpt_parts(model)
        config = model.config
        if not weights_name:
            raise ValueError("weights_name must name the model: got none")
        if tokenizer is None or len(tokenizer) != config.vocab_size:
            size = None if tokenizer is None else len(tokenizer)
            raise ValueError(
                f"tokenizer must have the model's {config.vocab_size} tokens: got {size}"
            )
        if type(config.eos_id) is not int:
            raise ValueError(f"model must have one eos_id: got {config.eos_id}")
        sizes["begin"] = config.eos_id
        state |= {"model_config": sizes, "tokenizer": tokenizer_state(tokenizer)}
        super().__init__(weights_name, weights, **state)


def tokenizer_state(tokenizer):
    """A byte-level tokenizer as `makeTokenizer` of language.js reads it."""
    ids = tokenizer.vocab
    tokens = [""] * len(tokenizer)
    for token, i in ids.items():
        tokens[i] = token.hex()
    return {
        "bytes": [ids[bytes([byte])] for byte in range(256)],
        "merges": [[ids[a], ids[b], ids[a + b]] for a, b in tokenizer.merges],
        "tokens": tokens,
    }
