"""Small models whose steps are compared, and the comparison."""

import torch
from helpers.decoding_subject import sharpened

from llmbook.decoding.step import step_for
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.llama import Llama, Llama3Scaling, LlamaConfig
from llmbook.models.mistral import Mistral, MistralConfig
from llmbook.models.qwen import Qwen2, Qwen2Config

ROWS = [[5, 9, 3, 11, 4], [7, 3], [12, 5, 8]]


def gpt(**options):
    torch.manual_seed(0)
    return sharpened(GPT(GPTConfig(17, 40, 24, 3, 3, **options)))


def llama(**options):
    torch.manual_seed(0)
    sizes = {"d_model": 24, "n_layers": 3, "n_heads": 4, "d_ff": 20, "max_len": 40}
    return sharpened(Llama(LlamaConfig(vocab_size=17, **{**sizes, **options})))


def mistral(window):
    torch.manual_seed(0)
    sizes = {"d_model": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 20}
    return sharpened(Mistral(MistralConfig(vocab_size=17, max_len=40, **sizes, window=window)))


def qwen2():
    torch.manual_seed(0)
    sizes = {"d_model": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 20}
    return sharpened(Qwen2(Qwen2Config(vocab_size=17, max_len=40, **sizes)))


CASES = {
    "mistral within its window": lambda: mistral(30),
    "qwen2": qwen2,
    "gpt": lambda: gpt(tied=False),
    "gpt, tied, relu": lambda: gpt(activation="relu"),
    "llama": lambda: llama(),
    "llama, grouped, biases": lambda: llama(n_kv_heads=2, attention_bias=True, ffn_bias=True),
    "llama, wide heads, one key head": lambda: llama(n_kv_heads=1, head_dim=10),
    "llama, scaled": lambda: llama(rope_scaling=Llama3Scaling(original_max_len=8), tied=True),
}


def followed(model, ids, keep, steps=6, backend="step", copies=None):
    """Logits step by step, by the model's call and by the short way, over the same tokens."""
    room = ids.shape[1] + steps
    caches = [model.new_cache(len(ids), room) for _ in range(2)]
    with torch.no_grad():
        for cache in caches:
            model(ids, keep, cache=cache)
        keep_bool = None if keep is None else keep.bool()
        step = step_for(model, caches[1], keep_bool, backend, copies)
        called, short = [], []
        new = torch.randint(17, (len(ids), steps), generator=torch.Generator().manual_seed(1))
        for i in range(steps):
            if keep is not None:
                keep = torch.cat([keep, torch.ones_like(keep[:, :1])], 1)
            called.append(model(new[:, i : i + 1], keep, cache=caches[0])[:, 0])
            short.append(step(new[:, i]))
    for one, other in zip(*caches, strict=True):
        assert one.length == other.length == ids.shape[1] + steps
        torch.testing.assert_close(one.held(), other.held())
    return torch.stack(called), torch.stack(short)
