"""Checks of the exercises on multi-head attention: small odd-sized inputs, soft softmax."""

import functools
import math

import torch
import torch.nn.functional as F
from einops import rearrange

from llmbook.book.check import NotYet, agree, call, chosen, exercise, number
from llmbook.figures.heads import pattern_scores, read_heads
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer


def _random(seed, *shapes):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


def _multi_head(x, w_qkv, w_o, n_heads):
    q, k, v = rearrange(x @ w_qkv.T, "b t (three h d) -> three b h t d", three=3, h=n_heads)
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    return rearrange(weights @ v, "b h t d -> b t (h d)") @ w_o.T


@exercise("multi_head/multi_head", title="The whole layer", difficulty=2, minutes=25)
def multi_head(answer):
    x, w_qkv, w_o = _random(4, (2, 5, 12), (36, 12), (12, 12))
    w_qkv, w_o = w_qkv / 3, w_o / 3
    got = call(answer, x, w_qkv, w_o, 3)
    want = _multi_head(x, w_qkv, w_o, 3)
    if torch.is_tensor(got) and got.shape == want.shape:
        d = x.shape[-1]
        wide = _multi_head(x, torch.cat([w_qkv[:d] * math.sqrt(4 / d), w_qkv[d:]]), w_o, 3)
        if torch.allclose(got.double(), wide):
            raise NotYet(
                "Nearly: the scores are divided by √d_model. A head's dot product has "
                "only d_model / n_heads terms."
            )
        if torch.allclose(got.double() @ w_o.T, want):
            raise NotYet(
                "The heads are joined, and not yet mixed: the output projection is missing."
            )
    agree(
        got,
        want,
        "Rows of w_qkv: all queries, then all keys, then all values; within each, head "
        "0 first. Softmax over keys, scale 1/√d_head, merge, then x @ w_o.T.",
    )
    one = call(answer, x, w_qkv, w_o, 1)
    agree(
        one,
        _multi_head(x, w_qkv, w_o, 1),
        "Three heads are right, one head is not: is a number of heads written into the code?",
    )
    return "Right. You have written the layer of every Transformer there is."


@exercise("multi_head/pool_heads", title="Retire some key heads", difficulty=3, minutes=25)
def pool_heads(answer):
    cases = ((6, 3, (24, 7)), (6, 2, (18, 5)), (5, 1, (15, 5)))
    for seed, (n_heads, n_kv, shape) in enumerate(cases, 9):
        (w,) = _random(seed, shape)
        want = rearrange(w, "(g n d) c -> g n d c", g=n_kv, n=n_heads // n_kv).mean(1)
        agree(
            call(answer, w, n_heads, n_kv),
            rearrange(want, "g d c -> (g d) c"),
            "Rows of the weight: head 0's head_dim rows, then head 1's. Average whole heads "
            "within a group of neighbours, row by row, and keep the order.",
        )
    return "Right. That, and a little more training, turns a multi-head model into a grouped one."


@exercise("multi_head/absorb", title="Ask the latent itself", difficulty=2, minutes=15)
def absorb(answer):
    w_q, w_k = _random(14, (4, 9), (4, 5))
    want = w_k.T @ w_q
    got = call(answer, w_q, w_k)
    if torch.is_tensor(got) and got.shape == want.T.shape and torch.allclose(got.double(), want.T):
        raise NotYet("The right numbers, lying down: it is used as `ask @ x`.")
    agree(
        got,
        want,
        "The score is (w_q x) · (w_k c). Write it as (something x) · c: what stands before x?",
    )
    x, c = _random(15, (9,), (5,))
    agree(got.double() @ x @ c, (w_q @ x) @ (w_k @ c), "The score must be the same as before.")
    return "Right. With it the cache holds c, and no key is ever made."


# --- predict, read, change

PARTS = ("the whole output", "one head's term", "one head's weights", "nothing")


@exercise("multi_head/doubled", title="Doubled values", difficulty=1, minutes=5, kind="predict")
def doubled(answer):
    said = chosen(answer, PARTS)
    if said == "the whole output":
        raise NotYet("Which terms of the sum are made of head 3's values?")
    if said == "one head's weights":
        raise NotYet("The weights are made of queries and keys. Do values enter there?")
    if said == "nothing":
        raise NotYet("What a head hands over is a mean of its values. They are twice as long now.")
    return "Right. Twice the keys would be another matter: scores twice as large, a sharper head."


EXAMPLE = "Your cat is a lovely cat"


@functools.cache
def copying():
    """Of every head of `small`, on the figure's first example: {(layer, head): score}, from 1."""
    model, tok = load("small").eval(), BPETokenizer.load(SHIPPED / "small")
    ids = [model.config.eos_id, *tok.encode(EXAMPLE, ())]
    with torch.no_grad():
        maps = read_heads(model, torch.tensor([ids]))[1][0]
    return {
        (i + 1, j + 1): pattern_scores(w, ids)["after an earlier copy"]
        for i, layer in enumerate(maps)
        for j, w in enumerate(layer)
    }


@exercise(
    "multi_head/copier", title="Who looks behind a copy?", difficulty=1, minutes=10, kind="figure"
)
def copier(answer):
    scores = copying()
    try:
        said = tuple(int(part) for part in answer)
    except (TypeError, ValueError):
        raise NotYet("Answer with two numbers: (layer, head).") from None
    if said not in scores:
        raise NotYet(f"There are 6 layers of 4 heads, counted from 1: got {said}.")
    best = max(scores, key=scores.get)
    if said == (best[0] - 1, best[1] - 1):
        raise NotYet("The figure counts layers and heads from 1.")
    if said == best[::-1]:
        raise NotYet("Layer first, then head.")
    if scores[said] < scores[best]:
        raise NotYet(
            f"Layer {said[0]}, head {said[1]} has {scores[said]:.2f} there. The last line of the "
            "figure has the score of each pattern; another head has more."
        )
    return "Right. Switch it off, and see what the repetition costs."


@functools.cache
def sink_losses(window):
    """Loss of `small` on the exercise's text with a window, without and with the first token."""
    model, tok = load("small").eval(), BPETokenizer.load(SHIPPED / "small")
    ids = torch.tensor([[model.config.eos_id, *tok.encode(TEXT, ())]])
    back = torch.arange(ids.shape[1])[:, None] - torch.arange(ids.shape[1])
    near = (back >= 0) & (back < window)
    losses = []
    for first in (0, 1):
        may = near | (back >= 0) & (torch.arange(ids.shape[1]) < first)
        with torch.no_grad():
            logits = read_heads(model, ids, seen=may)[0]
        losses.append(F.cross_entropy(logits[0, :-1], ids[0, 1:]).item())
    return losses


TEXT = (
    "Return the number of items in the list. If the list is empty, return zero. The items are "
    "counted one by one, and the number of the items is the length of the list."
)


@exercise(
    "multi_head/sink_worth",
    title="What the first token is worth",
    difficulty=2,
    minutes=15,
    kind="experiment",
)
def sink_worth(answer):
    said, (without, with_it) = number(answer), sink_losses(8)
    wide = sink_losses(16)
    if abs(said - (without - with_it)) < 0.02:
        return "Right. One token more in the cache, and it need not even say anything."
    if abs(said - (with_it - without)) < 0.02:
        raise NotYet("The size is right, the sign is not: how much *less* is lost with it?")
    if min(abs(said - without), abs(said - with_it)) < 0.02:
        raise NotYet("That is one of the two losses. Their difference is asked for.")
    if abs(said - (wide[0] - wide[1])) < 0.02:
        raise NotYet("That is the difference with a window of 16. Take 8.")
    raise NotYet(
        "Take `loss_with(8, 0) - loss_with(8, 1)`: the same window, with and without the first."
    )
