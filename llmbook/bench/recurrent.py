"""The recurrent race: our fast path and our readable reference against torch.nn.

One run is a forward and a backward pass, with the gradients of the input and of every weight. The
fast path should reach 0.95 of torch.nn's speed, since it ends in the same kernels; the reference
shows what calling a cell once a step costs.
"""

import torch
from torch import nn

from llmbook import recurrent
from llmbook.bench.race import check_results, positive, relative_error, run_pair

CELLS = ("RNN", "LSTM", "GRU")
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
TOLERANCE = {"float32": 1e-4, "float64": 1e-10, "float16": 2e-2, "bfloat16": 1e-1}
TARGET = 0.95


def add_arguments(parser):
    """What to race, and how large."""
    add = parser.add_argument
    add("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="default: all three")
    add(
        "--widths",
        nargs="+",
        type=positive,
        metavar="N",
        help="input and hidden sizes (default 32 128 256; quick 8)",
    )
    add("--batch", type=positive, help="sequences in a batch (default 64; quick 3)")
    add("--steps", type=positive, help="steps of a sequence (default 80; quick 5)")
    add("--layers", type=positive, default=1, help="layers (default 1)")
    add("--bidirectional", action="store_true", help="read both ways")
    add("--dtype", choices=list(DTYPES), default="float32", help="default float32")


def run(options, report):
    """Race every cell at every width; `report` prints and records."""
    batch = options.batch or (3 if options.quick else 64)
    steps = options.steps or (5 if options.quick else 80)
    speeds = []
    for cell in options.cells:
        for width in options.widths or ([8] if options.quick else [32, 128, 256]):
            case = f"{cell} T={steps} batch={batch} width={width}"
            results = report(case, _race, case, cell, (batch, steps, width), options)
            speeds += [outcome.speed.median for outcome in results[:1]]
    if speeds and not options.quick:
        reached = sum(speed >= TARGET for speed in speeds)
        print(f"\nfast reached {TARGET} of torch.nn's speed in {reached} of {len(speeds)} races")


def _race(case, cell, shape, options):
    """fast, then reference, against torch.nn on one input and one set of weights."""
    width, dtype = shape[-1], DTYPES[options.dtype]
    torch.manual_seed(options.seed)
    size = {"num_layers": options.layers, "bidirectional": options.bidirectional}
    layers = {
        "torch.nn": getattr(nn, cell)(width, width, batch_first=True, **size),
        "fast": getattr(recurrent, cell)(width, width, backend="fast", **size),
        "reference": getattr(recurrent, cell)(width, width, backend="reference", **size),
    }
    weights = layers["torch.nn"].state_dict()
    for layer in layers.values():
        layer.load_state_dict(weights)
        layer.to(options.device, dtype)
    x = torch.randn(shape, device=options.device, dtype=dtype)
    upstream = torch.randn(*shape[:-1], width * (1 + options.bidirectional), device=options.device)

    exact = getattr(nn, cell)(width, width, batch_first=True, **size)
    exact.load_state_dict(weights)
    exact = exact.to(options.device, dtype).double()  # the rounded weights, summed in float64
    truth = step(exact, x.double(), upstream.double())
    upstream = upstream.to(dtype)
    errors = {
        name: relative_error(step(layer, x, upstream), truth) for name, layer in layers.items()
    }
    check_results(errors, TOLERANCE[options.dtype])  # all, before the first is timed

    return [
        run_pair(
            case,
            {name: lambda name=name: step(layers[name], x, upstream) for name in (ours, peer)},
            {name: errors[name] for name in (ours, peer)},
            tolerance=TOLERANCE[options.dtype],
            device=options.device,
            repeats=options.repeats,
            warmup=options.warmup,
        )
        for ours, peer in [("fast", "torch.nn"), ("reference", "torch.nn")]
    ]


def step(layer, x, upstream):
    """Forward and backward: the output, the gradients of the input and of every weight."""
    x = x.detach().requires_grad_()
    output = layer(x)[0]
    return [output.detach(), *torch.autograd.grad(output, [x, *layer.parameters()], upstream)]
