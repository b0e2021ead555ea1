"""The changing block: its counts are those of the library's models, in Python and the browser."""

import itertools

import pytest
import torch
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures
from helpers.figures import FIGURES

from llmbook.figures import BlockChanger
from llmbook.figures.blocks import PARTS
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.llama import Llama, LlamaConfig
from llmbook.models.qwen import Qwen3

in_browser = pytest.mark.browser
TODAY = dict.fromkeys(PARTS, True)


def sizes(build):
    """(parameters without the tables of tokens, bytes of the cache in 16 bits) of a model."""
    with torch.device("meta"):
        model = build()
        tables = sum(p.numel() for n, p in model.named_parameters() if n.startswith("tokens"))
        caches = [b.attention.new_cache(1, 256, torch.bfloat16) for b in model.blocks]
    return model.n_parameters - tables, sum(cache.nbytes for cache in caches)


@pytest.mark.parametrize("width", [256, 768])
def test_the_ends_count_as_the_library_s_models(width):
    size = {"vocab_size": 7, "max_len": 256, "d_model": width, "n_layers": 3}
    heads = width // 64
    found = BlockChanger({}, width=width, layers=3, context=256).counts()
    want = sizes(lambda: GPT(GPTConfig(**size, n_heads=heads)))
    assert (found["all"], found["cache"]) == want
    modern = {**size, "n_heads": heads, "n_kv_heads": heads // 4, "d_ff": 8 * -(-width // 3)}
    for model, qk_norm in ((Llama, False), (Qwen3, True)):
        parts = {**TODAY, "qk_norm": qk_norm}
        found = BlockChanger({}, width=width, layers=3, context=256, **parts).counts()
        config = model.config_class(**modern, tied=True)
        assert (found["all"], found["cache"]) == sizes(lambda: model(config)), model
    assert issubclass(Qwen3.config_class, LlamaConfig)


def test_each_part_changes_its_own_count():
    base = BlockChanger({}, width=768, layers=1).counts()
    for name in PARTS:
        found = BlockChanger({}, width=768, layers=1, **{name: True}).counts()
        assert (found["cache"] != base["cache"]) == (name == "grouped")
        assert (found["parameters"] == base["parameters"]) == (name == "rotary")
        assert found["all"] != base["all"]


def test_what_does_not_fit_is_refused():
    for bad in ({"width": 100}, {"layers": 0}, {"context": 1}):
        with pytest.raises(ValueError, match="must be"):
            BlockChanger({}, **bad)
    with pytest.raises(ValueError, match="6 digits"):
        BlockChanger({"01": {}})


@in_browser
def test_the_browser_counts_as_python_for_every_mix(open_widget):
    page = open_widget(FIGURES["blocks"][0]())
    for width, context in ((256, 128), (1024, 4096)):
        page.set("width", width)
        page.set("context", context)
        for bits in itertools.product((False, True), repeat=len(PARTS)):
            state = dict(zip(PARTS, bits))
            for name, value in state.items():
                page.set(name, value)
            want = BlockChanger({}, width=width, context=context, **state).counts()
            shown = page.page.eval_on_selector_all(
                "[data-count]", "els => els.map(e => [e.dataset.count, +e.dataset.value])"
            )
            assert dict(map(tuple, shown)) == want, state


@in_browser
def test_a_click_changes_a_part_and_its_recorded_loss_is_told(open_widget):
    page = open_widget(FIGURES["blocks"][0]())
    assert "2.520 at a rate of 0.003 (5 seeds, 2.500 to 2.540)" in page.text(".readout")
    page.page.locator('[data-part="gated"]').click()
    assert page.state("gated") is True and "was not trained" in page.text(".readout")
    assert "SwiGLU" in page.text('[data-part="gated"]')
    page.page.locator('[data-name="today"]').click()
    assert all(page.state(name) for name in PARTS)
    assert "2.150 at a rate of 0.003 (2 seeds" in page.text(".readout")
    this = page.page.locator('.dot[data-which="this"]')
    assert this.count() == 1 and float(this.get_attribute("data-value")) == pytest.approx(2.15)
    page.page.locator('[data-name="gpt"]').click()
    assert not any(page.state(name) for name in PARTS)
