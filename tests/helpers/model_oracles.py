"""Holding our models against `transformers`: random weights, both directions, gradients."""

import copy
import dataclasses
import functools

import torch

from llmbook.models import load
from llmbook.models.pretrained.layout import stored_tensors


@functools.cache
def transformers():
    """The library, without progress bars and advice."""
    import transformers as library

    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def randomised(model, std=0.3):
    """Weights that no default hides: nothing is zero, no two norms are alike."""
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(std=std)
        for name, tensor in model.named_buffers():
            if name == "final_logits_bias":
                tensor.normal_()
    return model.eval()


def loaded(theirs, folder):
    """Their model saved by them, loaded by us."""
    theirs.save_pretrained(folder)
    return load(folder)


def returned(ours, cls, folder):
    """Our model saved by us, loaded by them: with every name known and none missing."""
    ours.save(folder)
    model, info = cls.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(info.values()), info
    return model.eval()


def batch(vocab_size, rows=3, tokens=9, lengths=(9, 4, 6), low=3):
    """Token ids (rows, tokens), and a mask of right padding."""
    ids = torch.randint(low, vocab_size, (rows, tokens))
    mask = (torch.arange(tokens) < torch.tensor(lengths)[:, None]).long()
    return ids, mask


def close(ours, theirs, where=None):
    """Within 1e-4 absolute, at the places where the mask is 1 when one is given."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    if where is not None:
        ours, theirs = ours[where.bool()], theirs[where.bool()]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def close_gradients(ours, theirs):
    """After both losses' backward: the gradients, in the layout of the files, are alike."""
    gradients = copy.deepcopy(ours)
    if hasattr(ours.config, "fused"):  # in memory they hold experts as a fused file does
        gradients.config = dataclasses.replace(ours.config, fused=True)
    with torch.no_grad():
        for mine, held in zip(gradients.parameters(), ours.parameters(), strict=True):
            mine.copy_(held.grad)
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    found = stored_tensors(gradients)
    compared = 0
    for name, gradient in expected.items():
        scale = max(gradient.abs().max().item(), 1e-3)
        torch.testing.assert_close(found[name] / scale, gradient / scale, rtol=0, atol=1e-4)
        compared += gradient.numel()
    assert compared == sum(p.numel() for p in ours.parameters())


def parameter_count(model_class, config):
    """Parameters of a model that is only described, not allocated."""
    with torch.device("meta"):
        model = model_class(config)
    assert all(p.is_meta for p in model.parameters())
    return model.n_parameters
