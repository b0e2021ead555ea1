"""What decoding takes besides its time: memory at its peak, and the seconds to build the C step.

Both are measured in a fresh process: the peak of its memory above what it held before the model
was made, in units of weights and cache; and an empty cache folder for the compiler.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_PEAK = """
import sys
import torch
from llmbook.decoding import generate
from llmbook.models.gpt import GPT, GPTConfig
def told(name):
    return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1])
def write(*sizes, prompt, new):
    model = GPT(GPTConfig(*sizes)).eval()
    generate(model, torch.zeros(1, prompt, dtype=torch.int64), max_new_tokens=new, eos_id=())
    held = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    return sum(held.values()) + model.new_cache(1, prompt + new - 1).nbytes
*sizes, prompt, new = map(int, sys.argv[1:])
torch.set_num_threads(1)
write(16, 8, 8, 1, 2, prompt=2, new=3)  # what is imported and built on first use
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is counted from here
before = told("VmRSS")
needed = write(*sizes, prompt=prompt, new=new)
print((told("VmHWM") - before) * 1024 / needed)
"""
_BUILD = """
import time
from llmbook.decoding import compiled
began = time.perf_counter()
why = compiled._library()[1]
print("nan" if why else time.perf_counter() - began)
"""


def peak(size, prompt, new):
    """Peak of memory in units of weights and cache, one row; None where the system doesn't tell.

    size: vocab_size, d_model, n_layers and n_heads of a GPT with room for prompt and new tokens.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    sizes = (size.vocab_size, prompt + new, size.d_model, size.n_layers, size.n_heads)
    return _told(_PEAK, *sizes, prompt, new)


def build_seconds():
    """How long the compiled step takes to be built; nan where it cannot be."""
    with tempfile.TemporaryDirectory() as folder:
        return _told(_BUILD, LLMBOOK_CACHE=folder)


def _told(program, *arguments, **environment):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    told = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return float(told.stdout.split()[-1])
