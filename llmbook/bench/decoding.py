"""The decoding race: `llmbook.decoding.generate` against `transformers`' `generate`, greedily.

Both have the same weights and continue the same prompts by the same number of tokens, with a cache
and without an end token. The peer runs as it does by default (SDPA, a cache that grows); its
warnings and checks are part of its call, as ours are of ours. Ours runs twice: by the short step
through PyTorch ("step"), nothing compiled, and by the step in C ("compiled"), which is built
before the clock starts. Models: GPT-2's form ("small", "medium", "gpt2" with the 124 M shape) and
Llama's ("llama", and "1b" with 1.1 billion weights, for a GPU: 4.6 GB each in float32).

For one row and a model of GPT's form on a CPU two more: our 8 bits against our 32 ("int8"), and
against llama.cpp's Q8_0 of the same weights, where that is installed. Then, for one row on any
device, the bytes of weights that a token reads, in units of what its memory gives meanwhile.

The gate: over the peer's text, the logits of our step by step and of the peer are compared with
ours in float64 without a cache; and both texts are the same up to a place where the two likeliest
tokens are within 1e-3. Ours in 8 bits is held to the float64 of its own rounded weights,
llama.cpp's texts to those whose likelihood ours in float64 finds as good.
"""

import copy
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from llmbook.bench import decoding_memory as memory
from llmbook.bench import decoding_peers as peers
from llmbook.bench.race import positive, relative_error, run_pair
from llmbook.decoding import explain_backend, generate
from llmbook.decoding.writer import Writer
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.llama import Llama, LlamaConfig
from llmbook.quantization import QuantizedLinear, quantize

TOLERANCE = 1e-4
NEAR = 1e-3  # two logits so near may change places
LIKELY = 0.1  # nats a token by which a text in 8 bits may be less likely than another


@dataclass(frozen=True)
class Size:
    """A model's sizes."""

    n_layers: int
    d_model: int
    n_heads: int
    vocab_size: int
    family: str = "gpt"


SIZES = {
    "tiny": Size(2, 16, 2, 31),
    "tiny llama": Size(2, 16, 2, 31, "llama"),
    "small": Size(6, 128, 4, 384),
    "llama": Size(6, 256, 4, 2048, "llama"),
    "medium": Size(8, 512, 8, 8192),
    "gpt2": Size(12, 768, 12, 50257),
    "1b": Size(22, 2048, 32, 32000, "llama"),
}
USUAL = ("small", "llama", "medium")


def add_arguments(parser):
    """What to race, and how large."""
    add = parser.add_argument
    add("--sizes", nargs="+", choices=list(SIZES), help=f"default {', '.join(USUAL)}; quick tiny")
    add("--batches", nargs="+", type=positive, help="rows (default 1 and 8; quick 2)")
    add("--prompt", type=positive, default=16, help="tokens to continue (default 16)")
    add("--tokens", type=positive, help="new tokens (default 128; quick 6)")


def run(options, report):
    """Race each size at each batch; `report` prints and records."""
    try:
        import transformers
    except ImportError as error:
        raise SystemExit("this race needs its peer: pip install transformers") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options.tokens = options.tokens or (6 if options.quick else 128)
    sizes = options.sizes or (["tiny", "tiny llama"] if options.quick else USUAL)
    if not options.quick and options.device.type == "cpu":
        print(f"the step in C is built in {memory.build_seconds():.1f} s, once\n", flush=True)
    for name in sizes:
        ours, theirs = contestants(transformers, SIZES[name], options)
        for batch in options.batches or ([2] if options.quick else [1, 8]):
            case = f"{name}, {batch} × {options.prompt} + {options.tokens}"
            report(case, _race, case, ours, theirs, batch, options)
            if batch == 1:
                report(case, _race_bytes, case, ours, options)


def contestants(transformers, size, options):
    """Our model and theirs with the same weights, on the device."""
    torch.manual_seed(options.seed)
    ours = our_model(size, options.prompt + options.tokens)
    cls = transformers.GPT2LMHeadModel if size.family == "gpt" else transformers.LlamaForCausalLM
    with torch.no_grad():
        for block in ours.blocks:  # fresh weights would say the same after every prompt
            for weight in block.into_stream:
                weight.mul_(4 * size.n_layers**0.5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        ours.save(path)
        theirs = cls.from_pretrained(path, dtype=torch.float32)
    return ours.to(options.device).eval(), theirs.to(options.device).eval()


def our_model(size, room):
    """A model of these sizes with room for so many tokens, its weights drawn at random."""
    sizes = {"d_model": size.d_model, "n_layers": size.n_layers, "n_heads": size.n_heads}
    if size.family == "gpt":
        return GPT(GPTConfig(size.vocab_size, room, **sizes))
    d_ff = 8 * math.ceil(size.d_model / 3)
    heads = max(1, size.n_heads // 2)
    return Llama(LlamaConfig(size.vocab_size, room, **sizes, n_kv_heads=heads, d_ff=d_ff))


def _race(case, ours, theirs, batch, options):
    ids = prompts(ours, batch, options)
    mask, new = torch.ones_like(ids), options.tokens

    def peer():
        return theirs.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=new,
            eos_token_id=None,
            pad_token_id=0,
        )

    backends = ["step"]
    if explain_backend(ours, batch).others.get("compiled", "not chosen") == "not chosen":
        backends.append("compiled")
    runs = {name: _writer(ours, ids, new, name) for name in backends}
    runs["transformers"] = peer
    errors = {}
    for name in backends:
        found = compared(ours, theirs, runs[name](), peer(), options.prompt, name)
        errors |= {name: found["ours"], "transformers": found["transformers"]}
    pairs = [(name, "transformers") for name in backends]
    pairs += [("compiled", "step")] if "compiled" in backends else []
    return [_pair(case, runs, errors, pair, options) for pair in pairs]


def _pair(case, runs, errors, pair, options, tolerance=TOLERANCE):
    return run_pair(
        case,
        {name: runs[name] for name in pair},
        {name: errors[name] for name in pair},
        tolerance=tolerance,
        device=options.device,
        repeats=options.repeats,
        warmup=options.warmup,
    )


def prompts(model, batch, options):
    """Random ids (batch, options.prompt), the same at every call."""
    generator = torch.Generator().manual_seed(options.seed)
    shape = (batch, options.prompt)
    ids = torch.randint(model.config.vocab_size, shape, generator=generator)
    return ids.to(options.device)


def _writer(model, ids, new, backend):
    return lambda: generate(model, ids, max_new_tokens=new, eos_id=(), backend=backend)


def _race_bytes(case, ours, options):
    """The share of bandwidth; for a GPT on a CPU also 8 bits against 32 and llama.cpp."""
    ids, new = prompts(ours, 1, options), options.tokens
    models, outcomes = {"float32": ours}, []
    if isinstance(ours, GPT) and options.device.type == "cpu":
        models["int8"] = quantize(copy.deepcopy(ours), 8)
        outcomes = _race_int8(case, ours, models["int8"], ids, options)
    reads = peers.bandwidth(size=2**20 if options.quick else 2**28, device=options.device)
    for name, model in models.items():
        run = _writer(model, ids, new, "auto")
        seconds = peers.median_seconds(run, 1 if options.quick else 5, options.device) / new
        share = bytes_read(model) / seconds / reads
        print(f"{case:34} {name}: {share:.0%} of {reads / 1e9:.1f} GB/s read", flush=True)
    if case.startswith("gpt2") and options.device.type == "cpu":
        taken = memory.peak(SIZES["gpt2"], options.prompt, new) or math.nan
        print(f"{case:34} peak of memory {taken:.2f} × weights and cache", flush=True)
    return outcomes


def _race_int8(case, ours, small, ids, options):
    """8 bits against 32 and, where it is there, against llama.cpp."""
    new = options.tokens
    runs = {"int8": _writer(small, ids, new, "auto"), "float32": _writer(ours, ids, new, "auto")}
    errors = {
        "int8": stepwise_error(small, runs["int8"](), options.prompt, exact=dequantized(small)),
        "float32": stepwise_error(ours, runs["float32"](), options.prompt),
    }
    outcomes = [_pair(case, runs, errors, ("int8", "float32"), options)]
    if not peers.installed():
        print(f"{case:34} {peers.NOT_INSTALLED}", flush=True)
        return outcomes
    if peers.has_tiles():
        print(f"{case:34} {peers.WITHOUT_TILES}", flush=True)
    write = peers.llama_cpp(ours, torch.get_num_threads())
    runs["llama.cpp"] = lambda: write(ids[0].tolist(), new)
    text = torch.cat([ids, torch.tensor([runs["llama.cpp"]()])], 1)
    errors["llama.cpp"] = less_likely(ours, runs["int8"](), text, options.prompt)
    return [*outcomes, _pair(case, runs, errors, ("int8", "llama.cpp"), options, LIKELY)]


def bytes_read(model):
    """Bytes of weights that a step reads: all but the tables of tokens and of places."""
    held = {t.data_ptr(): t.numel() * t.element_size() for t in model.state_dict().values()}
    tables = [m.weight for m in (model.tokens, getattr(model, "positions", None)) if m is not None]
    kept = getattr(model.head, "weight", None)
    lookups = [t for t in tables if kept is None or t.data_ptr() != kept.data_ptr()]
    return sum(held.values()) - sum(held[t.data_ptr()] for t in lookups)


def dequantized(model):
    """A quantised GPT's weights as float64, in a model of nn.Linear."""
    exact = GPT(model.config).double()
    state = dict(exact.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            own = name.replace("packed", "in_proj_")
            join = "" if own.endswith("in_proj_") else "."
            state[f"{own}{join}weight"] = module.dequantized().double()
            if module.bias is not None:
                state[f"{own}{join}bias"] = module.bias.double()
    for name, tensor in model.state_dict().items():
        if name in state and not name.endswith(("scale",)) and tensor.is_floating_point():
            state[name] = tensor.double()
    if model.config.tied:
        exact.head.weight = torch.nn.Parameter(state["head.weight"])
    exact.load_state_dict(state)
    return exact.eval()


@torch.no_grad()
def stepwise_error(model, text, begin, exact=None, backend="auto"):
    """How far the logits of our step by step over a text are from float64's without a cache."""
    exact = copy.deepcopy(model).double() if exact is None else exact
    writer = Writer(
        model, text[:, :begin], None, None, text.shape[1] - begin, use_cache=True, backend=backend
    )
    stepwise = []
    for i in range(begin, text.shape[1]):
        stepwise.append(writer.next_logits())
        writer.append(text[:, i])
    return relative_error([torch.stack(stepwise, 1)], [exact(text[:, :-1])[:, begin - 1 :]])


@torch.no_grad()
def less_likely(model, text, other, begin):
    """By how many nats a token another text is less likely than ours, at least 0."""

    def nats(ids):
        log_p = model(ids[:, :-1]).double().log_softmax(-1)[:, begin - 1 :]
        return -log_p.gather(-1, ids[:, begin:, None]).mean().item()

    return max(0.0, nats(other) - nats(text))


@torch.no_grad()
def compared(ours, theirs, text, peer_text, begin, backend="auto"):
    """How far each contestant's logits are from ours in float64, over the peer's text.

    Infinite for one whose own text leaves what float64 finds likeliest.
    """
    exact_model = copy.deepcopy(ours).double()
    exact = exact_model(peer_text[:, :-1])[:, begin - 1 :]
    found = {
        "ours": stepwise_error(ours, peer_text, begin, exact_model, backend),
        "transformers": relative_error(
            [theirs(peer_text[:, :-1]).logits[:, begin - 1 :]], [exact]
        ),
    }
    same = (text == peer_text)[:, begin:]
    chosen = exact.gather(-1, peer_text[:, begin:, None])[..., 0]
    if (exact.amax(-1) - chosen > NEAR).any():
        found["transformers"] = math.inf
    for row, places in enumerate(same.tolist()):
        if False in places:  # from there on the texts differ by right
            first = exact[row, places.index(False)].topk(2).values
            if first[0] - first[1] > NEAR:
                found["ours"] = math.inf
    return found
