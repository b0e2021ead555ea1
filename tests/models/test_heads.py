"""A linear head on a decoder: equal to transformers' classifiers, read at the last real token."""

import pytest
import torch
from helpers.model_oracles import batch, close, randomised, transformers

from llmbook.models import load
from llmbook.models.heads import DecoderHead

SIZES = {
    "vocab_size": 101,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "num_labels": 3,
    "pad_token_id": 0,
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pair(kind, tmp_path):
    """Their classifier, and ours on the same body and with the same head."""
    library = transformers()
    theirs = randomised(getattr(library, f"LlamaFor{kind}")(library.LlamaConfig(**SIZES)))
    whole = library.LlamaForCausalLM(theirs.config)
    whole.model = theirs.model
    whole.save_pretrained(tmp_path)
    ours = DecoderHead(load(tmp_path), 3, bias=kind == "TokenClassification").eval()
    ours.output.load_state_dict(theirs.score.state_dict())
    return theirs, ours


@torch.no_grad()
def test_a_class_for_each_token_equals_theirs(tmp_path):
    theirs, ours = pair("TokenClassification", tmp_path)
    ids, mask = batch(101)
    close(ours(ids, mask), theirs(ids, attention_mask=mask).logits, where=mask)


@torch.no_grad()
def test_the_last_token_that_is_no_padding_speaks_for_the_text(tmp_path):
    theirs, ours = pair("SequenceClassification", tmp_path)
    ids, mask = batch(101)
    ids = ids.masked_fill(mask == 0, 0)
    close(ours.at_the_end(ids, mask), theirs(ids, attention_mask=mask).logits)
    left = torch.stack([r.roll(9 - n) for r, n in zip(ids, (9, 4, 6), strict=True)])
    close(ours.at_the_end(left, mask.flip(1)), ours.at_the_end(ids, mask))
    close(ours.at_the_end(ids[:1]), ours.at_the_end(ids, mask)[:1])


def test_the_body_learns_along_and_checkpointing_reaches_it(tmp_path):
    _, ours = pair("TokenClassification", tmp_path)
    ids, mask = batch(101)
    found = []
    for ours.checkpointing in (False, True):
        assert ours.decoder.checkpointing is ours.checkpointing
        ours.train().zero_grad()
        ours(ids, mask).square().sum().backward()
        found.append([p.grad.clone() for p in ours.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(ours.parameters())) - 1  # all but the vocabulary's head
    for direct, again in zip(*found, strict=True):
        assert torch.equal(direct, again)


def test_a_small_head_starts_near_zero_in_the_decoders_dtype(tmp_path):
    _, ours = pair("TokenClassification", tmp_path)
    value = DecoderHead(ours.decoder.double(), std=1e-3)
    assert value.output.weight.dtype == torch.float64 and (value.output.bias == 0).all()
    assert value(batch(101)[0]).abs().max() < 0.05
    with pytest.raises(ValueError, match="n_outputs must be a whole number of at least 1: got 0"):
        DecoderHead(ours.decoder, 0)
