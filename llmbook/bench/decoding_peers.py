"""What else decodes: llama.cpp's Q8_0 on the same weights, and how fast memory reads.

For llama.cpp the weights are written as a GGUF file (`gguf`) and read by `llama-cpp-python`, both
of the extra `bench`; where they are not, the race says "not installed".
"""

import contextlib
import importlib.util
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

WITHOUT_TILES = "llama.cpp: without AMX tiles, and so without layouts of its own for the weights"
NOT_INSTALLED = "llama.cpp: not installed (pip install 'llmbook[bench]')"


def installed():
    """Whether llama.cpp can be raced here."""
    return all(importlib.util.find_spec(name) for name in ("gguf", "llama_cpp"))


def llama_cpp(model, threads):
    """A function (ids, new) → list of new ids, greedily, by llama.cpp with Q8_0 weights of a GPT.

    model: a `GPT` with activation "gelu_tanh"; ids: a list. Matrices whose rows are no multiple of
    32 stay in float32, as llama.cpp's own conversion leaves them.
    """
    import llama_cpp

    with tempfile.TemporaryDirectory() as work, _without_tiles():
        path = Path(work, "model.gguf")
        write_gguf(model, path)
        engine = llama_cpp.Llama(
            str(path),
            n_ctx=model.config.max_len,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
            use_mmap=False,
        )

    def run(ids, new):
        engine.reset()
        engine.eval(ids)
        written = []
        for _ in range(new):
            written.append(engine.sample(temp=0.0, top_k=1, repeat_penalty=1.0))
            engine.eval(written[-1:])
        return written

    return run


def has_tiles():
    """Whether Linux says that this processor has AMX."""
    info = Path("/proc/cpuinfo")
    return info.is_file() and " amx_tile " in info.read_text()


@contextlib.contextmanager
def _without_tiles():
    """llama.cpp without its own layouts of weights, on a processor that has AMX.

    Its products in AMX tiles ended the process in a virtual machine (0.3.36), and nothing but all
    of its layouts can be left out. What they would gain there is not measured: the race says so.
    """
    import llama_cpp.llama_cpp as library

    usual = library.llama_model_default_params

    def plain():
        found = usual()
        found.use_extra_bufts = False
        return found

    if has_tiles():
        library.llama_model_default_params = plain
    try:
        yield
    finally:
        library.llama_model_default_params = usual


def write_gguf(model, path):
    """Write a GPT as llama.cpp's "gpt2" in Q8_0: blocks of 32 in 8 bits with a float16 scale."""
    import gguf

    config, out = model.config, gguf.GGUFWriter(str(path), "gpt2")
    out.add_context_length(config.max_len)
    out.add_embedding_length(config.d_model)
    out.add_feed_forward_length(model.blocks[0].ffn.up.out_features)
    out.add_block_count(config.n_layers)
    out.add_head_count(config.n_heads)
    out.add_layer_norm_eps(model.norm.eps)
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    out.add_tokenizer_model("no_vocab")
    out.add_vocab_size(config.vocab_size)
    for name, tensor in gguf_tensors(model):
        values = tensor.detach().float().numpy()
        kind = gguf.GGMLQuantizationType.F32
        if values.ndim == 2 and values.shape[1] % 32 == 0 and name != "position_embd.weight":
            kind = gguf.GGMLQuantizationType.Q8_0
            values = gguf.quants.quantize(np.ascontiguousarray(values), kind)
        out.add_tensor(name, values, raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def gguf_tensors(model):
    """(llama.cpp's name, tensor) of every weight of a GPT."""
    yield "token_embd.weight", model.tokens.weight
    yield "position_embd.weight", model.positions.weight
    yield "output.weight", model.head.weight
    yield "output_norm.weight", model.norm.weight
    yield "output_norm.bias", model.norm.bias
    for i, block in enumerate(model.blocks):
        attention, net = block.attention, block.ffn
        yield f"blk.{i}.attn_qkv.weight", attention.in_proj_weight
        yield f"blk.{i}.attn_qkv.bias", attention.in_proj_bias
        parts = {
            "attn_norm": block.norm1,
            "ffn_norm": block.norm2,
            "attn_output": attention.out_proj,
            "ffn_up": net.up,
            "ffn_down": net.down,
        }
        for name, layer in parts.items():
            yield f"blk.{i}.{name}.weight", layer.weight
            yield f"blk.{i}.{name}.bias", layer.bias


def bandwidth(repeats=5, size=2**28, device="cpu"):
    """Bytes a second that are read here: the sum of `size` float32, the median of some times."""
    ones = torch.ones(size, device=device)
    median_seconds(ones.sum, 1, device)  # a GPU's first call loads what it runs
    return ones.nbytes / median_seconds(ones.sum, repeats, device)


def median_seconds(run, repeats, device="cpu"):
    """Seconds of a call until its work on the device is done: the median of some."""
    done = torch.get_device_module(device).synchronize
    seconds = []
    for _ in range(repeats):
        done()
        began = time.perf_counter()
        run()
        done()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[repeats // 2]
