"""What the models share: checks of their input and configs, masks, initial weights."""

import torch
from torch import nn

from llmbook.layers import ACTIVATIONS
from llmbook.multihead import MultiHeadAttention

# --- input


def check_ids(name, ids, max_len=None):
    """Raise unless ids are int64 (batch, tokens), of at most max_len tokens."""
    if not isinstance(ids, torch.Tensor) or ids.dtype != torch.int64 or ids.ndim != 2:
        got = f"{ids.dtype} {tuple(ids.shape)}" if hasattr(ids, "dtype") else type(ids).__name__
        raise TypeError(f"{name} must be int64 (batch, tokens): got {got}")
    if max_len is not None and ids.shape[1] > max_len:
        raise ValueError(f"{name} must have at most max_len={max_len} tokens: got {ids.shape[1]}")


def token_mask(attention_mask, batch, tokens):
    """The mask as bool (batch, tokens), True at tokens and False at padding; None stays None.

    attention_mask: (batch, tokens), 1 or True for tokens, 0 or False for padding.
    """
    if attention_mask is None:
        return None
    if attention_mask.shape != (batch, tokens):
        raise ValueError(
            f"attention_mask must be (batch, tokens so far) = {(batch, tokens)}: got "
            f"{tuple(attention_mask.shape)}"
        )
    return attention_mask.bool()


# --- configs


def check_sizes(config, *names):
    """Raise unless each of these fields is a whole number of at least 1."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1: got {value!r}")


def check_heads(d_model, n_heads):
    """Raise unless the heads divide the width."""
    if d_model % n_heads:
        raise ValueError(f"n_heads must divide d_model: got d_model={d_model}, n_heads={n_heads}")


def check_choices(config, *dropouts):
    """Raise unless the activation is known and these fields are probabilities below 1."""
    if config.activation not in ACTIVATIONS:
        raise ValueError(
            f"activation must be one of {tuple(ACTIVATIONS)}: got {config.activation!r}"
        )
    for name in dropouts:
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1: got {value}")


# --- initial weights


def init_normal(model, std):
    """Every matrix normal with standard deviation std, every bias 0; norms stay at 1 and 0."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, MultiHeadAttention):
            nn.init.normal_(module.in_proj_weight, std=std)
            if module.in_proj_bias is not None:
                nn.init.zeros_(module.in_proj_bias)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
