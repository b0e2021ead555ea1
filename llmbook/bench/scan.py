"""The race of scans: ours against the public ones in torch, forward and backward.

Mamba's scan at some lengths against `transformers`' slow path, mamba.py's parallel scan (where
`mambapy` is installed) and mamba-ssm's kernels (where they could be built); Mamba-2's chunked form
against `transformers`' `mamba2_chunk_scan`. A peer that is not there is said to be not installed.
Ours alone is then timed at longer lengths: the time of a token and the memory should stay flat.

One run is the scan with softplus, skip and gate, and the gradients of all inputs. Peers run on the
same numbers in their own layout; the transposes stand outside of the clock.
"""

import functools
import importlib.util
import os
import subprocess
import sys
import time

import torch

from llmbook.bench.race import check_results, positive, relative_error, run_pair
from llmbook.ssm import explain_backend, selective_scan, ssd

TOLERANCE = 1e-4


def add_arguments(parser):
    """What to race, and how large."""
    add = parser.add_argument
    add("--tokens", nargs="+", type=positive, metavar="N", help="default 1024 2048; quick 40")
    add(
        "--longest", type=positive, help="ours alone, up to this length (default 131072; quick 80)"
    )
    add("--channels", type=positive, default=256, help="channels (default 256)")
    add("--states", type=positive, default=16, help="states a channel (default 16)")
    add("--batch", type=positive, default=1, help="sequences in a batch (default 1)")
    add("--backends", nargs="+", default=["auto", "loop"], help="ours (default: auto loop)")


def run(options, report):
    """Race every length against every peer, then time ours alone."""
    lengths = options.tokens or ([40] if options.quick else [1024, 2048])
    for tokens in lengths:
        inputs = _inputs(tokens, options)
        for peer, why_not, theirs in _peers(inputs):
            if why_not:
                print(f"L={tokens} {peer}: {why_not}", flush=True)
                continue
            for backend in options.backends:
                case = f"scan L={tokens} {backend}"
                report(
                    case, functools.partial(_race, case, backend, peer, theirs, inputs, options)
                )
        case = f"mamba2 L={tokens}"
        report(case, functools.partial(_race_ssd, case, tokens, options))
    _alone(options)


def _inputs(tokens, options):
    """u, delta, A, B, C, D, z, delta_bias, and the gradient of y."""
    torch.manual_seed(options.seed)
    b, d, n = options.batch, options.channels, options.states
    shapes = [(b, tokens, d), (b, tokens, d), (b, tokens, n), (b, tokens, n), (d,), (b, tokens, d)]
    u, delta, B, C, D, z = (torch.randn(s, device=options.device) for s in shapes)
    A = -torch.arange(1.0, n + 1, device=options.device).repeat(d, 1)
    bias = torch.randn(d, device=options.device) - 3
    return [u, delta, A, B, C, D, z, bias], torch.randn_like(u)


def step(inputs, backend):
    """Ours: y and the gradients of all inputs."""
    xs, upstream = inputs
    xs = [x.detach().requires_grad_() for x in xs]
    u, delta, A, B, C, D, z, bias = xs
    y = selective_scan(
        u, delta, A, B, C, D=D, z=z, delta_bias=bias, delta_softplus=True, backend=backend
    )
    return [y.detach(), *torch.autograd.grad(y, xs, upstream)]


def _peers(inputs):
    """(name, why it cannot run or None, step) of each peer, on its own layout."""
    xs, upstream = inputs
    turned = [x.transpose(1, 2).contiguous() if x.ndim == 3 else x for x in xs]
    up = upstream.transpose(1, 2).contiguous()

    def called(scan, *options, **more):
        def run_it():
            held = [x.detach().requires_grad_() for x in turned]
            u, delta, A, B, C, D, z, bias = held
            y = scan(u, delta, A, B, C, D, z, bias, True, *options, **more)
            found = [y.detach(), *torch.autograd.grad(y, held, up)]
            return [
                x.transpose(1, 2) if f.ndim == 3 else x
                for x, f in zip(found, [up, *turned], strict=True)
            ]

        return run_it

    if importlib.util.find_spec("transformers") is None:
        yield "transformers", "not installed", None
        yield "mambapy", "not installed", None
    else:
        from transformers.models.mamba.modeling_mamba import mamba_selective_scan as slow

        yield "transformers", None, called(slow)
        there = importlib.util.find_spec("mambapy") is not None
        yield "mambapy", None if there else "not installed", called(slow, use_mambapy=True)
    if importlib.util.find_spec("mamba_ssm") is None:
        yield "mamba-ssm", "not installed (its kernels are built for CUDA alone)", None
    else:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        yield "mamba-ssm", None, called(selective_scan_fn)


def _truth(inputs):
    xs, upstream = inputs
    return step(([x.double() for x in xs], upstream.double()), "loop")


def _race(case, backend, peer, theirs, inputs, options):
    truth = _truth(inputs)
    runs = {"ours": lambda: step(inputs, backend), peer: theirs}
    errors = {name: relative_error(run(), truth) for name, run in runs.items()}
    check_results(errors, TOLERANCE)
    print(f"  {explain_backend(inputs[0][0], inputs[0][2], backend)}".splitlines()[0], flush=True)
    outcome = run_pair(
        case,
        runs,
        errors,
        tolerance=TOLERANCE,
        device=options.device,
        repeats=options.repeats,
        warmup=options.warmup,
    )
    return [outcome]


def _race_ssd(case, tokens, options):
    """Mamba-2's chunked form against transformers', at heads of 64 and 64 states."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan as slow

    torch.manual_seed(options.seed)
    b, heads, n = options.batch, max(1, options.channels // 64), 64
    shapes = [(b, tokens, heads, 64), (b, tokens, heads), (b, tokens, 1, n), (b, tokens, 1, n)]
    x, delta, B, C = (torch.randn(s, device=options.device) for s in shapes)
    A = -torch.linspace(1, 16, heads, device=options.device)
    bias, D = (
        torch.randn(heads, device=options.device) - 3,
        torch.ones(heads, device=options.device),
    )
    upstream, given = torch.randn_like(x), [x, delta, A, B, C, D, bias]

    def ours(xs=given, up=upstream, backend="chunked"):
        xs = [v.detach().requires_grad_() for v in xs]
        x, delta, A, B, C, D, bias = xs
        y = ssd(x, delta, A, B, C, D=D, delta_bias=bias, delta_softplus=True, backend=backend)
        return [y.detach(), *torch.autograd.grad(y, xs, up)]

    def theirs():
        xs = [v.detach().requires_grad_() for v in given]
        x, delta, A, B, C, D, bias = xs
        y = slow(x, delta, A, B, C, 256, D=D, dt_bias=bias, dt_softplus=True)
        return [y.detach(), *torch.autograd.grad(y, xs, upstream)]

    truth = ours([v.double() for v in given], upstream.double())
    runs = {"ours": ours, "transformers": theirs}
    errors = {name: relative_error(run(), truth) for name, run in runs.items()}
    check_results(errors, TOLERANCE)
    outcome = run_pair(
        case,
        runs,
        errors,
        tolerance=TOLERANCE,
        device=options.device,
        repeats=options.repeats,
        warmup=options.warmup,
    )
    return [outcome]


# --- ours alone: the time of a token, and memory


def _alone(options):
    longest = options.longest or (80 if options.quick else 131072)
    tokens = max(min(longest, 40 if options.quick else 2048), 1)
    base = None
    while tokens <= longest:
        inputs = _inputs(tokens, options)
        step(inputs, "auto")
        times = []
        for _ in range(3):
            began = time.perf_counter()
            step(inputs, "auto")
            times.append(time.perf_counter() - began)
        each = min(times) / tokens
        base = base or each
        print(f"ours L={tokens}: time of a token {each / base:.2f} of the first's", flush=True)
        tokens *= 4
    if options.quick or options.device.type == "cuda":
        return
    for tokens in options.tokens or [2048]:
        sizes = {who: _peak(who, tokens, options) for who in ("ours", "transformers")}
        told = ", ".join(f"{who} {size:.0f} MB" for who, size in sizes.items())
        print(f"memory above the inputs, L={tokens}: {told}", flush=True)


_MEMORY = """
import argparse, resource, sys, torch
from llmbook.bench import scan
torch.set_num_threads(1)
o = argparse.Namespace(seed=0, batch={b}, channels={d}, states={n}, device=torch.device("cpu"))
warm = scan._inputs(4, o)
for name, why, run in scan._peers(warm):
    if name == "transformers": run()
scan.step(warm, "auto")
inputs = scan._inputs({tokens}, o)
runs = dict((name, run) for name, why, run in scan._peers(inputs) if run)
runs["ours"] = lambda: scan.step(inputs, "auto")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
runs["{who}"]()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def _peak(who, tokens, options):
    """MB that one run adds to a fresh process's peak."""
    code = _MEMORY.format(
        b=options.batch, d=options.channels, n=options.states, tokens=tokens, who=who
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout.split()[-1])
