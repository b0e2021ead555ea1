"""Tiles of the attention kernels for each chip: the one table to change when tuning.

No Triton here: the table is read to decide whether a kernel can run at all.
"""

from typing import NamedTuple

import torch


class Chip(NamedTuple):
    """What bounds a kernel: shared memory of a block, and head_dim in half precision."""

    shared_kb: int
    largest_head_dim: int


class Tile(NamedTuple):
    """Queries and keys of a tile, warps of a block, and depth of the software pipeline."""

    block_m: int
    block_n: int
    warps: int
    stages: int


CHIPS = {
    (7, 5): Chip(64, 128),
    (8, 0): Chip(163, 256),
    (8, 9): Chip(99, 128),
    (9, 0): Chip(227, 256),
    (10, 0): Chip(227, 256),
}


def chip_of(capability):
    """The chip of `CHIPS` whose limits a compute capability has; None when older than all."""
    if capability is None or capability < (7, 5):
        return None
    if capability in ((8, 6), (8, 9)) or capability >= (12, 0):
        return (8, 9)  # the small chips: 99 KB
    return max(chip for chip in CHIPS if chip <= capability and chip != (8, 9))


# chip → kernel → {head_dim padded to a power of two: Tile}, in half precision. "dkdv" keeps
# block_n keys and walks over queries; "forward" and "dq" keep block_m queries and walk over keys.
# A head_dim that is not listed takes the next larger one's. Chosen from what each compiled kernel
# takes (shared memory, registers, no spills to speak of); not yet tuned by the clock on any chip.
HALF_TILES = {
    (7, 5): {
        "forward": {64: Tile(64, 32, 8, 1), 128: Tile(32, 32, 8, 1)},
        "dkdv": {64: Tile(16, 32, 8, 1), 128: Tile(16, 16, 8, 1)},
        "dq": {64: Tile(32, 32, 8, 1), 128: Tile(16, 16, 8, 1)},
    },
    (8, 0): {
        "forward": {64: Tile(128, 64, 4, 3), 128: Tile(128, 64, 8, 3), 256: Tile(64, 64, 8, 2)},
        "dkdv": {64: Tile(64, 128, 8, 3), 128: Tile(64, 64, 8, 2), 256: Tile(32, 64, 8, 1)},
        "dq": {64: Tile(128, 64, 8, 3), 128: Tile(128, 32, 8, 2), 256: Tile(64, 32, 8, 1)},
    },
    (8, 9): {
        "forward": {64: Tile(128, 64, 4, 2), 128: Tile(128, 32, 8, 2)},
        "dkdv": {64: Tile(64, 64, 4, 2), 128: Tile(32, 64, 8, 2)},
        "dq": {64: Tile(128, 32, 4, 2), 128: Tile(128, 32, 8, 2)},
    },
    (9, 0): {
        "forward": {64: Tile(128, 64, 4, 3), 128: Tile(128, 128, 8, 2), 256: Tile(128, 64, 8, 2)},
        "dkdv": {64: Tile(64, 128, 8, 3), 128: Tile(64, 128, 8, 2), 256: Tile(32, 64, 8, 2)},
        "dq": {64: Tile(128, 64, 8, 3), 128: Tile(128, 64, 8, 2), 256: Tile(64, 32, 8, 2)},
    },
    (10, 0): {
        "forward": {64: Tile(128, 64, 4, 3), 128: Tile(128, 128, 8, 2), 256: Tile(128, 64, 8, 2)},
        "dkdv": {64: Tile(64, 128, 8, 2), 128: Tile(64, 128, 8, 2), 256: Tile(32, 64, 8, 2)},
        "dq": {64: Tile(128, 64, 8, 2), 128: Tile(128, 64, 8, 2), 256: Tile(64, 32, 8, 2)},
    },
}

# Full float32 has no tensor cores on any chip: small tiles that fit the smallest.
FLOAT32_TILES = {
    "forward": {64: Tile(64, 32, 8, 1), 128: Tile(32, 32, 8, 1)},
    "dkdv": {64: Tile(32, 32, 8, 1), 128: Tile(16, 32, 8, 1)},
    "dq": {64: Tile(32, 32, 8, 1), 128: Tile(32, 16, 8, 1)},
}


def tile(chip, kernel, dtype, block_d):
    """The `Tile` with which `kernel` ("forward", "dkdv", "dq") runs on a chip of `CHIPS`."""
    tiles = FLOAT32_TILES if dtype == torch.float32 else HALF_TILES[chip]
    return tiles[kernel][min(listed for listed in tiles[kernel] if listed >= block_d)]
