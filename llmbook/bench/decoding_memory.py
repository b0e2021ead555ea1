"""What decoding takes besides its time: memory at its peak, and the seconds to build the C step.

Both are measured in a fresh process: the peak of its memory while a model that is there writes, in
units of weights and cache; and an empty cache folder for the compiler.
"""

import math
import tempfile
import time

import torch

from llmbook.bench import memory
from llmbook.decoding import compiled, generate
from llmbook.models.gpt import GPT, GPTConfig


def measured_peak(sizes, prompt, new):
    """What weights and decoding hold at the peak; to be called in a fresh process."""
    torch.set_num_threads(1)
    _write(GPT(GPTConfig(16, 8, 8, 1, 2)).eval(), 2, 3)  # what is imported and built on first use
    model = GPT(GPTConfig(*sizes)).eval()
    held = {p.data_ptr(): p.nbytes for p in model.parameters()}
    weights = sum(held.values())
    with memory.Peak() as peak:
        _write(model, prompt, new)
    return (weights + peak.bytes) / (weights + model.new_cache(1, prompt + new - 1).nbytes)


def _write(model, prompt, new):
    generate(model, torch.zeros(1, prompt, dtype=torch.int64), max_new_tokens=new, eos_id=())


def measured_build():
    """Seconds to build the compiled step, None where it cannot be; in a fresh process."""
    began = time.perf_counter()
    why = compiled._library()[1]
    return None if why else time.perf_counter() - began


def peak(size, prompt, new):
    """Peak of memory in units of weights and cache, one row; None where the system doesn't tell.

    size: vocab_size, d_model, n_layers and n_heads of a GPT with room for prompt and new tokens.
    """
    if not memory.is_told():
        return None
    sizes = (size.vocab_size, prompt + new, size.d_model, size.n_layers, size.n_heads)
    return memory.in_fresh_process(measured_peak, sizes, prompt, new)


def build_seconds():
    """How long the compiled step takes to be built; nan where it cannot be."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = memory.in_fresh_process(measured_build, LLMBOOK_CACHE=folder)
    return math.nan if seconds is None else seconds
