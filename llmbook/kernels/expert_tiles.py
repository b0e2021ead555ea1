"""Tiles of the grouped matrix products for each chip: the one table to change when tuning.

No Triton here: the table is read to decide whether a kernel can run at all.
"""

from typing import NamedTuple

import torch

from llmbook.device import capability
from llmbook.kernels import installed, interpreting
from llmbook.kernels.attention_tiles import CHIPS, chip_of


class Tile(NamedTuple):
    """Rows, outputs and inputs of a tile, warps of a block, depth of the software pipeline."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int


# chip → kernel → Tile in half precision. "product" walks over inputs and keeps (block_m, block_n);
# "weight" walks over an expert's rows and keeps (block_n, block_k). Chosen from what each compiled
# kernel takes (shared memory, registers, no spills to speak of); not yet tuned by the clock.
HALF_TILES = {
    (7, 5): {"product": Tile(32, 32, 32, 4, 1), "weight": Tile(32, 32, 32, 4, 1)},
    (8, 0): {"product": Tile(64, 128, 64, 4, 3), "weight": Tile(64, 128, 64, 4, 3)},
    (8, 9): {"product": Tile(64, 128, 32, 4, 3), "weight": Tile(32, 128, 64, 4, 3)},
    (9, 0): {"product": Tile(128, 128, 64, 8, 3), "weight": Tile(64, 128, 128, 8, 3)},
    (10, 0): {"product": Tile(128, 128, 64, 8, 3), "weight": Tile(64, 128, 128, 8, 3)},
}

# Full float32 has no tensor cores on any chip: small tiles that fit the smallest.
FLOAT32_TILES = {"product": Tile(32, 32, 32, 4, 1), "weight": Tile(32, 32, 32, 4, 1)}


def tile(chip, kernel, dtype):
    """The `Tile` with which `kernel` ("product", "weight") runs on a chip of `CHIPS`."""
    return (FLOAT32_TILES if dtype == torch.float32 else HALF_TILES[chip])[kernel]


def why_not(rows):
    """Reason why the Triton kernels cannot run on these rows, or None when they can.

    They take any sizes, in float16, bfloat16 (from compute capability 8.0) and float32.
    """
    if rows.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"the Triton kernel takes float16, bfloat16 or float32: got {rows.dtype}"
    if not installed():
        return "the package triton is not installed (it exists for Linux alone)"
    if interpreting():
        if rows.device.type != "cpu":
            return "TRITON_INTERPRET=1 runs kernels on the CPU, and these tensors are not there"
        return None
    if not rows.is_cuda:
        return f"the Triton kernel needs a CUDA device: got {rows.device}"
    found = capability(rows.device)
    chip = chip_of(found)
    if chip not in CHIPS:
        return f"the Triton kernel needs compute capability 7.5 or later: got {found}"
    if rows.dtype == torch.bfloat16 and chip < (8, 0):
        return f"bfloat16 needs compute capability 8.0: got {chip}"
    return None
