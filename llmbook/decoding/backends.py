"""How `generate` takes a token through a decoder: by its modules, by the short step, or in C.

modules   the model is called as anyone calls it; every model can
step      one token by the shortest way through PyTorch (step.py)
compiled  the same step in C, one thread, float32 (compiled.py)
"""

import torch

from llmbook.backends import BackendChoice
from llmbook.checks import one_of
from llmbook.decoding import compiled
from llmbook.decoding.step import applies
from llmbook.quantization import QuantizedLinear

BACKENDS = ("modules", "step", "compiled")
SMALL = 2**26  # bytes of weights that one thread reads as fast as several
MANY = 64  # more rows than these keep PyTorch's matrix products busy

_REASONS = {
    "modules": "any model can be called; this one has no shorter way",
    "step": "a token by the shortest way through PyTorch",
    "compiled": "a token in C, compiled for this CPU",
}
_PASSED_OVER = {
    "modules": "the same numbers, with the way through every module and check",
    "step": "the same numbers, with PyTorch's calls between the products",
    "compiled": "not chosen",
}


def explain_backend(model, rows=1, backend="auto", *, tokens=2):
    """Say how `generate` would take `rows` texts through a model's steps, and why not otherwise.

    tokens: how long the texts become; one that outgrows a window is read by the modules. A
    `BackendChoice`, to be printed. May build the compiled step, once. Raises ValueError for a
    backend asked for by name that cannot run, and for texts that are too long.
    """
    own = unwrapped(model)
    cache = None if own.reads_source else own.new_cache(rows, tokens)
    chosen = choose(model, cache, backend)
    why = _REASONS[chosen] if backend == "auto" else "asked for by name"
    others = {name: why_not(name, model, cache) for name in BACKENDS if name != chosen}
    if others.get("compiled", "") is None:
        others["compiled"] = _better_without(model, cache)
    return BackendChoice(chosen, why, {n: r or _PASSED_OVER[n] for n, r in others.items()})


def unwrapped(model):
    """The model inside torch.compile's, DistributedDataParallel's or DataParallel's wrapper.

    It is asked for its attributes; what is called is the wrapper. Raises TypeError for a model
    that doesn't say whether it reads a source.
    """
    while not hasattr(model, "reads_source"):
        inner = getattr(model, "_orig_mod", getattr(model, "module", None))
        if inner is None:
            raise TypeError(
                "model must say reads_source: False for a decoder, True for an encoder–decoder: "
                f"got {type(model).__name__} without"
            )
        model = inner
    return model


def choose(model, cache, backend="auto"):
    """The backend for a model and its cache, or None for no cache."""
    if backend != "auto":
        one_of("backend", backend, ("auto", *BACKENDS))
        if reason := why_not(backend, model, cache):
            raise ValueError(
                f"backend={backend!r} cannot run this model: {reason}; use backend='auto'"
            )
        return backend
    if why_not("step", model, cache):
        return "modules"
    faster = not _better_without(model, cache) and not why_not("compiled", model, cache)
    return "compiled" if faster else "step"


def why_not(backend, model, cache):
    """Why a backend cannot take this model's steps, or None."""
    if backend == "modules":
        return None
    if not applies(model, cache):
        return "it is not a decoder, with a cache, of blocks that the short step knows"
    return compiled.why_not(model, cache) if backend == "compiled" else None


def _better_without(model, cache):
    """Why the compiled step would not be the faster one, or None."""
    rows, threads = cache[0].keys.shape[0], torch.get_num_threads()
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    quantized = any(isinstance(m, QuantizedLinear) for m in model.modules())
    if rows > compiled.ROWS and (quantized or rows > MANY or held > SMALL):
        return f"{rows} rows share PyTorch's matrix products better"
    if quantized:
        return None  # without it they are written out at every step
    if threads > 1 and held > SMALL:
        return f"it has one thread, and {threads} read so many weights faster"
    return None
