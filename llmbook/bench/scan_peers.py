"""The public selective scans that ours is raced against, each on its own layout.

    transformers    its slow path, one token after the other
    mambapy         mamba.py's parallel scan; mambapy-loop: its loop        (pip install mambapy)
    mamba-minimal   a loop                                (a checkout, or a folder with model.py)
    heinsen         two cumulative sums of complex logarithms, as published: five lines
    unfused         our own tree of joined steps, every state in memory
    mamba-ssm       the authors' CUDA kernels, where they could be built

A peer that is not there is said to be not installed; `--peer NAME=FOLDER` names a folder it is in.
Every peer gives y and the gradients of all inputs. Where a scan has no softplus and no gate of its
own, they are put around it as its own block does.
"""

import argparse
import functools
import importlib
import importlib.util
import sys
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from llmbook.ssm import selective_scan

NAMES = (
    "transformers",
    "mambapy",
    "mambapy-loop",
    "mamba-minimal",
    "heinsen",
    "mamba-ssm",
    "unfused",
)


def peers(inputs, folders, wanted=NAMES):
    """(name, why it cannot run or None, step) of each peer.

    inputs: (u, delta, A, B, C, D, z, delta_bias), all batch first, and y's gradient. folders:
    {name: where it is}.
    """
    for name in wanted:
        try:
            yield name, None, _STEPS[name](inputs, folders.get(name))
        except (ImportError, OSError) as error:
            yield name, f"not installed ({error})", None


def named_folder(text):
    """An argparse type: (name, folder) from "name=folder"."""
    name, sign, folder = text.partition("=")
    if not sign or name not in NAMES:
        raise argparse.ArgumentTypeError(f"must be NAME=FOLDER, NAME of {NAMES}: got {text!r}")
    return name, folder


def _loaded(module, folder, path=None):
    """A module by name, looked for in `folder` first; by its file where `path` is given."""
    if folder is None or path is None:
        if folder is not None:
            sys.path.insert(0, folder)
        try:
            return importlib.import_module(module)
        finally:
            if folder is not None:
                sys.path.remove(folder)
    spec = importlib.util.spec_from_file_location(module, f"{folder}/{path}")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def _channels_first(scan, inputs):
    """A whole scan over (batch, channels, tokens): ours are turned before the clock starts."""
    xs, upstream = inputs
    turned = [x.transpose(1, 2).contiguous() if x.ndim == 3 else x for x in xs]
    up = upstream.transpose(1, 2).contiguous()

    def step():
        held = [x.detach().requires_grad_() for x in turned]
        u, delta, A, B, C, D, z, bias = held
        y = scan(u, delta, A, B, C, D, z, bias, True)
        found = [y.detach(), *torch.autograd.grad(y, held, up)]
        return [
            f.transpose(1, 2) if x.ndim == 3 else f
            for f, x in zip(found, [up, *turned], strict=True)
        ]

    return step


def _channels_last(scan, inputs):
    """A bare scan(u, Δ, A, B, C, D), with softplus and gate around it."""
    xs, upstream = inputs

    def step():
        held = [x.detach().requires_grad_() for x in xs]
        u, delta, A, B, C, D, z, bias = held
        y = scan(u, F.softplus(delta + bias), A, B, C, D) * F.silu(z)
        return [y.detach(), *torch.autograd.grad(y, held, upstream)]

    return step


def _transformers(inputs, folder):
    module = _loaded("transformers.models.mamba.modeling_mamba", folder)
    return _channels_first(module.mamba_selective_scan, inputs)


def _mambapy(inputs, folder):
    block = _loaded("mambapy.mamba", folder).MambaBlock
    return _channels_last(lambda *xs: block.selective_scan(None, *xs), inputs)


def _mambapy_loop(inputs, folder):
    block = _loaded("mambapy.mamba", folder).MambaBlock
    channels, n_states = inputs[0][2].shape
    its = SimpleNamespace(config=SimpleNamespace(d_inner=channels, d_state=n_states))
    return _channels_last(lambda *xs: block.selective_scan_seq(its, *xs), inputs)


def _mamba_minimal(inputs, folder):
    if folder is None:
        raise ImportError("name its checkout by --peer mamba-minimal=FOLDER")
    block = _loaded("mamba_minimal", folder, "model.py").MambaBlock
    return _channels_last(lambda *xs: block.selective_scan(None, *xs), inputs)


def heinsen(u, delta, A, B, C, D):
    """log h_t = S_t + logcumsumexp(log b − S)_t, S the sums of Δ A; log b is complex for b < 0.

    Source: Heinsen 2023, equations 1, 2 and 7.
    """
    kept = (delta[..., None] * A).cumsum(1)
    fed = (delta * u)[..., None] * B[:, :, None]
    logs = torch.complex(fed.abs().clamp(min=1e-6).log(), (fed < 0).to(fed.dtype) * torch.pi)
    states = (kept + torch.logcumsumexp(logs - kept, 1)).exp().real
    return (states * C[:, :, None]).sum(-1) + u * D


def _heinsen(inputs, folder):
    return _channels_last(heinsen, inputs)


def _mamba_ssm(inputs, folder):
    module = _loaded("mamba_ssm.ops.selective_scan_interface", folder)
    return _channels_first(module.selective_scan_fn, inputs)


def _unfused(inputs, folder):
    tree = functools.partial(selective_scan, backend="associative")
    return _channels_last(lambda u, delta, A, B, C, D: tree(u, delta, A, B, C, D=D), inputs)


_STEPS = {
    "transformers": _transformers,
    "mambapy": _mambapy,
    "mambapy-loop": _mambapy_loop,
    "mamba-minimal": _mamba_minimal,
    "heinsen": _heinsen,
    "mamba-ssm": _mamba_ssm,
    "unfused": _unfused,
}


def delta_peers():
    """(name, why it cannot run or None, rule) of each gated delta rule, run by chunks.

    rule(q, k, v, beta, log_alpha) → o, with q scaled by key_dim^-½ inside.
    """
    for name, module, function in _RULES:
        try:
            rule = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            yield name, f"not installed ({error})", None
        else:
            yield name, None, functools.partial(_by_chunks, rule)


def _by_chunks(rule, q, k, v, beta, log_alpha):
    return rule(q, k, v, g=log_alpha, beta=beta)[0]


_RULES = (
    (
        "transformers",
        "transformers.models.qwen3_next.modeling_qwen3_next",
        "torch_chunk_gated_delta_rule",
    ),
    ("flash-linear-attention", "fla.ops.gated_delta_rule", "chunk_gated_delta_rule"),
)
