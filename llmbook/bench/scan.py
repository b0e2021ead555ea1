"""The race of scans: ours against the public ones in torch, forward and backward.

Mamba's scan at some lengths against `llmbook.bench.scan_peers`; Mamba-2's against `transformers`'
`mamba2_chunk_scan`; the gated delta rule against `transformers`' and flash-linear-attention's; the
scan against causal attention of the same width, which is not the same function: from which length
on is it ahead? Ours alone is then timed at longer lengths: the time of a token should stay flat
and the memory grow as the length.

One run is the scan with softplus, skip and gate, and the gradients of all inputs. Peers run on the
same numbers in their own layout; the transposes stand outside of the clock.
"""

import argparse
import functools
import statistics
import sys
import time

import torch
import torch.nn.functional as F

from llmbook.bench import memory
from llmbook.bench.race import check_results, positive, relative_error, run_pair
from llmbook.bench.scan_peers import NAMES, delta_peers, named_folder, peers
from llmbook.ssm import (
    explain_backend,
    explain_delta_backend,
    explain_ssd_backend,
    gated_delta_rule,
    selective_scan,
    ssd,
)

TOLERANCE, HALF_TOLERANCE = 1e-4, 3e-2
INEXACT = ("heinsen",)  # its sums of logarithms lose digits as they grow
PARTS = ("scan", "mamba2", "delta", "attention", "alone", "memory")
HEAD = 64  # width of a head, and states of Mamba-2


def add_arguments(parser):
    """What to race, and how large."""
    add = parser.add_argument
    lengths = {"nargs": "+", "type": positive, "metavar": "N"}
    add("--tokens", **lengths, help="default 512 1024 2048; quick 40")
    add(
        "--longest", type=positive, help="ours alone, up to this length (default 131072; quick 80)"
    )
    add("--channels", type=positive, default=256, help="channels (default 256)")
    add("--states", type=positive, default=16, help="states a channel (default 16)")
    add("--batch", type=positive, default=1, help="sequences in a batch (default 1)")
    add("--backends", nargs="+", default=["auto", "loop"], help="ours (default: auto loop)")
    add("--against", nargs="+", choices=NAMES, default=NAMES, help="peers (default: all)")
    where = {"action": "append", "type": named_folder, "default": [], "metavar": "NAME=FOLDER"}
    add("--peer", **where, help="where a peer is that is not installed")
    add("--half", action="store_true", help="inputs in float16, as GPUs like them")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="which (default: all)")


def run(options, report):
    """Race every length against every peer, then time and weigh ours alone."""
    folders = dict(options.peer)
    lengths = options.tokens or ([40] if options.quick else [512, 1024, 2048])
    for tokens in lengths:
        inputs = _inputs(tokens, options)
        for peer, why_not, theirs in peers(inputs, folders, options.against):
            if "scan" not in options.parts:
                break
            if why_not:
                print(f"L={tokens} {peer}: {why_not}", flush=True)
                continue
            for backend in options.backends:
                case = f"scan L={tokens} {backend}"
                report(
                    case, functools.partial(_race, case, backend, peer, theirs, inputs, options)
                )
        for backend in ("auto", "chunked") if "mamba2" in options.parts else ():
            case = f"mamba2 L={tokens} {backend}"
            report(case, functools.partial(_race_ssd, case, backend, tokens, options))
        for peer, why_not, theirs in delta_peers() if "delta" in options.parts else ():
            if why_not:
                print(f"L={tokens} {peer}'s delta rule: {why_not}", flush=True)
                continue
            for backend in ("auto", "chunked"):
                case = f"delta rule L={tokens} {backend}"
                asked = (case, backend, peer, theirs, tokens, options)
                report(case, functools.partial(_race_delta, *asked))
        if "attention" in options.parts:
            case = f"scan or attention L={tokens}"
            report(case, functools.partial(_race_attention, case, inputs, options))
    if "alone" in options.parts:
        _alone(options)
    if "memory" in options.parts and sys.platform == "linux" and options.device.type == "cpu":
        _memory(options)


def _inputs(tokens, options):
    """u, delta, A, B, C, D, z, delta_bias, and the gradient of y."""
    torch.manual_seed(options.seed)
    b, d, n = options.batch, options.channels, options.states
    shapes = [(b, tokens, d), (b, tokens, d), (b, tokens, n), (b, tokens, n), (d,), (b, tokens, d)]
    u, delta, B, C, D, z = (torch.randn(s, device=options.device) for s in shapes)
    if options.half:
        u, delta, B, C, z = (x.half() for x in (u, delta, B, C, z))
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


def _truth(inputs):
    xs, upstream = inputs
    return step(([x.double() for x in xs], upstream.double()), "loop")


def _race(case, backend, peer, theirs, inputs, options):
    truth = _truth(inputs)
    runs = {"ours": lambda: step(inputs, backend), peer: theirs}
    errors = {name: relative_error(run(), truth) for name, run in runs.items()}
    if peer in INEXACT and not errors[peer] <= TOLERANCE:
        print(f"{case}: {peer} is {errors[peer]:.1g} off the truth: no speed is shown", flush=True)
        return []
    return _pair(case, runs, errors, explain_backend(inputs[0][0], inputs[0][2], backend), options)


def _pair(case, runs, errors, choice, options):
    """The race itself, of results that are right; says first which backend of ours runs."""
    tolerance = HALF_TOLERANCE if options.half else TOLERANCE
    check_results(errors, tolerance)
    print(f"  {choice}".splitlines()[0], flush=True)
    device, repeats, warmup = options.device, options.repeats, options.warmup
    more = {"tolerance": tolerance, "device": device, "repeats": repeats, "warmup": warmup}
    return [run_pair(case, runs, errors, **more)]


def _race_ssd(case, backend, tokens, options):
    """Mamba-2's scan against transformers' chunked form, at heads of 64 and 64 states."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan as slow

    torch.manual_seed(options.seed)
    b, heads, n = options.batch, _heads(options), HEAD
    shapes = [(b, tokens, heads, HEAD), (b, tokens, heads), (b, tokens, 1, n), (b, tokens, 1, n)]
    x, delta, B, C = (torch.randn(s, device=options.device) for s in shapes)
    if options.half:
        x, B, C = x.half(), B.half(), C.half()
    A = -torch.linspace(1, 16, heads, device=options.device)
    bias, D = (
        torch.randn(heads, device=options.device) - 3,
        torch.ones(heads, device=options.device),
    )
    upstream, given = torch.randn_like(x), [x, delta, A, B, C, D, bias]

    def ours(xs=given, up=upstream):
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
    return _pair(case, runs, errors, explain_ssd_backend(x, B, backend), options)


def _heads(options):
    return max(1, options.channels // HEAD)


def _race_delta(case, backend, peer, theirs, tokens, options):
    """The gated delta rule, at heads of 64, with the queries' usual scale."""
    torch.manual_seed(options.seed)
    wide = (options.batch, tokens, _heads(options), HEAD)
    q, k, v, upstream = (torch.randn(wide, device=options.device) for _ in range(4))
    k = F.normalize(k, dim=-1)
    beta, log_alpha = torch.rand(wide[:3]), -0.1 * torch.rand(wide[:3])
    given = [q, k, v, beta.to(options.device)]
    if options.half:
        given, upstream = [x.half() for x in given], upstream.half()
    given.append(log_alpha.to(options.device))

    def run(rule, xs=given, up=upstream):
        xs = [x.detach().requires_grad_() for x in xs]
        o = rule(*xs)
        return [o.detach(), *torch.autograd.grad(o, xs, up)]

    def ours(q, *rest, backend=backend):
        return gated_delta_rule(q * HEAD**-0.5, *rest, backend=backend)

    high = [x.double() for x in given], upstream.double()
    truth = run(functools.partial(ours, backend="reference"), *high)
    runs = {"ours": lambda: run(ours), peer: lambda: run(theirs)}
    errors = {name: relative_error(run(), truth) for name, run in runs.items()}
    return _pair(case, runs, errors, explain_delta_backend(q, v, backend), options)


def _race_attention(case, inputs, options):
    """The scan against causal attention over as many channels, in heads of 64.

    They are two functions: ours alone is held to a truth here.
    """
    u = inputs[0][0]
    heads = u[..., : HEAD * _heads(options)].unflatten(-1, (-1, min(HEAD, u.shape[-1])))
    q = heads.transpose(1, 2).contiguous()  # (batch, heads, tokens, 64)

    def attention():
        xs = [q.detach().clone().requires_grad_() for _ in range(3)]
        o = F.scaled_dot_product_attention(*xs, is_causal=True)
        return torch.autograd.grad(o, xs, q)

    runs = {"ours": lambda: step(inputs, "auto"), "attention": attention}
    errors = {"ours": relative_error(step(inputs, "auto"), _truth(inputs)), "attention": 0.0}
    return _pair(case, runs, errors, explain_backend(u, inputs[0][2]), options)


# --- ours alone: the time of a token, and memory


def _alone(options):
    """Time of a token at growing lengths, measured in turn, so that all meet the same load.

    On a CPU it is the processor's time, of all threads: what else runs does not count in it.
    """
    longest = options.longest or (80 if options.quick else 131072)
    tokens, lengths = min(longest, 20 if options.quick else 2048), []
    while tokens <= longest:
        lengths.append(tokens)
        tokens *= 4
    times = {n: [] for n in lengths}
    for turn in range(2 if options.quick else 4):
        for n in lengths:
            inputs, repeats = _inputs(n, options), max(1, lengths[-1] // n // 4)
            began = _clock(options.device)
            for _ in range(repeats):
                step(inputs, "auto")
            if turn:  # the first warms up
                times[n].append((_clock(options.device) - began) / repeats / n)
    first = statistics.median(times[lengths[0]])
    for n in lengths:
        each = statistics.median(times[n]) / first
        print(f"ours L={n}: time of a token {each:.2f} of the first's", flush=True)


def _clock(device):
    """Seconds: of the processor on a CPU, else of the wall when the device has done its work."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _memory(options):
    lengths = options.tokens or ([40] if options.quick else [2048])
    for tokens in lengths:
        sizes = {who: _peak(who, tokens, options) for who in ("ours", "transformers")}
        told = ", ".join(f"{who} {size:.1f} MB" for who, size in sizes.items())
        print(f"memory above the inputs, L={tokens}: {told}", flush=True)
    for tokens in () if options.quick else (8192, 32768, options.longest or 131072):
        print(f"memory above the inputs, L={tokens}: ours {_peak('ours', tokens, options):.1f} MB")


def measured(who, tokens, sizes):
    """Bytes that one run takes above its inputs; to be called in a fresh process."""
    torch.set_num_threads(1)
    options = argparse.Namespace(**sizes, seed=0, device=torch.device("cpu"), half=False)

    def run(n):
        inputs = _inputs(n, options)
        if who == "ours":
            return lambda: step(inputs, "auto")
        return next(peers(inputs, {}, [who]))[2]

    run(4)()  # what is imported and built on first use
    work = run(tokens)
    with memory.Peak() as peak:
        work()
    return peak.bytes


def _peak(who, tokens, options):
    """MB that one run adds to what a fresh process holds."""
    sizes = {name: getattr(options, name) for name in ("batch", "channels", "states")}
    return memory.in_fresh_process(measured, who, tokens, sizes, OMP_NUM_THREADS="1") / 2**20
