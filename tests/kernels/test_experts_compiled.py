"""The expert kernels compiled for every chip without any of them: what each would take of it.

Shared memory must fit the chip, spilled registers stay within a bound and are reported (`-rP`, or
the JUnit file), and the tensor cores must be used where the table counts on them.
"""

import pytest
import torch

triton = pytest.importorskip("triton")

from helpers.kernel_compiler import resource_usage  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from llmbook.kernels import experts as kernels  # noqa: E402
from llmbook.kernels.attention_tiles import CHIPS  # noqa: E402
from llmbook.kernels.expert_tiles import HALF_TILES, Tile, tile  # noqa: E402

HALF = {chip: torch.float16 if chip == (7, 5) else torch.bfloat16 for chip in CHIPS}
TENSOR_CORES = {
    (8, 0): "mma.sync",
    (8, 9): "mma.sync",
    (9, 0): "wgmma.mma_async",
    (10, 0): "tcgen05.mma",
}
STACK = 128  # bytes a thread; without tensor cores both operands lie in registers, and spill
STACK_WITHOUT_TENSOR_CORES = 512
_POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}
_KERNELS = {"product": kernels.product_kernel, "weight": kernels.weight_kernel}


def compile_for(chip, name, dtype, use=None, transposed=False, aligned=True):
    """(bytes of shared memory, registers, bytes of stack, PTX) of a kernel with its tile.

    transposed: W's inner stride is that of the outputs, as in the backward pass.
    """
    t = use or tile(chip, name, dtype)
    kernel = _KERNELS[name]
    constants = {"BLOCK_M": t.block_m, "BLOCK_N": t.block_n, "BLOCK_K": t.block_k}
    constants["PRECISION"] = "ieee" if dtype == torch.float32 else "tf32"
    if name == "product":
        constants["stride_wo" if transposed else "stride_wi"] = 1  # the launcher makes it constant
    signature, known = {}, {}
    for i, arg in enumerate(kernel.arg_names):
        if arg in constants:
            signature[arg] = "constexpr"
            continue
        if arg in ("ENDS", "TILE_EXPERT", "TILE_ROW"):
            signature[arg] = "*i32"
        else:
            signature[arg] = _POINTERS[dtype] if arg.isupper() else "i32"
        if arg.isupper() or (aligned and arg.startswith(("stride", "n_out", "n_in"))):
            known[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=known)
    target = GPUTarget("cuda", 10 * chip[0] + chip[1], 32)
    options = {"num_warps": t.warps, "num_stages": t.stages}
    compiled = triton.compile(source, target, options=options)
    registers, stack = resource_usage(compiled.asm["cubin"])
    return compiled.metadata.shared, registers, stack, compiled.asm["ptx"]


CASES = [
    (chip, kernel, dtype, transposed)
    for chip in CHIPS
    for dtype in (HALF[chip], torch.float32)
    for kernel, transposed in (("product", False), ("product", True), ("weight", False))
]


@pytest.mark.slow
@pytest.mark.parametrize(("chip", "kernel", "dtype", "transposed"), CASES)
def test_kernel_compiles_and_fits(record_property, chip, kernel, dtype, transposed):
    shared, registers, stack, ptx = compile_for(chip, kernel, dtype, transposed=transposed)
    report = f"{shared / 1024:.1f} KB, {registers} registers, {stack} bytes spilled"
    record_property("usage", report)
    print(f"{chip} {kernel} {dtype} transposed={transposed}: {report}")
    assert shared <= CHIPS[chip].shared_kb * 1024
    fast = dtype != torch.float32 and chip in TENSOR_CORES
    if fast:
        assert TENSOR_CORES[chip] in ptx
    else:
        assert "mma" not in ptx  # nor tf32, whose errors are a thousand times float32's
    assert stack <= (STACK if fast else STACK_WITHOUT_TENSOR_CORES)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["product", "weight"])
def test_odd_sizes_compile_too(kernel):
    shared, _, _, _ = compile_for((9, 0), kernel, torch.bfloat16, aligned=False)
    assert shared <= CHIPS[9, 0].shared_kb * 1024


@pytest.mark.slow
def test_a_tile_too_large_is_seen():
    shared, _, _, _ = compile_for((8, 9), "product", torch.bfloat16, Tile(128, 128, 128, 4, 3))
    assert shared > CHIPS[8, 9].shared_kb * 1024


def test_the_table_answers_for_every_chip_and_kernel():
    assert set(HALF_TILES) == set(CHIPS)
    for chip in CHIPS:
        for dtype in (torch.float16, torch.float32):
            for kernel in _KERNELS:
                assert min(tile(chip, kernel, dtype)[:3]) >= 16
