"""The attention race: ours against PyTorch's `scaled_dot_product_attention`.

On a GPU: the Triton kernels against each kernel behind SDPA (FlashAttention-2, cuDNN, the
memory-efficient one, and the plain formula where its scores fit), forward and backward apart, at
batch × tokens = 16k and heads × head_dim = 2048; then the memory a training step takes, by length.
On a CPU: what "auto" chooses, and the plain formula, against SDPA called by hand.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from llmbook.attention import attention
from llmbook.bench.race import check_results, positive, relative_error, run_pair
from llmbook.device import choose_dtype

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PEERS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# A result may be twice as far from the truth as the plain formula in its dtype, plus this.
FLOOR = {"float32": 2e-5, "float16": 1e-3, "bfloat16": 4e-3}
TRUTH_HEADS = 2  # heads compared with float64, each of queries × keys numbers


def add_arguments(parser):
    """What to race, and how large."""
    add = parser.add_argument
    add(
        "--lengths",
        nargs="+",
        type=positive,
        metavar="N",
        help="tokens (default 4096 16384 on a GPU, 256 1024 on a CPU; quick 65)",
    )
    add(
        "--head-dims",
        nargs="+",
        type=positive,
        metavar="D",
        help="default 64 128 on a GPU, 64 on a CPU; quick 16",
    )
    add("--tokens", type=positive, help="batch × length (default 16384 on a GPU, 2048 on a CPU)")
    add("--width", type=positive, help="heads × head_dim (default 2048 on a GPU, 256 on a CPU)")
    add("--masks", nargs="+", choices=["full", "causal"], default=["full", "causal"])
    add("--passes", nargs="+", choices=["forward", "backward"], default=["forward", "backward"])
    add("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), help="on a GPU")
    add("--kv-heads", type=positive, help="key/value heads (default: as many as heads)")
    add("--dtype", choices=list(DTYPES), help="default: float32 on a CPU, half on a GPU")


def run(options, report):
    """Race every length, head_dim, mask and pass; `report` prints and records."""
    gpu = options.device.type == "cuda"
    dtype = DTYPES[options.dtype] if options.dtype else choose_dtype(options.device)[0]
    lengths = options.lengths or ([65] if options.quick else [4096, 16384] if gpu else [256, 1024])
    dims = options.head_dims or ([16] if options.quick else [64, 128] if gpu else [64])
    tokens = options.tokens or (130 if options.quick else 16384 if gpu else 2048)
    width = options.width or (32 if options.quick else 2048 if gpu else 256)
    for length in lengths:
        for dim in dims:
            heads = max(width // dim, 1)
            shape = (max(tokens // length, 1), heads, options.kv_heads or heads, length, dim)
            for mask in options.masks:
                _race_all(shape, dtype, mask, options, report)
    if gpu:
        _show_memory(dtype, options)


def _race_all(shape, dtype, mask, options, report):
    """One set of tensors: every pass, against every peer."""
    batch, heads, kv_heads, length, dim = shape
    causal = mask == "causal"
    torch.manual_seed(options.seed)
    sizes = [(batch, heads, length, dim), *[(batch, kv_heads, length, dim)] * 2]
    inputs = [torch.randn(size, device=options.device, dtype=dtype) for size in sizes]
    upstream = torch.randn_like(inputs[0])
    truth, allowed = _truth(inputs, upstream, causal)

    def outcomes(case, names, direction):
        errors = {}
        for name in names:  # both, before the first is timed
            result = _last_heads(_step(name, inputs, upstream, causal), kv_heads)
            errors[name] = relative_error(*_of(direction, result, truth))
            check_results({name: errors[name]}, allowed[direction])
        return [
            run_pair(
                case,
                {n: _runner(n, inputs, upstream, causal, direction) for n in names},
                errors,
                tolerance=allowed[direction],
                device=options.device,
                repeats=options.repeats,
                warmup=options.warmup,
            )
        ]

    if options.device.type == "cuda":
        contestants = [("triton", peer) for peer in options.peers if _fits(peer, shape)]
    else:
        contestants = [("auto", "SDPA"), ("reference", "SDPA")]
    for direction in options.passes:
        for ours, peer in contestants:
            case = f"{direction} {mask} N={length} d={dim}"
            reason = _refusal(peer, inputs, causal)
            if reason:
                print(f"{case:34} {peer} cannot run this: {reason}")
                continue
            for outcome in report(case, outcomes, case, (ours, peer), direction):
                _show_rate(outcome, shape, causal, direction)


def _call(name, q, k, v, causal):
    """One contestant's forward pass."""
    if name in ("auto", "reference", "triton"):
        return attention(q, k, v, causal=causal, backend=name)
    chosen = sdpa_kernel(PEERS[name]) if name in PEERS else contextlib.nullcontext()
    with chosen:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=causal, enable_gqa=k.shape[1] != q.shape[1]
        )


def _step(name, inputs, upstream, causal):
    """Output and the gradients of q, k and v."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = _call(name, *inputs, causal)
    return [out.detach(), *torch.autograd.grad(out, inputs, upstream)]


def _runner(name, inputs, upstream, causal, direction):
    """The work that is timed: a forward pass alone, or a backward pass alone."""
    if direction == "forward":
        return lambda: _call(name, *inputs, causal)
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = _call(name, *inputs, causal)
    return lambda: torch.autograd.grad(out, inputs, upstream, retain_graph=True)


def _last_heads(tensors, kv_heads):
    """The last sequence's last key/value heads, and the query heads that read them.

    tensors: first q, the output or anything with as many heads.
    """
    count = -(-TRUTH_HEADS * kv_heads // tensors[0].shape[1])
    return [x[-1:, -count * x.shape[1] // kv_heads :] for x in tensors]


def _truth(inputs, upstream, causal):
    """Output and gradients of the last heads in float64, and the error allowed to each pass."""
    dtype, kv_heads = inputs[0].dtype, inputs[1].shape[1]
    *some, above = _last_heads([*inputs, upstream], kv_heads)
    truth = _step("reference", [x.double() for x in some], above.double(), causal)
    plain = _step("reference", some, above, causal)
    floor = FLOOR[str(dtype).removeprefix("torch.")]
    return truth, {
        direction: 2 * relative_error(*_of(direction, plain, truth)) + floor
        for direction in ("forward", "backward")
    }


def _of(direction, *results):
    """Of [output, dq, dk, dv]: what a pass computes."""
    return [result[:1] if direction == "forward" else result[1:] for result in results]


def _fits(peer, shape):
    """Whether the plain formula's scores fit; its peers store none."""
    batch, heads, _, length, _ = shape
    scores = 6 * batch * heads * length**2 * 4  # a few copies of them, in float32
    if peer != "math" or scores < torch.cuda.mem_get_info()[0]:
        return True
    print(f"math is left out at N={length}: its scores would take {scores / 1e9:.0f} GB")
    return False


def _refusal(peer, inputs, causal):
    """Reason why a peer cannot run this, or None."""
    try:
        _call(peer, *(x[:1, :, :64] for x in inputs), causal)
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return None


def _show_rate(outcome, shape, causal, direction):
    """TFLOP/s as attention papers count them: 4 · batch · heads · N² · d, halved when causal."""
    batch, heads, _, length, dim = shape
    flops = 4 * batch * heads * length**2 * dim / (2 if causal else 1)
    flops *= 2.5 if direction == "backward" else 1
    for name, spread in outcome.milliseconds.items():
        print(f"{'':34} {name}: {flops / spread.median / 1e9:.0f} TFLOP/s")


def _show_memory(dtype, options):
    """Peak memory of a training step beyond its inputs, by length: a linear one doubles."""
    print("\nmemory of forward and backward, 16 heads of 64")
    for length in (4096, 8192, 16384, 32768):
        torch.cuda.empty_cache()
        size = (1, 16, length, 64)
        inputs = [torch.randn(size, device=options.device, dtype=dtype) for _ in "qkv"]
        before = torch.cuda.memory_allocated(options.device)
        torch.cuda.reset_peak_memory_stats(options.device)
        _step("triton", inputs, inputs[0], True)
        peak = torch.cuda.max_memory_allocated(options.device) - before
        print(f"N={length}: {peak / 1e6:.1f} MB, {peak / length:.0f} bytes a token")
