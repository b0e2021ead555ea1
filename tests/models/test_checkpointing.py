"""Checkpointing in models that read a source, and in encoders: the same gradients, bit for bit."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llmbook.models.bart import Bart, BartConfig
from llmbook.models.bert import BertConfig, BertForMaskedLM
from llmbook.models.common import run_layer
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


@pytest.mark.parametrize("name", MODELS)
def test_only_who_asks_computes_twice(name):
    assert not MODELS[name]().checkpointing


def test_a_layer_behind_frozen_ones_learns_under_checkpointing_too():
    layer = nn.Linear(3, 3)
    model = SimpleNamespace(checkpointing=True, training=True)
    run_layer(model, layer, torch.randn(2, 3)).sum().backward()  # an input without a gradient
    assert layer.weight.grad.abs().sum() > 0
