"""Small loops in C for CPUs: built once, where a C compiler is there, and called through ctypes.

A module keeps its loop in a `.c` file beside it, written for a number REAL with names NAME(f).
It is compiled for float and for double, for this machine's own vector instructions, into the
cache folder, under a name made of its text, the flags and the processor. `LLMBOOK_COMPILER` names
another compiler, or `none` to do without. Such a loop is never the only way: what it computes has
a plain twin in torch.
"""

import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

SHARE = 6  # milliseconds of work for each thread; two were slower than one below about twice that
LANES = 32  # numbers of a block: whole vectors on every machine
_FLAGS = "-O3 -march=native -fPIC -std=gnu11 -fopenmp-simd -fno-math-errno -fno-trapping-math"

# exp for the float loop: 2ⁿ · exp(r) with |r| ≤ ln 2 / 2 and a polynomial of degree 6, no branch,
# so that it vectorises; relative error below 3e-7. Below −87 it gives 0 where exp is denormal.
_HEAD = """
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
#define W %d
static inline float exponential_float(float x) {
  float kept = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  float n = kept * 1.44269504f + 12582912.0f;
  n -= 12582912.0f;
  float r = kept - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.3930436e-3f;
  p = p * r + 8.3606483e-3f;
  p = p * r + 4.1666482e-2f;
  p = p * r + 1.6666554e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  union { int32_t i; float f; } two = {((int32_t)n + 127) << 23};
  float out = p * two.f;
  out = x < -87.0f ? 0.0f : out;
  return x > 88.0f ? INFINITY : out;
}
static inline double exponential_double(double x) { return exp(x); }
"""
_PER_TYPE = """
#define REAL {real}
#define NAME(f) f##_{real}
{body}
#undef REAL
#undef NAME
"""
_TYPES = {torch.float32: "float", torch.float64: "double"}


class Loops:
    """The C functions of one source file, built at the first use; `why_not()` tells if they can.

    what: what is built, for error messages ("the scan"). flags: further ones for the compiler.
    """

    def __init__(self, source, what, flags=""):
        self.source, self.what, self.flags = Path(source), what, flags

    def why_not(self):
        """Reason why the loops cannot run on this machine, or None. The first call builds."""
        return _library(self.source, self.flags)[1]

    def call(self, name, dtype, tensors, sizes):
        """Run the function `name` for numbers of `dtype`: pointers (None is NULL), then longs.

        Raises TypeError for a tensor that C would misread: one that is not contiguous, not on the
        CPU, or neither of `dtype` nor of bytes nor int64 (which place holds which is not looked
        at).
        MemoryError where the function returns not 0.
        """
        for x in tensors:
            if x is not None and not (
                x.is_contiguous()
                and x.device.type == "cpu"
                and x.dtype in (dtype, torch.uint8, torch.int64)
            ):
                raise TypeError(
                    f"{self.what} must get contiguous {dtype} on the CPU: got {x.dtype} with "
                    f"strides {x.stride()} on {x.device}"
                )
        function = getattr(_library(self.source, self.flags)[0], f"{name}_{_TYPES[dtype]}")
        pointers = [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in tensors]
        if function(*pointers, *map(ctypes.c_long, sizes)):
            raise MemoryError(f"{self.what} could not get its working memory in {name}")


def shares_of(n, milliseconds=math.inf):
    """How many threads share n pieces of work: at least one.

    milliseconds: about what one thread would take for all. For less than SHARE a second one is not
    worth waking: PyTorch's own wait awake on the same cores for a while after each operation.
    """
    return int(max(1, min(torch.get_num_threads(), n, milliseconds // SHARE)))


def in_shares(run, n, shares=None, pool=None):
    """run(first, last + 1, share) for even shares of 0 … n − 1, a thread each.

    pool: a `ThreadPoolExecutor` that stays, for calls that take a millisecond.
    """
    shares = shares_of(n) if shares is None else shares
    bounds = [n * i // shares for i in range(shares + 1)]
    if shares == 1:
        run(0, n, 0)
        return
    # ctypes lets go of Python's lock during a call, so threads are enough; this one takes a share.
    with nullcontext(pool) if pool else ThreadPoolExecutor(shares - 1) as pool:
        others = [pool.submit(run, *bounds[i : i + 2], i) for i in range(1, shares)]
        run(0, bounds[1], 0)
        for other in others:
            other.result()


@contextmanager
def one_thread():
    """PyTorch's own operations in one thread: else its threads and a pool's wait for each other.

    Small operations between calls of `in_shares` would wake them for less than waking costs.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compiler():
    """The C compiler that builds it, as a path, or None."""
    named = os.environ.get("LLMBOOK_COMPILER", "").strip()
    if named.lower() == "none":
        return None
    names = [named] if named else [os.environ.get("CC", "cc"), "gcc", "clang"]
    return next(filter(None, map(shutil.which, names)), None)


@functools.cache
def _library(source, flags):
    """`library` of a file's loops, for float and for double."""
    body = source.read_text(encoding="utf-8")
    parts = [_PER_TYPE.format(real=real, body=body) for real in _TYPES.values()]
    return library("".join(parts), source.stem, flags)


def library(text, stem, flags=""):
    """(the loaded library of a C text, None), or (None, why there is none).

    Before the text stand the includes, W and `exponential_float` of the head above. stem: what the
    file's name in the cache folder begins with.
    """
    text = _HEAD % LANES + text
    program = compiler()
    if program is None:
        named = os.environ.get("LLMBOOK_COMPILER")
        told = f"it names {named!r}" if named else "it can name one"
        return None, f"there is no C compiler (cc, gcc or clang, or LLMBOOK_COMPILER: {told})"
    machine = f"{platform.machine()} {_processor()}"
    flags = f"{_FLAGS} {flags}"
    name = hashlib.sha256("\n".join([text, flags, program, machine]).encode()).hexdigest()[:20]
    try:
        path = _built(program, text, flags, f"{stem}-{name}.so")
        return ctypes.CDLL(str(path)), None
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        return None, f"building it with {program} failed: {detail.strip()[-300:]}"


def _built(program, text, flags, name):
    from llmbook.data.folders import cache_folder

    folder = cache_folder() / "compiled"
    path = folder / name
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        code, made = Path(work, "loops.c"), Path(work, "loops.so")
        code.write_text(text, encoding="utf-8")
        command = [program, *flags.split(), "-shared", str(code), "-o", str(made), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        made.replace(path)  # whole, or not there: another process may build at the same time
    return path


def _processor():
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return " ".join([line for line in lines if line.startswith(("model name", "flags"))][:2])
