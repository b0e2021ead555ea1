"""The expert race: our experts against transformers', grouped_mm alone, and a dense layer.

One run is the experts' forward pass, or forward and backward with the gradients of the input, of
the routing weights and of every expert, for tokens whose experts are chosen already: sorting them
by expert and back is counted. Peers get the same weights and choices. `dense` is a gated
feed-forward layer of width k · F, which does as many operations for each token. Routing is
balanced, or Zipf: expert i is wanted with a probability in proportion to 1/i.
"""

import torch

from llmbook.bench.race import WrongResultError, positive, relative_error, run_pair
from llmbook.layers import GatedFeedForward
from llmbook.moe import run_experts

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-1, "float16": 2e-2}
PEERS = ("eager", "batched_mm", "grouped_mm", "F.grouped_mm", "dense")
# transformers' batched experts copy a matrix for each slot; above this many bytes: left out
BATCHED_BYTES = 4 * 2**30


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
    add("--backend", default="auto", help="ours: auto, sorted, grouped, triton (default auto)")
    add("--dtype", choices=list(DTYPES), default="float32", help="default float32")


def run(options, report):
    """Race every number of experts, of tokens, routing and pass; `report` prints and records."""
    for n_experts in options.experts or ([4] if options.quick else [8, 64, 128]):
        for tokens in options.tokens or ([16] if options.quick else [512, 4096]):
            for routing in options.routing:
                for passes in options.passes:
                    case = f"E={n_experts} N={tokens} {routing} {passes}"
                    report(case, _race, case, n_experts, tokens, routing, passes, options)


def _race(case, n_experts, tokens, routing, passes, options):
    """Ours against every peer, on one input, one set of experts and one routing."""
    dtype, device, k = DTYPES[options.dtype], options.device, options.k
    d_model = options.d_model or (16 if options.quick else 256)
    d_expert = options.d_expert or (32 if options.quick else 512)
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
    leaves = [x, weights, in_weight, down_weight]

    def measured(function, leaves=leaves, upstream=upstream):
        if passes == "forward":
            with torch.no_grad():
                return [function(*leaves)]
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        out = function(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]

    def ours(backend):
        return lambda x, weights, up, down: run_experts(
            x, chosen, weights, up, down, backend=backend
        )

    high = [leaf.double() for leaf in leaves]
    truth = measured(ours("reference"), high, upstream.double())
    us = lambda: measured(ours(options.backend))
    functions = _theirs(options, n_experts, d_model, d_expert, tokens, k, chosen, dtype)
    outcomes = []
    for peer in options.peers:
        if peer == "dense":
            # Another function, of as many operations: it is its own truth.
            layer = GatedFeedForward(d_model, k * d_expert).to(device, dtype)
            names = [name for name, _ in layer.named_parameters()]
            own = [x, *layer.parameters()]

            def dense(x, *parameters, layer=layer, names=names):
                return torch.func.functional_call(layer, dict(zip(names, parameters)), x)

            run_peer = lambda: measured(dense, own)
            errors = {"ours": relative_error(us(), truth), peer: 0.0}
        elif peer in functions:
            run_peer = lambda function=functions[peer]: measured(function)
            errors = {"ours": relative_error(us(), truth)}
            errors[peer] = relative_error(run_peer(), truth)
        else:
            print(f"{case:34} {peer}: {functions['why'].get(peer, 'not installed')}")
            continue
        outcomes.append(
            run_pair(
                case,
                {"ours": us, peer: run_peer},
                errors,
                tolerance=TOLERANCE[options.dtype],
                device=device,
                repeats=options.repeats,
                warmup=options.warmup,
            )
        )
    if not outcomes:
        raise WrongResultError("no peer could be run")
    return outcomes


def _theirs(options, n_experts, d_model, d_expert, tokens, k, chosen, dtype):
    """{peer: function of (x, weights, in_weight, down_weight)}; under "why" what is missing."""
    found, why = {}, {}
    if hasattr(torch.nn.functional, "grouped_mm"):
        found["F.grouped_mm"] = lambda x, weights, up, down: run_experts(
            x, chosen, weights, up, down, backend="grouped"
        )
    try:
        from transformers import MixtralConfig
        from transformers.models.mixtral.modeling_mixtral import MixtralExperts
    except ImportError:
        return found | {"why": why}
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
    size = tokens * k * 3 * d_model * d_expert * torch.empty((), dtype=dtype).element_size()
    if size <= BATCHED_BYTES:
        found["batched_mm"] = theirs("batched_mm")
    else:
        why["batched_mm"] = f"left out: it would copy {size / 2**30:.1f} GB of weights"
    return found | {"why": why}
