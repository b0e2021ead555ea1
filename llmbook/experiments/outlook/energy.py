"""Bytes that one token of decoding reads, and what they cost; nothing is trained.

Decoding reads every weight once for each token, so the bytes of the weights are the bytes moved,
with one reader at a time. Published energies of fetching from memory off the chip: 1.3 to 2.6 nJ
for 64 bits from DRAM (Horowitz 2014, 45 nm, interface included), which is 160 to 330 pJ a byte.
Arithmetic of the same source: a 32-bit floating-point product 3.7 pJ, an 8-bit one 0.2 pJ.
"""

import torch

PJ_PER_BYTE = (1300 / 8, 2600 / 8)
GROUP = 32  # weights that share a scale of 16 bits
BITS = (8, 4, 3, 2)


def rounded(w, bits, group=GROUP):
    """A matrix (out, in) on 2^bits − 1 levels, a scale for each group of inputs: the same shape.

    As `llmbook.quantization.quantize_weight` for 4 bits, for any number of them from 2 on; in
    must divide by group.
    """
    if w.shape[-1] % group:
        raise ValueError(f"group must divide the inputs: got group={group}, {w.shape[-1]} inputs")
    most = 2 ** (bits - 1) - 1
    parts = w.unflatten(-1, (-1, group))
    scale = parts.abs().amax(-1, keepdim=True) / most
    q = (parts / scale.clamp(min=torch.finfo(w.dtype).tiny)).round().clamp(-most, most)
    return (q * scale).flatten(-2)


def without_smallest(w, share):
    """A matrix with the smallest `share` of its weights set to zero."""
    if not share:
        return w
    least = w.abs().flatten().kthvalue(max(1, int(share * w.numel()))).values
    return w * (w.abs() > least)


def matrices(model):
    """{name: parameter} of a GPT's matrices inside its blocks: what is rounded or pruned."""
    return {n: w for n, w in model.named_parameters() if w.ndim == 2 and "blocks" in n}


def bytes_read(model, bits, group=GROUP):
    """Bytes of weights that one token reads: blocks in `bits` with scales, the rest in 16.

    bits: 32 or 16 without scales, below 16 with one scale of 16 bits for each group. The table of
    tokens counts once, as the head that it is tied to; of the positions one row.
    """
    inside = sum(w.numel() for w in matrices(model).values())
    rest = sum(p.numel() for p in model.parameters()) - inside
    rest -= (model.config.max_len - 1) * model.config.d_model
    each = bits + (16 / group if bits < 16 else 0)
    return (inside * each + rest * max(16, bits)) / 8


def joules(n_bytes):
    """(least, most) joules to fetch so many bytes from DRAM, by the published range."""
    return tuple(n_bytes * pj * 1e-12 for pj in PJ_PER_BYTE)
