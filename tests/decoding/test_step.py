"""The short way for one token: the modules' numbers, and only where they would be."""

import pytest
import torch
from helpers.decoding_subject import padded
from helpers.steps import CASES, ROWS, followed, gpt, llama, mistral
from torch import nn

from llmbook.decoding import generate
from llmbook.decoding.step import applies
from llmbook.decoding.writer import Writer
from llmbook.models.decoder import Decoder
from llmbook.models.gpt import GPT, GPTConfig


@pytest.mark.parametrize("with_padding", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_its_logits_and_its_cache_are_the_modules(case, dtype, with_padding):
    model = CASES[case]().to(dtype)
    assert applies(model, model.new_cache(1, 2))
    ids, keep = padded(ROWS)
    called, short = followed(
        model, ids if with_padding else ids.clamp(min=1), keep if with_padding else None
    )
    close = 1e-11 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(short, called, atol=close, rtol=close)
    assert called.std() > 0.1


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_weights_laid_out_along_their_longer_side_give_the_same(case, rows, monkeypatch):
    monkeypatch.setattr("llmbook.decoding.step.WORTH_COPIES", 1)
    model, copies, ids = CASES[case]().double(), {}, torch.tensor(ROWS[:1]).repeat(rows, 1)
    called, short = followed(model, ids, None, copies=copies)
    torch.testing.assert_close(short, called, atol=1e-11, rtol=1e-11)
    assert copies and all(
        w.shape[0] > w.shape[1] and copy.is_contiguous() and torch.equal(w.t(), copy)
        for (w,), copy in copies.items()
    )


@pytest.mark.parametrize("case", CASES)
def test_large_matrices_are_read_as_weighted_rows(case, monkeypatch):
    monkeypatch.setattr("llmbook.decoding.step.WORTH_COPIES", 1)
    monkeypatch.setattr("llmbook.decoding.step.SMALL", 0)
    model, copies, ids = CASES[case](), {}, torch.tensor(ROWS[:1])
    called, short = followed(model, ids, None, copies=copies)
    torch.testing.assert_close(short, called, atol=1e-4, rtol=1e-4)
    matrices = {p for p in model.parameters() if p.ndim == 2}
    tables = {model.tokens.weight, *(m.weight for m in [getattr(model, "positions", None)] if m)}
    read = [weight for weights in copies for weight in weights]
    assert len(read) == len(set(read)) and set(read) == matrices - (tables - {model.head.weight})


@pytest.mark.parametrize(
    ("at_most", "to_come", "made"), [(10**6, 1, True), (0, 1, False), (10**6, 99, False)]
)
@torch.no_grad()
def test_weights_are_copied_once_and_only_where_it_pays(at_most, to_come, made, monkeypatch):
    monkeypatch.setattr("llmbook.decoding.step.COPIED", at_most)
    monkeypatch.setattr("llmbook.decoding.step.WORTH_COPIES", to_come)
    writer = Writer(gpt(), torch.tensor(ROWS[:1] * 2), None, None, 9, True, "step")
    for token in (3, 4):
        writer.next_logits()
        writer.append(torch.tensor([token, token]))
    writer.next_logits()
    before = dict(writer._copies)
    assert bool(before) == made
    writer.reorder(torch.tensor([0, 0]))  # as beams do: another step, of the same weights
    writer.append(torch.tensor([5, 6]))
    writer.next_logits()
    assert all(writer._copies[weights] is copy for weights, copy in before.items())
    assert len(writer._copies) == len(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_in_half_precision_it_is_as_near_to_the_truth_as_the_modules(case, dtype):
    ids, keep = padded(ROWS)
    model = CASES[case]().to(dtype)
    called, short = followed(model, ids, keep)
    truth, _ = followed(model.double(), ids, keep)
    error, allowed = ((x.double() - truth).abs().max() for x in (short, called))
    assert error <= 2 * allowed


@pytest.mark.parametrize("case", CASES)
def test_generate_takes_it_after_the_prompt(case, monkeypatch):
    model, (ids, keep) = CASES[case](), padded(ROWS)
    want = generate(model, ids, keep, max_new_tokens=7, use_cache=False)
    tokens = []
    right = Decoder._run
    monkeypatch.setattr(
        Decoder,
        "_run",
        lambda self, ids, *rest: (tokens.append(ids.shape[1]), right(self, ids, *rest))[1],
    )
    assert torch.equal(generate(model, ids, keep, max_new_tokens=7), want)
    assert tokens == [5], "the modules read the prompt, and nothing else"


class Loud(nn.Linear):
    """A layer of somebody else's."""


class Another(GPT):
    def hidden(self, input_ids, attention_mask=None, *, cache=None):
        return -super().hidden(input_ids, attention_mask, cache=cache)


def replaced(model, name, layer):
    setattr(model.blocks[1], name, layer)
    return model


OTHERWISE = {
    "a hook": lambda: hooked(gpt()),
    "a hook within": lambda: hooked(llama(), "blocks.1.ffn.up"),
    "another class": lambda: Another(GPTConfig(17, 40, 24, 2, 3)).eval(),
    "another norm": lambda: replaced(llama(), "norm2", nn.LayerNorm(24)),
    "another net": lambda: replaced(gpt(), "ffn", nn.Sequential(Loud(24, 24))),
    "one part more": lambda: replaced(gpt(), "adapter", nn.Linear(24, 24)),
    "a window": lambda: mistral(2),
    "a wrapper": lambda: nn.DataParallel(gpt()),
}


def hooked(model, name=""):
    model.get_submodule(name).register_forward_hook(lambda module, args, out: out * 2)
    return model


@pytest.mark.parametrize("case", OTHERWISE)
def test_what_differs_is_called_as_it_stands(case):
    model = OTHERWISE[case]()
    inner = getattr(model, "module", model)
    assert not applies(model, inner.new_cache(1, 4))
    ids = torch.tensor([[5, 9, 3]])
    cached = generate(model, ids, max_new_tokens=5)
    assert torch.equal(cached, generate(model, ids, max_new_tokens=5, use_cache=False))


def test_a_linear_layer_of_another_class_is_called():
    model, calls = gpt(), []
    layer = Loud(24, 96)
    layer.load_state_dict(model.blocks[1].ffn.up.state_dict())
    want = generate(model, torch.tensor([[5, 9, 3]]), max_new_tokens=5)
    layer.forward = lambda x: (
        calls.append(x.shape),
        nn.functional.linear(x, layer.weight, layer.bias),
    )[1]
    model.blocks[1].ffn.up = layer
    assert torch.equal(generate(model, torch.tensor([[5, 9, 3]]), max_new_tokens=5), want)
    assert calls == [(1, 3, 24)] + [(1, 24)] * 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not applies(model, model.new_cache(1, 4))


def test_what_it_returns_may_be_trained_on():
    model = gpt()
    ids = generate(model, torch.tensor([[5, 9, 3]]), max_new_tokens=5, temperature=1.0)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    assert model.blocks[0].ffn.up.weight.grad.abs().sum() > 0
