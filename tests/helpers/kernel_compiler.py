"""Compile the attention kernels for a GPU that is not there; read what they would take of it."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llmbook.kernels import flash_attention as kernels
from llmbook.kernels.attention_tiles import tile

KERNELS = {
    "forward": kernels.forward_kernel,
    "delta": kernels.delta_kernel,
    "dkdv": kernels.dkdv_kernel,
    "dq": kernels.dq_kernel,
}
_POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}


class Usage(NamedTuple):
    """What a compiled kernel takes: bytes of shared memory and of stack, registers; its PTX."""

    shared: int
    stack: int
    registers: int
    ptx: str


def compile_kernel(
    chip, name, dtype, head_dim, causal=True, group=1, even=True, use=None, ones=()
):
    """Compile kernel `name` for `chip` = (major, minor) with the table's tile, or `use`.

    ones: arguments that are 1, which the launcher makes constants.
    """
    block_d = max(16, triton.next_power_of_2(head_dim))
    constants = {"D": head_dim, "BLOCK_D": block_d}
    options = {"num_warps": 4, "num_stages": 2}
    if name == "delta":
        constants["BLOCK_M"] = 64
    else:
        t = use or tile(chip, name, dtype, block_d)
        constants |= {"GROUP": group, "BLOCK_M": t.block_m, "BLOCK_N": t.block_n, "CAUSAL": causal}
        constants["PRECISION"] = "ieee" if dtype == torch.float32 else "tf32"
        options = {"num_warps": t.warps, "num_stages": t.stages}
    if name == "dkdv":
        constants["EVEN"] = even

    kernel = KERNELS[name]
    constants |= {arg: 1 for arg in ones if arg in kernel.arg_names}
    signature, aligned = {}, {}
    for i, arg in enumerate(kernel.arg_names):
        if arg in constants:
            signature[arg] = "constexpr"
        elif arg in ("LSE", "DELTA"):
            signature[arg] = "*fp32"
        elif arg.isupper():
            signature[arg] = _POINTERS[dtype]
        else:
            signature[arg] = "fp32" if arg.startswith("scale") else "i32"
        # What the launcher would find for ordinary tensors: pointers and strides are multiples of
        # 16.
        if arg not in constants and (arg.isupper() or arg.startswith("stride")):
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    major, minor = chip
    compiled = triton.compile(source, GPUTarget("cuda", 10 * major + minor, 32), options=options)
    registers, stack = resource_usage(compiled.asm["cubin"])
    return Usage(compiled.metadata.shared, stack, registers, compiled.asm["ptx"])


def resource_usage(cubin):
    """(registers, bytes of stack) of a compiled kernel, as the bundled `cuobjdump` reads them.

    A kernel that indexes no local array has a stack for one reason: registers spilled to memory.
    """
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", shown)
    if found is None:
        raise ValueError(f"cuobjdump printed no resource usage: {shown!r}")
    return int(found[1]), int(found[2])
