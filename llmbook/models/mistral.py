"""Mistral: Llama with a sliding window, a token sees the last `window` tokens only.

    token t attends to tokens s with t − window < s ≤ t

Over n layers what it knows reaches n · window tokens back. Source: Jiang et al. 2023.
"""

from dataclasses import dataclass

import torch

from llmbook.checks import whole
from llmbook.models import llama


@dataclass(frozen=True)
class MistralConfig(llama.LlamaConfig):
    """As `LlamaConfig`. window: how many tokens a token sees, itself counted; all when None."""

    window: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.window is not None:
            whole("window", self.window, least=1)


class Mistral(llama.Llama):
    """A decoder-only language model with a window: `model(input_ids) → logits`."""

    architecture = "MistralForCausalLM"
    model_type = "mistral"
    config_class = MistralConfig
    fields = {
        **{k: v for k, v in llama.FIELDS.items() if k not in ("attention_bias", "ffn_bias")},
        "window": "sliding_window",
    }
    defaults = {
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 131_072,
        "intermediate_size": 14_336,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    }

    def mask(self, kept, tokens, total, device):
        """Besides padding: nothing further back than the window."""
        seen = super().mask(kept, tokens, total, device)
        return windowed(seen, self.config.window, tokens, total, device)


def windowed(seen, window, tokens, total, device):
    """A mask, or None, with what lies outside the window hidden from the last `tokens` of `total`.

    seen: bool, broadcastable to (batch, heads, tokens, total), or None.
    """
    if window is None or total <= window:
        return seen
    keys = torch.arange(total, device=device)
    near = keys > keys[total - tokens :, None] - window  # (tokens, total)
    return near[None, None] if seen is None else seen & near
