"""Checkpointing in models that read a source, and in encoders: the same gradients, bit for bit."""

import pytest
import torch

from llmbook.models.bart import Bart, BartConfig
from llmbook.models.bert import BertConfig, BertForMaskedLM
from llmbook.models.roberta import RobertaConfig, RobertaForMaskedLM
from llmbook.models.t5 import T5, T5Config
from llmbook.models.transformer import Transformer, TransformerConfig

MODELS = {
    "T5": lambda: T5(T5Config(50, 12, 2, 6, 24, 2, 2)),
    "BART": lambda: Bart(BartConfig(50, 9, 12, 2, 2, 2, 2, 24, 24)),
    "Transformer": lambda: Transformer(TransformerConfig(50, 12, 2, 24, 2, 2)),
    "BERT": lambda: BertForMaskedLM(BertConfig(50, 9, 12, 2, 2, 24)),
    "RoBERTa": lambda: RobertaForMaskedLM(RobertaConfig(50, 9, 12, 2, 2, 24)),
}


@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_computes_the_same_gradients_bit_for_bit(name):
    torch.manual_seed(0)
    model = MODELS[name]().train()
    ids, mask = torch.randint(3, 50, (3, 7)), torch.ones(3, 7)
    mask[1, 4:] = 0
    layers = [*getattr(model, "encoder", []), *getattr(model, "decoder", [])] or model.body.layers
    calls, found = [], []
    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
    for checkpointing in (False, True):
        model.checkpointing = checkpointing
        model.zero_grad()
        torch.manual_seed(3)  # dropout falls in the same places
        loss = model.loss(ids, ids, mask)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        found[-1] = [t.clone() for t in found[-1]]
    assert len(calls) == len(layers) * (1 + 2)  # each runs again for the backward pass
    assert len(found[0]) > 20
    for direct, again in zip(*found, strict=True):
        assert torch.equal(direct, again)
