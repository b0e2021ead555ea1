"""The decoding race: `llmbook.decoding.generate` against `transformers`' `generate`, greedily.

Both have the same weights and continue the same prompts by the same number of tokens, with a cache
and without an end token; nothing is compiled. The peer runs as it does by default (SDPA, a cache
that grows); its warnings and checks are part of its call, as ours are of ours. Models: GPT-2's
form ("small", "medium", "gpt2" with the 124 M shape) and Llama's ("llama").

The gate: over the peer's text, the logits of our step by step and of the peer are compared with
ours in float64 without a cache; and both texts are the same up to a place where the two likeliest
tokens are within 1e-3.
"""

import copy
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from llmbook.bench.race import positive, relative_error, run_pair
from llmbook.decoding import generate
from llmbook.decoding.writer import Writer
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.llama import Llama, LlamaConfig

TOLERANCE = 1e-4
NEAR = 1e-3  # two logits so near may change places


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
    for name in sizes:
        ours, theirs = contestants(transformers, SIZES[name], options)
        for batch in options.batches or ([2] if options.quick else [1, 8]):
            case = f"{name}, {batch} × {options.prompt} + {options.tokens}"
            report(case, lambda: [_race(case, ours, theirs, batch, options)])


def contestants(transformers, size, options):
    """Our model and theirs with the same weights, on the device."""
    torch.manual_seed(options.seed)
    room = options.prompt + options.tokens
    sizes = {"d_model": size.d_model, "n_layers": size.n_layers, "n_heads": size.n_heads}
    if size.family == "gpt":
        ours = GPT(GPTConfig(size.vocab_size, room, **sizes))
        cls = transformers.GPT2LMHeadModel
    else:
        d_ff = 8 * math.ceil(size.d_model / 3)
        heads = max(1, size.n_heads // 2)
        ours = Llama(LlamaConfig(size.vocab_size, room, **sizes, n_kv_heads=heads, d_ff=d_ff))
        cls = transformers.LlamaForCausalLM
    with torch.no_grad():
        for block in ours.blocks:  # fresh weights would say the same after every prompt
            for weight in block.into_stream:
                weight.mul_(4 * size.n_layers**0.5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        ours.save(path)
        theirs = cls.from_pretrained(path, dtype=torch.float32)
    return ours.to(options.device).eval(), theirs.to(options.device).eval()


def _race(case, ours, theirs, batch, options):
    shape = (batch, options.prompt)
    vocab_size, new = ours.config.vocab_size, options.tokens
    generator = torch.Generator().manual_seed(options.seed)
    ids = torch.randint(vocab_size, shape, generator=generator).to(options.device)
    mask = torch.ones_like(ids)

    def peer():
        return theirs.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=new,
            eos_token_id=None,
            pad_token_id=0,
        )

    def own():
        return generate(ours, ids, max_new_tokens=new, eos_id=())

    return run_pair(
        case,
        {"ours": own, "transformers": peer},
        errors(ours, theirs, own(), peer(), options.prompt),
        tolerance=TOLERANCE,
        device=options.device,
        repeats=options.repeats,
        warmup=options.warmup,
    )


@torch.no_grad()
def errors(ours, theirs, text, peer_text, begin):
    """How far each contestant's logits are from ours in float64, over the peer's text.

    Infinite for one whose own text leaves what float64 finds likeliest.
    """
    exact = copy.deepcopy(ours).double()(peer_text[:, :-1])[:, begin - 1 :]
    new = peer_text.shape[1] - begin
    writer = Writer(ours, peer_text[:, :begin], None, None, new, use_cache=True)
    stepwise = []
    for i in range(begin, peer_text.shape[1]):
        stepwise.append(writer.next_logits())
        writer.append(peer_text[:, i])
    found = {
        "ours": relative_error([torch.stack(stepwise, 1)], [exact]),
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
