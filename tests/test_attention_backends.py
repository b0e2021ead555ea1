"""Which backend of attention runs: the choice, its explanation, and a refusal where one cannot."""

import pytest
import torch
from test_attention import make, seeded  # noqa: F401 - seeded is a fixture

import llmbook.attention as module
from llmbook.attention import attention, explain_backend


def test_auto_is_sdpa_on_a_cpu_and_says_so():
    q, k, v = make(dtype=torch.float32, head_dim=16)
    choice = explain_backend(q, k, v)
    assert choice.backend == "sdpa"
    assert set(choice.others) == {"reference", "triton"}
    assert choice.others["triton"]
    assert str(choice).startswith("sdpa: ")
    assert explain_backend(q, k, v, backend="reference").backend == "reference"


def ran(monkeypatch):
    """Record which backend runs, in place of running it."""
    seen = []

    def record(name):
        return lambda problem: seen.append(name) or problem.q

    monkeypatch.setattr(module, "_RUN", {name: record(name) for name in module.BACKENDS})
    return seen


class OnCuda(torch.Tensor):
    """A tensor that says it is on a CUDA device, on a machine without one."""

    is_cuda = property(lambda self: True)
    device = property(lambda self: torch.device("cuda:0"))


def on_cuda(*shape, dtype=torch.float16):
    return torch.empty(shape, dtype=dtype).as_subclass(OnCuda)


@pytest.fixture
def chip(monkeypatch):
    """Set the compute capability that the dispatch sees."""
    import llmbook.kernels

    def pretend(capability):
        monkeypatch.setattr(llmbook.kernels, "capability", lambda device: capability)

    monkeypatch.setattr(llmbook.kernels, "installed", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return pretend


def test_auto_is_pytorchs_and_the_triton_kernel_runs_by_name(monkeypatch, chip):
    chip((9, 0))
    q = k = v = on_cuda(2, 4, 63, 64)
    choice = explain_backend(q, k, v)
    assert choice.backend == "sdpa" and "not measured ahead" in choice.others["triton"]
    assert explain_backend(q, k, v, causal=True, backend="triton").backend == "triton"
    assert "dropout" in explain_backend(q, k, v, dropout=0.1).others["triton"]
    named = explain_backend(q, k, v, backend="reference")
    assert named.reason == "asked for by name" and named.others["sdpa"] == "not asked for"
    seen = ran(monkeypatch)
    for backend in ("auto", "triton", "sdpa", "reference"):
        attention(q, k, v, backend=backend)
    assert seen == ["sdpa", "triton", "sdpa", "reference"]


@pytest.mark.parametrize(
    ("capability", "dtype", "head_dim", "extra", "named"),
    [
        ((9, 0), torch.float16, 64, {"mask": True}, "mask"),
        ((9, 0), torch.float16, 64, {"bias": True}, "bias"),
        ((9, 0), torch.float16, 64, {"dropout": 0.1}, "dropout"),
        ((9, 0), torch.float16, 64, {"scale": -1.0}, "scale"),
        ((9, 0), torch.float64, 64, {}, "float64"),
        ((9, 0), torch.float16, 8, {}, "head_dim"),
        ((9, 0), torch.float16, 257, {}, "head_dim"),
        ((9, 0), torch.float32, 160, {}, "head_dim"),
        ((8, 9), torch.float16, 160, {}, "head_dim"),
        ((7, 5), torch.bfloat16, 64, {}, "bfloat16"),
        ((7, 0), torch.float16, 64, {}, "7.5"),
    ],
)
def test_triton_by_name_refuses_what_it_lacks(chip, capability, dtype, head_dim, extra, named):
    chip(capability)
    q = k = v = on_cuda(2, 4, 63, head_dim, dtype=dtype)
    if "mask" in extra:
        extra = {"mask": on_cuda(63, 63, dtype=torch.bool)}
    if "bias" in extra:
        extra = {"bias": on_cuda(63, 63, dtype=torch.float32)}
    with pytest.raises(ValueError, match=f"backend='triton' cannot run.*{named}"):
        attention(q, k, v, backend="triton", **extra)
    with pytest.raises(ValueError, match=named):
        explain_backend(q, k, v, backend="triton", **extra)


def test_triton_by_name_on_a_cpu_raises_rather_than_falling_back(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    q, k, v = make(dtype=torch.float32, head_dim=16)
    with pytest.raises(ValueError, match="backend='triton' cannot run"):
        attention(q, k, v, backend="triton")


def test_importing_attention_does_not_import_triton(fresh):
    code = (
        "import sys, llmbook.attention, llmbook.kernels, llmbook.multihead, torch;"
        "q = torch.randn(1, 1, 3, 16);"
        "print(llmbook.attention.explain_backend(q, q, q));"
        "sys.exit('triton' in sys.modules)"
    )
    done = fresh(code)
    assert done.returncode == 0, done.stderr
