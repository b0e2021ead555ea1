"""The attention kernels compiled for every chip without any of them: what each would take of it.

Shared memory must fit the chip, spilled registers stay within a bound and are reported (`-rP`, or
the JUnit file), and the tensor cores must be used where the table counts on them.
"""

import pytest
import torch
from packaging.version import Version

triton = pytest.importorskip("triton")

from helpers.kernel_compiler import compile_kernel, resource_usage  # noqa: E402

from llmbook.kernels.attention_tiles import CHIPS, HALF_TILES, chip_of, tile  # noqa: E402

HALF = {chip: torch.float16 if chip == (7, 5) else torch.bfloat16 for chip in CHIPS}
TENSOR_CORES = {
    (8, 0): "mma.sync",
    (8, 9): "mma.sync",
    (9, 0): "wgmma.mma_async",
    (10, 0): "tcgen05.mma",
}
# Bytes of stack a thread may have. Without tensor cores (float32 everywhere, all on 7.5) a product
# holds both operands in registers and spills; there the kernel is for correctness, not for speed.
# Triton 3.6, which Colab has, spills a little more than 3.7.
STACK = 128 if Version(triton.__version__) >= Version("3.7") else 192
STACK_WITHOUT_TENSOR_CORES = 512

ONES = ("n_heads", "n_kv_heads", "n_queries", "n_keys", "stride_qm", "stride_kn")

CASES = [
    (chip, *case)
    for chip in CHIPS
    for case in [
        ("causal 64", HALF[chip], 64, {}),
        ("causal 128", HALF[chip], 128, {}),
        *([("causal 256", HALF[chip], 256, {})] if CHIPS[chip].largest_head_dim == 256 else []),
        ("full 64", HALF[chip], 64, {"causal": False}),
        ("grouped 64", HALF[chip], 64, {"group": 4}),
        ("float32 128", torch.float32, 128, {}),
    ]
] + [
    ((9, 0), "padded 80, odd lengths", torch.bfloat16, 80, {"even": False}),
    ((9, 0), "one of each", torch.float16, 64, {"even": False, "ones": ONES}),
    ((9, 0), "one of each, full", torch.float16, 64, {"causal": False, "ones": ONES}),
]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["forward", "dkdv", "dq", "delta"])
@pytest.mark.parametrize(("chip", "case", "dtype", "head_dim", "extra"), CASES)
def test_kernel_compiles_and_fits(record_property, chip, case, dtype, head_dim, extra, kernel):
    use = compile_kernel(chip, kernel, dtype, head_dim, **extra)
    report = f"{use.shared / 1024:.1f} KB, {use.registers} registers, {use.stack} bytes spilled"
    record_property("usage", report)
    print(f"{chip} {case} {kernel}: {report}")
    assert use.shared <= CHIPS[chip].shared_kb * 1024
    dots = kernel != "delta"
    fast = dtype != torch.float32 and chip in TENSOR_CORES
    if fast and dots:
        assert TENSOR_CORES[chip] in use.ptx
    if dots and not fast:
        assert "mma" not in use.ptx  # nor tf32, whose errors are a thousand times float32's
    assert use.stack <= (STACK if fast or not dots else STACK_WITHOUT_TENSOR_CORES)


@pytest.mark.slow
def test_a_tile_too_large_is_seen():
    # The bounds above mean something: a larger tile takes more than a chip has, and spills.
    from llmbook.kernels.attention_tiles import Tile

    use = compile_kernel((8, 9), "forward", torch.bfloat16, 128, use=Tile(128, 128, 4, 3))
    assert use.shared > CHIPS[8, 9].shared_kb * 1024
    assert use.stack > STACK


def test_the_table_answers_for_every_chip_kernel_and_head_dim():
    assert set(HALF_TILES) == set(CHIPS)
    for chip, limits in CHIPS.items():
        for kernel in ("forward", "dkdv", "dq"):
            for block_d in (16, 32, 64, 128, 256):
                if block_d <= limits.largest_head_dim:
                    assert min(tile(chip, kernel, HALF[chip], block_d)[:2]) >= 16
                if block_d <= 128:
                    assert min(tile(chip, kernel, torch.float32, block_d)[:2]) >= 16
    assert tile((9, 0), "dq", torch.bfloat16, 16) == tile((9, 0), "dq", torch.bfloat16, 64)


@pytest.mark.parametrize(
    ("capability", "chip"),
    [
        ((7, 0), None),
        (None, None),
        ((7, 5), (7, 5)),
        ((8, 0), (8, 0)),
        ((8, 6), (8, 9)),
        ((8, 7), (8, 0)),
        ((8, 9), (8, 9)),
        ((9, 0), (9, 0)),
        ((10, 3), (10, 0)),
        ((12, 0), (8, 9)),
    ],
)
def test_each_capability_has_the_limits_of_a_chip_no_larger_than_itself(capability, chip):
    assert chip_of(capability) == chip


def test_resource_usage_refuses_what_is_no_kernel():
    import subprocess

    with pytest.raises((ValueError, subprocess.CalledProcessError)):
        resource_usage(b"not a kernel")
