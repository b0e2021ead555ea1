"""FLOPs are those that PyTorch counts; MFU and bytes are what they say."""

import pytest
import torch
from helpers.training_subject import VOCAB, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from llmbook.training import accounting
from llmbook.training.config import TrainConfig
from llmbook.training.optim import build_optimizers


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("batch, tokens", [(1, 8), (3, 5)])
def test_flops_are_those_that_pytorch_counts(tied, batch, tokens):
    model = tiny_model(dropout=0.0, n_layers=3, tied=tied)
    for block in model.blocks:
        block.attention.backend = "reference"  # the counter does not see into a fused kernel
    ids = torch.randint(VOCAB, (batch, tokens))
    with FlopCounterMode(display=False) as counter:
        loss = model.loss(ids, ids)
        forward = counter.get_total_flops()
        loss.backward()
    assert forward == accounting.forward_flops(model, batch, tokens)
    assert counter.get_total_flops() == accounting.update_flops(model, batch, tokens)


def test_flops_are_six_a_parameter_and_token_where_the_context_is_short():
    model = tiny_model(d_model=64, n_layers=4)
    n = accounting.multiplied_parameters(model)
    assert n == 4 * 12 * 64 * 64 + VOCAB * 64
    assert accounting.update_flops(model, 1, 1) == pytest.approx(6 * n, rel=0.01)


def test_mfu_is_the_share_of_the_peak(monkeypatch):
    monkeypatch.delenv("LLMBOOK_DEVICE_PROFILE", raising=False)
    assert accounting.mfu(1e12, 1.0, "cpu") is None
    monkeypatch.setenv("LLMBOOK_DEVICE_PROFILE", "t4")
    assert accounting.mfu(6.5e12, 0.5, "cpu") == pytest.approx(0.2)
    monkeypatch.delenv("LLMBOOK_DEVICE_PROFILE")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda d: "NVIDIA A100-SXM4-80GB")
    assert accounting.peak_flops("cuda") == 312e12


@pytest.mark.parametrize("name", ["adamw", "adamw_reference"])
def test_bytes_of_the_optimiser_are_those_that_it_holds(name):
    model = tiny_model()
    (optimizer,) = build_optimizers(model, TrainConfig(optimizer=name))
    ids = torch.zeros(1, 4, dtype=torch.int64)
    model.loss(ids, ids).backward()
    optimizer.step()
    held = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if t.ndim)
    count = sum(p.numel() for p in model.parameters())
    assert held == accounting.bytes_per_parameter(name).optimizer * count
    assert sum(p.nbytes + p.grad.nbytes for p in model.parameters()) == 8 * count


def test_adamw_costs_sixteen_bytes_a_parameter_and_two_for_the_half_copy():
    assert accounting.bytes_per_parameter(half=False).total == 16
    assert accounting.bytes_per_parameter().total == 18
    with pytest.raises(ValueError, match="got 'sgd'"):
        accounting.bytes_per_parameter("sgd")
