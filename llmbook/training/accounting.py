"""Where the time and the memory of training go, counted rather than timed.

    FLOPs of an update ≈ 6 N T + 12 L d c T        T tokens, L layers of width d, context c

A parameter in a matrix costs a multiplication and an addition a token forward, and twice that
backward: 6 N. Scores and mixing cost 2 · 2 c d forward in each layer, three times that in all.
N counts the parameters that are multiplied: the output head, not the table of embeddings.
Source: Kaplan et al. 2020; Chowdhery et al. 2022, appendix B, for MFU.
"""

from dataclasses import dataclass

import torch
from torch import nn

from llmbook.checks import one_of
from llmbook.device import device_profile

# Dense matrix products in 16 bits with 32-bit sums, FLOP/s, as the makers state them.
PEAK_FLOPS = {
    "T4": 65e12,
    "V100": 125e12,
    "A10G": 70e12,
    "L4": 121e12,
    "A100": 312e12,
    "L40S": 362e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}


def multiplied_parameters(model):
    """N: how many parameters take part in matrix products; a tied head counts, once."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    heads = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    seen = {id(p): p for p in model.parameters() if p.ndim == 2}
    return sum(p.numel() for i, p in seen.items() if i not in tables or i in heads)


def forward_flops(model, batch, tokens):
    """FLOPs of a GPT's forward pass over (batch, tokens), with the whole square of scores counted.

    2 N + 4 L d · tokens for each token. A causal kernel does about half of the second term.
    """
    config = model.config
    scores = 4 * config.n_layers * config.d_model * tokens
    return batch * tokens * (2 * multiplied_parameters(model) + scores)


def update_flops(model, batch, tokens):
    """FLOPs of an update: three forward passes' worth, recomputation not counted."""
    return 3 * forward_flops(model, batch, tokens)


def peak_flops(device):
    """What a GPU can do at most in 16 bits, FLOP/s; None for a CPU or a GPU that isn't listed."""
    device = torch.device(device)
    if device_profile() == "t4":
        return PEAK_FLOPS["T4"]
    if device.type != "cuda":
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ").split()
    return next((PEAK_FLOPS[word] for word in words if word in PEAK_FLOPS), None)


def mfu(flops, seconds, device):
    """Model FLOP utilisation: the share of the device's peak that the model's own FLOPs are.

    None where the peak is not known.
    """
    peak = peak_flops(device)
    return None if peak is None else flops / seconds / peak


@dataclass(frozen=True)
class Bytes:
    """Bytes that each parameter takes during training, by purpose."""

    weights: int
    gradients: int
    optimizer: int
    half_copy: int

    @property
    def total(self):
        """Bytes a parameter, all purposes together."""
        return self.weights + self.gradients + self.optimizer + self.half_copy


def bytes_per_parameter(optimizer="adamw", half=True):
    """What each parameter costs in memory: 16 bytes with AdamW in float32, 18 with a 16-bit copy.

    Weights 4, gradients 4, AdamW's two moments 8 (Muon's one 4), and 2 for the copy that autocast
    makes for the matrix products. Activations come on top and depend on the batch instead.
    """
    state = {"adamw": 8, "adamw_reference": 8, "muon": 4}
    return Bytes(4, 4, state[one_of("optimizer", optimizer, state)], 2 if half else 0)
