"""Checks of the exercises on today's decoder: norms of heads, counts, a recipe."""

import torch

from llmbook.book.check import NotYet, agree, call, chosen, exercise, number
from llmbook.experiments.todays_decoder import Recipe
from llmbook.models.llama import LlamaConfig
from llmbook.models.qwen import NormedRotary, Qwen3


@exercise("todays_decoder/qk_norm", title="A norm for a head", difficulty=1, minutes=10)
def qk_norm(answer):
    g = torch.Generator().manual_seed(5)
    q = 3 * torch.randn(2, 4, 5, 6, generator=g) + 1
    k = torch.randn(2, 2, 5, 6, generator=g) - 0.5
    gains = 1 + torch.rand(2, 6, generator=g)
    library = NormedRotary(6, 0.1, lambda q, k, positions: (q, k))
    with torch.no_grad():
        library.q_norm.weight.copy_(gains[0])
        library.k_norm.weight.copy_(gains[1])
        want = library(q, k, None)
    got = call(answer, q, k, *gains, eps=0.1)
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise NotYet("Return a pair: the queries and the keys, both normalised.")
    for name, one, right in zip(("queries", "keys"), got, want, strict=True):
        agree(
            one,
            right,
            f"The {name} are off. Each vector of a head alone: its mean square over the last "
            "axis, plus eps, under one root; no mean is taken out; then the gain that belongs "
            f"to the {name}.",
            1e-5,
        )
    return "Right: a head's vectors now all have the length that the gain gives them."


@exercise("todays_decoder/block_parameters", title="Count today's block", difficulty=2, minutes=15)
def block_parameters(answer):
    for d, heads, kv_heads, d_ff in ((48, 6, 2, 96), (64, 4, 4, 171), (768, 12, 1, 2048)):
        with torch.device("meta"):
            config = LlamaConfig(7, 8, d, 1, heads, kv_heads, d_ff=d_ff)
            block = Qwen3.block(config, config.rotary())
        agree(
            number(call(answer, d, heads, kv_heads, d_ff)),
            sum(p.numel() for p in block.parameters()),
            f"For width {d}, {heads} heads, {kv_heads} of keys and values and d_ff {d_ff} it is "
            "another number. Queries and output d × d; keys and values narrower where heads "
            "share; three matrices in the network; two gains of length d, two as long as a head "
            "is wide. No biases.",
        )
    return "Right. Sharing takes most of two matrices away, the cache aside."


@exercise(
    "todays_decoder/acts", title="The bias that acts", difficulty=2, minutes=5, kind="predict"
)
def acts(answer):
    if chosen(answer, ("yes", "no")) != "yes":
        raise NotYet(
            "In GPT all keys get the same vector b, so that q · b is the same for all of them. "
            "What becomes of b when each key is turned by the angle of its own place?"
        )
    return (
        "Right: what is added to a score is q · R(n − m) b, which depends on the distance. Qwen2 "
        "kept biases on queries, keys and values, with rotary positions."
    )


@exercise("todays_decoder/saved", title="Read the figure", difficulty=1, minutes=5, kind="figure")
def saved(answer):
    agree(
        number(answer),
        0.75 * 32 * 2 * 4096 * 131_072 * 2 / 1e9,
        "Keys and values: two vectors of 4,096 numbers for each token and layer, two bytes a "
        "number. Four heads to one leave a quarter: what shrinks is the other three.",
        tolerance=1e-2,
    )
    return "Right: 68.7 GB become 17.2. More than the model's own weights, saved for one text."


@exercise(
    "todays_decoder/rotary_alone",
    title="Rotary alone",
    difficulty=2,
    minutes=15,
    kind="experiment",
)
def rotary_alone(answer):
    got = call(answer)
    if not isinstance(got, Recipe):
        raise NotYet(f"Return a lab.Recipe: this is {type(got).__name__}.")
    if not got.rotary:
        raise NotYet("The recipe still has learned positions: rotary must be True.")
    if got != Recipe(rotary=True):
        others = [k for k, v in vars(got).items() if k != "rotary" and v != vars(Recipe())[k]]
        raise NotYet(f"One change alone: {', '.join(others)} must stay as in GPT's block.")
    return (
        "Right. Train it, and compare with what rotary positions took off on the way: does that "
        "gain wait for the two changes before it?"
    )
