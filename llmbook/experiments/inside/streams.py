"""Reading and changing what flows between the blocks of a decoder."""

import torch


def through(model, ids, change=None):
    """What flows after the embedding and after every block, and the logits.

    ids (batch, tokens) → states (n_layers + 1, batch, tokens, d_model), logits (batch, tokens,
    vocab_size). change(layer, x) → x: put in the place of what flows after `layer` blocks.
    """
    places, states = model.places(ids), []
    x = model.embed(ids, places)
    for layer in range(len(model.blocks) + 1):
        if layer:
            x = model.blocks[layer - 1](x, places)
        if change is not None:
            x = change(layer, x)
        states.append(x)
    return torch.stack(states), model.head(model.norm(x))
