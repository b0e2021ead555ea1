"""The expert race: our experts against transformers', grouped_mm alone, and a dense layer.

One run is the experts' forward pass, or forward and backward with the gradients of the input, of
the routing weights and of every expert, for tokens whose experts are chosen already: sorting them
by expert and back is counted. Peers get the same weights and choices. `dense` is a gated
feed-forward layer of width k · F, which does as many operations for each token. Routing is
balanced, or Zipf: expert i is wanted with a probability in proportion to 1/i.

`--parts products` sets the experts' matrix products alone, PyTorch's one after the other on slots
that lie in order already, against ours.

Then the peak of the memory of one such run above its inputs, ours beside every peer's, each in a
process of its own (Linux, on a CPU), for the first routing and the last pass.
"""

import argparse

import torch

from llmbook.bench import memory
from llmbook.bench.race import WrongResultError, positive, relative_error, run_pair
from llmbook.layers import GatedFeedForward
from llmbook.moe import run_experts

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-1, "float16": 2e-2}
PEERS = ("eager", "batched_mm", "grouped_mm", "F.grouped_mm", "dense")
# transformers' batched experts copy a matrix for each slot; above this many bytes: left out
BATCHED_BYTES = 4 * 2**30
PARTS = ("race", "memory", "products")


def add_arguments(parser):
    """What to race, and how large."""
    add = parser.add_argument
    add("--experts", nargs="+", type=positive, help="default 8 64 128; quick 4")
    add("--tokens", nargs="+", type=positive, help="default 512 4096; quick 16")
    add("--d-model", type=positive, help="default 256; quick 16")
    add("--d-expert", type=positive, help="default 512; quick 32")
    add("--k", type=positive, default=2, help="experts a token (default 2)")
    add("--routing", nargs="+", choices=("balanced", "zipf"), default=["balanced", "zipf"])
    add("--passes", nargs="+", choices=("forward", "both"), default=["forward", "both"])
    add("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="default: all")
    add(
        "--backend",
        default="auto",
        help="ours: auto, compiled, sorted, grouped, triton (default auto)",
    )
    add("--dtype", choices=list(DTYPES), default="float32", help="default float32")
    add(
        "--parts", nargs="+", choices=PARTS, default=PARTS[:2], help="which (default: race memory)"
    )


def run(options, report):
    """Race every number of experts, of tokens, routing and pass; `report` prints and records."""
    cases = [
        (n_experts, tokens, routing, passes)
        for n_experts in options.experts or ([4] if options.quick else [8, 64, 128])
        for tokens in options.tokens or ([16] if options.quick else [512, 4096])
        for routing in options.routing
        for passes in options.passes
    ]
    for case in cases if "race" in options.parts else ():
        report(_name(*case), _race, *case, options)
    for case in cases if "products" in options.parts else ():
        report(_name(*case), _race_products, *case, options)
    if "memory" in options.parts and memory.is_told() and options.device.type == "cpu":
        for n_experts, tokens, *kind in cases:
            if kind == [options.routing[0], options.passes[-1]]:
                _memory(n_experts, tokens, *kind, options)


def _name(n_experts, tokens, routing, passes):
    return f"E={n_experts} N={tokens} {routing} {passes}"


def _sizes(options):
    """(d_model, d_expert)."""
    usual = (16, 32) if options.quick else (256, 512)
    return options.d_model or usual[0], options.d_expert or usual[1]


def _inputs(n_experts, tokens, routing, options):
    """The choices; [x, weights, in_weight, down_weight]; the gradient of the output."""
    dtype, device, k = DTYPES[options.dtype], options.device, options.k
    d_model, d_expert = _sizes(options)
    torch.manual_seed(options.seed)
    wanted = torch.ones(n_experts)
    if routing == "zipf":
        wanted /= torch.arange(1, n_experts + 1)
    chosen = torch.multinomial(wanted.expand(tokens, -1), k).to(device)
    weights = torch.rand(tokens, k).softmax(-1).to(device, dtype)
    x = torch.randn(tokens, d_model).to(device, dtype)
    upstream = torch.randn(tokens, d_model).to(device, dtype)
    scale = d_model**-0.5
    in_weight = (torch.randn(n_experts, 2 * d_expert, d_model) * scale).to(device, dtype)
    down_weight = (torch.randn(n_experts, d_model, d_expert) * scale).to(device, dtype)
    return chosen, [x, weights, in_weight, down_weight], upstream


def _step(function, leaves, upstream, passes):
    """One run: [the output], and every gradient where `passes` is "both"."""
    if passes == "forward":
        with torch.no_grad():
            return [function(*leaves)]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def _ours(chosen, backend):
    return lambda x, weights, up, down: run_experts(x, chosen, weights, up, down, backend=backend)


def _dense(options, x):
    """A gated layer of as many operations as a function of x and its parameters; these."""
    d_model, d_expert = _sizes(options)
    layer = GatedFeedForward(d_model, options.k * d_expert).to(x)
    names = [name for name, _ in layer.named_parameters()]

    def dense(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    return dense, [x, *layer.parameters()]


def _race(n_experts, tokens, routing, passes, options):
    """Ours against every peer, on one input, one set of experts and one routing."""
    case = _name(n_experts, tokens, routing, passes)
    chosen, leaves, upstream = _inputs(n_experts, tokens, routing, options)
    truth = _truth(chosen, leaves, upstream, passes)
    us = lambda: _step(_ours(chosen, options.backend), leaves, upstream, passes)
    functions, why = _theirs(options, n_experts, chosen)
    outcomes = []
    for peer in options.peers:
        if peer == "dense":
            # Another function, of as many operations: it is its own truth.
            function, own = _dense(options, leaves[0])
            errors = {"ours": relative_error(us(), truth), peer: 0.0}
        elif peer in functions:
            function, own = functions[peer], leaves
            errors = {"ours": relative_error(us(), truth)}
            errors[peer] = relative_error(_step(function, own, upstream, passes), truth)
        else:
            print(f"{case:34} {peer}: {why.get(peer, 'not installed')}")
            continue
        run_peer = lambda function=function, own=own: _step(function, own, upstream, passes)
        outcomes.append(
            run_pair(
                case,
                {"ours": us, peer: run_peer},
                errors,
                tolerance=TOLERANCE[options.dtype],
                device=options.device,
                repeats=options.repeats,
                warmup=options.warmup,
            )
        )
    if not outcomes:
        raise WrongResultError("no peer could be run")
    return outcomes


def _truth(chosen, leaves, upstream, passes):
    """What a run should come to: the loop, in float64."""
    high = [leaf.double() for leaf in leaves]
    return _step(_ours(chosen, "reference"), high, upstream.double(), passes)


def _race_products(n_experts, tokens, routing, passes, options):
    """Ours against its matrix products alone: the speed is their share of our time."""
    chosen, leaves, upstream = _inputs(n_experts, tokens, routing, options)
    us = lambda: _step(_ours(chosen, options.backend), leaves, upstream, passes)
    error = relative_error(us(), _truth(chosen, leaves, upstream, passes))
    outcome = run_pair(
        _name(n_experts, tokens, routing, passes),
        {"ours": us, "its products": _products_alone(chosen, leaves, passes)},
        {"ours": error, "its products": 0.0},  # another function: its own truth
        tolerance=TOLERANCE[options.dtype],
        device=options.device,
        repeats=options.repeats,
        warmup=options.warmup,
    )
    return [outcome]


def _products_alone(chosen, leaves, passes):
    """A function that does the experts' matrix products and nothing else: two, or six each."""
    x, _, in_weight, down_weight = leaves
    counts = chosen.flatten().bincount(minlength=len(in_weight)).tolist()
    ends = torch.tensor(counts).cumsum(0).tolist()
    pieces = [(e, slice(b - n, b)) for e, (n, b) in enumerate(zip(counts, ends, strict=True)) if n]
    rows, hidden = (x.new_ones(ends[-1], n) for n in (x.shape[1], in_weight.shape[1]))
    bent = x.new_ones(ends[-1], down_weight.shape[2])
    d_in, d_down = torch.empty_like(in_weight), torch.empty_like(down_weight)

    def run():
        for e, at in pieces:
            torch.mm(rows[at], in_weight[e].t(), out=hidden[at])
            torch.mm(bent[at], down_weight[e].t(), out=rows[at])
        for e, at in pieces if passes == "both" else ():
            torch.mm(rows[at], down_weight[e], out=bent[at])
            torch.mm(hidden[at].t(), rows[at], out=d_in[e])
            torch.mm(rows[at].t(), bent[at], out=d_down[e])
            torch.mm(hidden[at], in_weight[e], out=rows[at])
        for made in (rows, hidden, bent):
            made.fill_(1)  # what grows from turn to turn would overflow

    return run


def _theirs(options, n_experts, chosen):
    """{peer: function of (x, weights, in_weight, down_weight)}; {peer: why it is missing}."""
    (tokens, k), (d_model, d_expert) = chosen.shape, _sizes(options)
    found, why = {}, {}
    if hasattr(torch.nn.functional, "grouped_mm"):
        found["F.grouped_mm"] = _ours(chosen, "grouped")
    try:
        from transformers import MixtralConfig
        from transformers.models.mixtral.modeling_mixtral import MixtralExperts
    except ImportError:
        return found, why
    config = MixtralConfig(
        hidden_size=d_model, intermediate_size=d_expert, num_local_experts=n_experts
    )
    with torch.device("meta"):
        experts = MixtralExperts(config)

    def theirs(implementation):
        def function(x, weights, up, down):
            experts.config._experts_implementation = implementation
            parts = {"gate_up_proj": up, "down_proj": down}
            return torch.func.functional_call(experts, parts, (x, chosen, weights))

        return function

    found["eager"] = theirs("eager")
    found["grouped_mm"] = theirs("grouped_mm")
    size = tokens * k * 3 * d_model * d_expert * DTYPES[options.dtype].itemsize
    if size <= BATCHED_BYTES:
        found["batched_mm"] = theirs("batched_mm")
    else:
        why["batched_mm"] = f"left out: it would copy {size / 2**30:.1f} GB of weights"
    return found, why


# --- memory


def _memory(n_experts, tokens, routing, passes, options):
    """Print the peak of ours and of each peer, and the best peer's in units of ours."""
    case = (n_experts, tokens, routing, passes)
    chosen, *_ = _inputs(*case[:3], options)
    theirs = [*_theirs(options, n_experts, chosen)[0], "dense"]
    sizes = {
        who: _peak(who, case, options)
        for who in ("ours", *(peer for peer in options.peers if peer in theirs))
    }
    told = ", ".join(f"{who} {size:.1f} MB" for who, size in sizes.items())
    print(f"memory above the inputs, {_name(*case)}: {told}", flush=True)


# What is freed goes back to the system at once: else a run would begin in what the first use left.
_ALONE = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
_KEPT = ("k", "d_model", "d_expert", "dtype", "seed", "quick", "backend")


def _peak(who, case, options):
    """MB that one run adds to what a fresh process holds."""
    sizes = {name: getattr(options, name) for name in _KEPT}
    return memory.in_fresh_process(measured, who, case, sizes, **_ALONE) / 2**20


def measured(who, case, sizes):
    """Bytes that one run takes above its inputs; to be called in a fresh process."""
    torch.set_num_threads(1)
    options = argparse.Namespace(**sizes, device=torch.device("cpu"))
    n_experts, tokens, routing, passes = case

    def run(tokens):
        chosen, leaves, upstream = _inputs(n_experts, tokens, routing, options)
        if who == "dense":
            function, leaves = _dense(options, leaves[0])
        elif who == "ours":
            function = _ours(chosen, options.backend)
        else:
            function = _theirs(options, n_experts, chosen)[0][who]
        return lambda: _step(function, leaves, upstream, passes)

    run(4)()  # what is imported and built on first use
    work = run(tokens)
    with memory.Peak() as peak:
        work()
    return peak.bytes
