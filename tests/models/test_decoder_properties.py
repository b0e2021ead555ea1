"""Every kind of decoder, for any prompts and pieces: cached, padded and cut texts are the same."""

import functools

import pytest
import torch
from helpers.properties import settings
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from llmbook.decoding import generate
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.llama import Llama, LlamaConfig
from llmbook.models.mamba import Mamba, MambaConfig

CLOSE = {"rtol": 1e-8, "atol": 1e-8}
TEXT = st.lists(st.integers(0, 12), min_size=1, max_size=9)
MAKE = {
    "gpt": lambda: GPT(GPTConfig(13, 24, 12, 2, 2)),
    "llama": lambda: Llama(LlamaConfig(13, 24, 16, 2, 4, n_kv_heads=2, d_ff=20)),
    "mamba": lambda: Mamba(MambaConfig(13, d_model=8, n_layers=2, d_state=4)),
}


@functools.cache
def model(kind):
    torch.manual_seed(3)
    made = MAKE[kind]().double().eval()
    with torch.no_grad():
        for p in made.parameters():  # far from the first weights, which hardly look at the text
            if p.ndim > 1:
                p.mul_(3)
    return made


@pytest.mark.parametrize("kind", MAKE)
@settings(20)
@given(TEXT, st.integers(1, 4))
def test_logits_do_not_depend_on_the_pieces_that_a_text_is_read_in(kind, text, size):
    decoder, ids = model(kind), torch.tensor([text])
    with torch.no_grad():
        cache = decoder.new_cache(1, len(text))
        parts = [decoder(part, cache=cache) for part in ids.split(size, 1)]
        assert_close(torch.cat(parts, 1), decoder(ids), **CLOSE)


@pytest.mark.parametrize("kind", MAKE)
@settings(20)
@given(st.lists(TEXT, min_size=1, max_size=4), st.integers(0, 3))
def test_a_padded_batch_is_written_as_each_text_alone(kind, texts, more):
    decoder = model(kind)
    width = max(map(len, texts)) + more
    ids, keep = (torch.zeros(len(texts), width, dtype=torch.int64) for _ in range(2))
    for row, text in enumerate(texts):
        ids[row, width - len(text) :] = torch.tensor(text)
        keep[row, width - len(text) :] = 1
    together = generate(decoder, ids, keep, max_new_tokens=4)[:, width:]
    slowly = generate(decoder, ids, keep, max_new_tokens=4, use_cache=False)[:, width:]
    assert torch.equal(together, slowly)
    for row, text in enumerate(texts):
        alone = generate(decoder, torch.tensor([text]), max_new_tokens=4)[0, len(text) :]
        assert torch.equal(alone, together[row])
