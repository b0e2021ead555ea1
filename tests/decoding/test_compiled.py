"""The short step in C: the modules' numbers, for every shape, and only where it can run."""

import pytest
import torch
from helpers.decoding_subject import padded
from helpers.steps import CASES, ROWS, followed, gpt, llama

from llmbook import native
from llmbook.decoding import compiled, explain_backend, generate, speculate
from llmbook.decoding.step import applies, step_for
from llmbook.layers import FeedForward
from llmbook.models import load
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.quantization import quantize

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="there is no C compiler")
MODELS = {
    **CASES,
    "gpt, gelu": lambda: gpt(activation="gelu"),
    "gpt, silu": lambda: gpt(activation="silu"),
    "gpt, 8 bits": lambda: quantize(gpt(), 8),
    "gpt, 4 bits": lambda: quantize(gpt(), 4, group=16),
    "llama, grouped, 8 bits": lambda: quantize(llama(n_kv_heads=2, attention_bias=True), 8),
    "llama, 4 bits, a short last group": lambda: quantize(llama(n_kv_heads=1), 4, group=7),
}


@pytest.fixture(autouse=True)
def _poison(monkeypatch):
    """Fresh memory is full of nan: what is read before it is written shows."""
    with torch.device("meta"):  # torch remembers what it makes there from the first use on
        empty = torch.empty
        empty(0)
    monkeypatch.setattr(
        torch,
        "empty",
        lambda *size, **how: (
            t := empty(*size, **how),
            t.fill_(torch.nan) if t.is_floating_point() else t,
        )[1],
    )


@needs_compiler
@pytest.mark.parametrize("with_padding", [True, False])
@pytest.mark.parametrize("case", MODELS)
def test_its_logits_and_its_cache_are_the_modules(case, with_padding):
    model = MODELS[case]()
    assert applies(model, model.new_cache(1, 2))
    ids, keep = padded(ROWS)
    called, short = followed(
        model,
        ids if with_padding else ids.clamp(min=1),
        keep if with_padding else None,
        backend="compiled",
    )
    torch.testing.assert_close(short, called, atol=1e-4, rtol=1e-4)
    assert called.std() > 0.1


@needs_compiler
@pytest.mark.parametrize("rows", [1, 2, 7, 13])
def test_any_number_of_rows(rows):
    torch.manual_seed(0)
    model = llama(n_kv_heads=2)
    called, short = followed(model, torch.randint(17, (rows, 5)), None, backend="compiled")
    torch.testing.assert_close(short, called, atol=1e-4, rtol=1e-4)


@needs_compiler
@pytest.mark.parametrize("case", ["gpt", "llama, grouped, biases", "llama, grouped, 8 bits"])
@pytest.mark.parametrize("rows", [9, 16, 37])
def test_many_rows_are_those_rows_alone_whatever_the_threads(monkeypatch, case, rows):
    model, some = MODELS[case](), torch.Generator().manual_seed(0)
    ids, keep = torch.randint(1, 17, (rows, 5), generator=some), torch.ones(rows, 5).bool()
    keep[::3, :2] = False  # padding differs from row to row
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    called, short = followed(model, ids, keep, backend="compiled")
    torch.testing.assert_close(short, called, atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    _, shared = followed(model, ids, keep, backend="compiled")
    assert torch.equal(shared, short)


@needs_compiler
@pytest.mark.parametrize("case", ["gpt", "llama, grouped, biases", "llama, grouped, 8 bits"])
@pytest.mark.parametrize("padding", [0, 2])
def test_several_tokens_of_a_text_at_once_are_those_tokens_one_by_one(case, padding):
    model, ids = MODELS[case](), torch.tensor([[5, 9, 3, 11, 4]])
    keep = (torch.arange(5) >= padding)[None]
    caches = [model.new_cache(1, 20) for _ in range(2)]
    new = torch.tensor([2, 16, 1, 7, 7, 12])
    with torch.no_grad():
        for cache in caches:
            model(ids, keep, cache=cache)
    one, all_ = (step_for(model, cache, keep, "compiled") for cache in caches)
    wanted = torch.cat([one(token[None]) for token in new])
    found = torch.cat([all_.several(new[:4]), all_.several(new[4:])])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    for a, b in zip(*caches, strict=True):
        torch.testing.assert_close(a.held(), b.held(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="max_len=20, 11 held, 10 to add"):
        all_.several(torch.ones(10, dtype=torch.int64))


@needs_compiler
def test_the_texts_are_those_of_the_other_ways():
    small, draft = load("small").eval(), load("draft").eval()
    ids = torch.tensor([[0, 70, 80, 90, 100]])
    texts = [
        generate(small, ids, max_new_tokens=50, eos_id=(), backend=backend)
        for backend in ("modules", "step", "compiled", "auto")
    ]
    guessed = speculate(small, draft, ids, max_new_tokens=50, eos_id=()).tokens
    assert all(torch.equal(text, texts[0]) for text in [*texts, guessed])
    beams = [
        generate(small, ids, max_new_tokens=20, beams=3, eos_id=(), backend=backend)
        for backend in ("modules", "compiled")
    ]
    assert torch.equal(*beams)


@needs_compiler
def test_auto_says_why_it_takes_it_or_another(monkeypatch):
    model = gpt()
    choice = explain_backend(model)
    assert choice.backend == "compiled" and "not step:" in str(choice)
    assert explain_backend(model, rows=64).backend == "compiled"
    many = explain_backend(model, rows=65)
    assert many.backend == "step" and "65 rows" in many.others["compiled"]
    assert explain_backend(model, rows=65, backend="compiled").reason == "asked for by name"
    assert explain_backend(quantize(gpt(), 8), rows=9).backend == "step"
    doubled = explain_backend(gpt().double())
    assert doubled.backend == "step" and "float32" in doubled.others["compiled"]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert explain_backend(model).backend == "compiled"
    monkeypatch.setattr("llmbook.decoding.backends.SMALL", 100)
    assert "4 read so many" in explain_backend(model).others["compiled"]
    assert "9 rows" in explain_backend(model, rows=9).others["compiled"]
    assert explain_backend(quantize(gpt(), 8)).backend == "compiled"


def test_unless_told_the_question_is_of_two_tokens():
    shortest = GPT(GPTConfig(17, 2, 24, 1, 3))
    assert explain_backend(shortest, backend="modules").backend == "modules"
    with pytest.raises(ValueError, match="max_len"):
        explain_backend(shortest, tokens=3)


def test_without_a_compiler_auto_does_without_and_says_so(monkeypatch):
    monkeypatch.setenv("LLMBOOK_COMPILER", "none")
    compiled._library.cache_clear()
    try:
        choice = explain_backend(gpt())
        assert choice.backend == "step" and "no C compiler" in choice.others["compiled"]
        with pytest.raises(ValueError, match="backend='compiled' cannot run this model: there is"):
            generate(gpt(), torch.tensor([[1]]), max_new_tokens=2, backend="compiled")
        assert generate(gpt(), torch.tensor([[1]]), max_new_tokens=2).shape == (1, 3)
    finally:
        compiled._library.cache_clear()


def test_a_backend_that_cannot_run_is_refused_by_name():
    class Another(GPT):
        def hidden(self, input_ids, attention_mask=None, *, cache=None):
            return super().hidden(input_ids, attention_mask, cache=cache)

    model = Another(GPTConfig(17, 40, 24, 2, 3)).eval()
    assert explain_backend(model).backend == "modules"
    for backend in ("step", "compiled"):
        with pytest.raises(ValueError, match=f"backend='{backend}' cannot run this model"):
            generate(model, torch.tensor([[1]]), max_new_tokens=2, backend=backend)
    with pytest.raises(ValueError, match="backend must be one of.*got 'fast'"):
        generate(model, torch.tensor([[1]]), max_new_tokens=2, backend="fast")


@pytest.mark.parametrize("pad_id", [-1, 64])
def test_a_row_is_filled_with_a_token_of_the_model_s(pad_id):
    model = GPT(GPTConfig(64, 16, 32, 2, 4)).eval()
    with pytest.raises(ValueError, match=f"pad_id must be .* from 0 to 63: got {pad_id}"):
        generate(model, torch.tensor([[1, 2]]), pad_id=pad_id)


@needs_compiler
def test_ids_beside_the_table_are_refused_in_c_too():
    model = GPT(GPTConfig(64, 16, 32, 2, 4)).eval()
    cache = model.new_cache(1, 8)
    with torch.inference_mode():
        model(torch.tensor([[1, 2]]), cache=cache)
    step = step_for(model, cache, backend="compiled")
    for token in (-1, 64):
        with pytest.raises(IndexError, match="tokens must be ids below 64"):
            step(torch.tensor([token]))


@needs_compiler
def test_blocks_of_unlike_sizes_go_another_way():
    model = GPT(GPTConfig(64, 16, 32, 2, 4)).eval()
    model.blocks[1].ffn = FeedForward(32, 500, "gelu_tanh")
    assert "blocks of one size" in compiled.why_not(model, model.new_cache(1, 8))
    ids = torch.tensor([[1, 2]])
    auto, modules = (
        generate(model, ids, max_new_tokens=5, backend=b) for b in ("auto", "modules")
    )
    assert torch.equal(auto, modules)


def test_explain_backend_knows_wrappers_and_how_long_a_text_becomes():
    model = GPT(GPTConfig(64, 16, 32, 2, 4)).eval()
    assert explain_backend(torch.nn.DataParallel(model)).backend == "modules"
    with pytest.raises(ValueError, match="max_len must be a whole number from 1 to 16"):
        explain_backend(model, tokens=99)
