"""Triton kernels, one file each; importing this package imports neither Triton nor a GPU driver.

`why_not` says whether the attention kernel (`llmbook.kernels.flash_attention`) can run an input.
"""

import importlib.util
import os

import torch

from llmbook.device import capability
from llmbook.kernels.attention_tiles import CHIPS, chip_of


def interpreting():
    """Whether Triton kernels run in its interpreter, on the CPU (`TRITON_INTERPRET=1`)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def installed():
    """Whether the package triton is there to import; it exists for Linux alone."""
    return importlib.util.find_spec("triton") is not None


def why_not(q, k, v, *, mask=None, bias=None, scale=None, dropout=0.0):
    """Reason why the Triton attention kernel cannot run this input, or None when it can.

    The kernel does causal and full attention, grouped queries, any lengths, head_dim 16 to 128
    (256 on 8.0, 9.0 and 10.0, in half precision), in float16, bfloat16 (from 8.0) and float32.
    """
    if mask is not None:
        return "the Triton kernel takes no mask (only causal)"
    if bias is not None:
        return "the Triton kernel takes no bias"
    if dropout > 0:
        return f"the Triton kernel has no dropout: got dropout={dropout}"
    if scale is not None and scale <= 0:
        return f"the Triton kernel needs scale > 0: got {scale}"
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"the Triton kernel takes float16, bfloat16 or float32: got {q.dtype}"
    head_dim = q.shape[-1]
    if v.shape[-1] != head_dim:
        return f"the Triton kernel needs v as wide as q: got head_dim {v.shape[-1]} and {head_dim}"
    if not installed():
        return "the package triton is not installed (it exists for Linux alone)"
    if interpreting():
        chip = (9, 0)
        if q.device.type != "cpu":
            return "TRITON_INTERPRET=1 runs kernels on the CPU, and these tensors are not there"
    elif not q.is_cuda:
        return f"the Triton kernel needs a CUDA device: got {q.device}"
    else:
        cap = capability(q.device)
        chip = chip_of(cap)
        if chip is None:
            return f"the Triton kernel needs compute capability 7.5 or later: got {cap}"
    if q.dtype == torch.bfloat16 and chip < (8, 0):
        return f"bfloat16 needs compute capability 8.0: got {chip}"
    largest = 128 if q.dtype == torch.float32 else CHIPS[chip].largest_head_dim
    if not 16 <= head_dim <= largest:
        return f"the Triton kernel takes head_dim 16 to {largest} in {q.dtype}: got {head_dim}"
    return None
