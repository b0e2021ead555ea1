"""What the models share: masks, layers that are computed twice, checks, initial weights."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from llmbook.checks import divides, number, one_of, share, tensor, whole
from llmbook.layers import ACTIVATIONS

# --- input


def token_mask(attention_mask, batch, tokens):
    """The mask as bool (batch, tokens), True at tokens and False at padding; None stays None.

    attention_mask: (batch, tokens), 1 or True for tokens, 0 or False for padding.
    """
    if attention_mask is None:
        return None
    sizes = {"batch": batch, "tokens_so_far": tokens}
    return tensor("attention_mask", attention_mask, "batch tokens_so_far", **sizes).bool()


def run_layer(model, layer, x, *args):
    """layer(x, *args), where `model.checkpointing` says so without keeping what is inside it.

    Only x and the arguments are kept for the backward pass, which computes the rest again.
    """
    if model.checkpointing and model.training and torch.is_grad_enabled():
        return checkpoint(layer, x, *args, use_reentrant=False)
    return layer(x, *args)


# --- configs


def check_sizes(config, *names):
    """Raise unless each of these fields is a whole number of at least 1."""
    for name in names:
        whole(name, getattr(config, name), least=1)


def check_heads(d_model, n_heads):
    """Raise unless the heads divide the width."""
    divides("n_heads", n_heads, "d_model", d_model)


def check_choices(config, *dropouts):
    """Raise unless the activation is known and these fields are probabilities below 1, or None.

    Where the config has them, eps and init_std must be at least 0.
    """
    one_of("activation", config.activation, ACTIVATIONS)
    for name in ("eps", "init_std"):
        if hasattr(config, name):
            number(name, getattr(config, name), least=0)
    for name in dropouts:
        if getattr(config, name) is not None:
            share(name, getattr(config, name), one=False)


# --- initial weights


def init_normal(model, std):
    """Every matrix normal with standard deviation std, every bias 0; norms stay at 1 and 0.

    A module with parameters of its own has a method `init_normal(std)` that draws them.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
        elif hasattr(module, "init_normal"):
            module.init_normal(std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
