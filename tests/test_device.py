"""Which device and which precision, and why."""

import pytest

from llmbook import device


@pytest.mark.parametrize(
    "cap, dtype", [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_precision_follows_the_compute_capability_and_says_why(cap, dtype, monkeypatch):
    monkeypatch.setattr(device, "capability", lambda d: cap)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *a: True)
    chosen, reason = device.choose_dtype("cpu")
    assert str(chosen) == f"torch.{dtype}" and f"{cap[0]}.{cap[1]}" in reason


def test_a_cpu_trains_in_float32_and_t4_rules_apply_to_any_device(monkeypatch):
    monkeypatch.delenv("LLMBOOK_DEVICE_PROFILE", raising=False)
    assert (
        str(device.choose_dtype("cpu")[0]) == "torch.float32" and device.capability("cpu") is None
    )
    monkeypatch.setenv("LLMBOOK_DEVICE_PROFILE", "t4")
    chosen, reason = device.choose_dtype("cpu")
    assert str(chosen) == "torch.float16" and "T4 rules" in reason
    assert device.capability("cpu") == (7, 5) and device.memory_gb("cpu") == 15.0
    assert "T4 rules, run on CPU" in device.describe("cpu")
    monkeypatch.setenv("LLMBOOK_DEVICE_PROFILE", "t5")
    with pytest.raises(ValueError, match="'t5'"):
        device.choose_dtype("cpu")


@pytest.mark.parametrize("bad", ["cuda:99", "tpu", "meta", ""])
def test_a_device_that_is_not_here_is_refused(bad):
    with pytest.raises(ValueError, match="CUDA devices|device must be"):
        device.resolve_device(bad)


@pytest.mark.parametrize("bad", [3.5, None, ["cpu"]])
def test_what_names_no_device_is_a_type_error(bad):
    with pytest.raises(TypeError, match="device must be 'auto', 'cpu', 'cuda'"):
        device.resolve_device(bad)
