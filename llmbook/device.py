"""Which device, which precision, and why: decided once, from what the hardware can do."""

import os
import platform

import torch

from llmbook.checks import one_of

# What a device profile imposes on any device: LLMBOOK_DEVICE_PROFILE=t4.
# A T4 is a Turing chip: tensor cores for float16 alone, no bfloat16, 15 GB that a program can use.
_PROFILES = {"t4": {"capability": (7, 5), "memory_gb": 15.0}}


def device_profile():
    """Name of the imposed device profile (`LLMBOOK_DEVICE_PROFILE`), or None when none is set."""
    name = os.environ.get("LLMBOOK_DEVICE_PROFILE", "").strip().lower()
    if not name:
        return None
    return one_of("LLMBOOK_DEVICE_PROFILE", name, _PROFILES)


def resolve_device(name="auto"):
    """Turn `"auto"`, a device name or a `torch.device` into a device that exists here.

    `"auto"` is the current CUDA device where there is one, the CPU elsewhere. A device asked for
    by name that this machine lacks raises ValueError; there is no silent fall-back.
    """
    if isinstance(name, str) and name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        wrong = TypeError if isinstance(error, TypeError) else ValueError
        raise wrong(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N': got {name!r}") from error
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if (device.index or 0) >= found:
            raise ValueError(
                f"device {device} was asked for, but this machine has {found} CUDA devices"
            )
    elif device.type != "cpu":
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N': got {name!r}")
    return device


def capability(device="auto"):
    """CUDA compute capability `(major, minor)` of a device, None for a CPU.

    Under a device profile it is the profile's, whatever the device is.
    """
    profile = device_profile()
    if profile:
        return _PROFILES[profile]["capability"]
    device = resolve_device(device)
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def memory_gb(device="auto"):
    """Memory of a CUDA device in GB (10^9 bytes), capped by the device profile; None for a CPU."""
    device = resolve_device(device)
    profile = device_profile()
    found = None
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device).total_memory / 1e9
    if profile:
        cap = _PROFILES[profile]["memory_gb"]
        return cap if found is None else min(cap, found)
    return found


def choose_dtype(device="auto"):
    """The training precision for a device and the reason for it: `(dtype, reason)`.

    bfloat16 from compute capability 8.0 (Ampere) on, float16 below, float32 on a CPU. The
    capability decides, never `torch.cuda.is_bf16_supported()`: that has answered True on a T4,
    which emulates bfloat16 slowly.
    """
    cap = capability(device)
    rules = f" ({device_profile().upper()} rules)" if device_profile() else ""
    if cap is None:
        return torch.float32, "float32: a CPU, where half precision gains little or is slow"
    text = f"compute capability {cap[0]}.{cap[1]}{rules}"
    if cap >= (8, 0):
        return torch.bfloat16, f"bfloat16: {text} has it in hardware"
    return torch.float16, f"float16: {text} has no bfloat16, which needs 8.0"


def describe(device="auto"):
    """One line that names the hardware: what a recorded run says it ran on."""
    device = resolve_device(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = f"CPU {platform.machine()}, {threads} thread{'s' * (threads > 1)}"
    profile = device_profile()
    return f"{profile.upper()} rules, run on {name}" if profile else name
