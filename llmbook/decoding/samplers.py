"""What is sampled from: small functions from logits to logits that make some tokens rarer.

    repetition_penalty → temperature → top_k → top_p → min_p → softmax → draw

That is the order of `generate`, and of transformers. Each function takes logits (…, V), V tokens
in the vocabulary, and returns the same shape; a token that is cut gets −inf, the likeliest one
never is. They compose: `min_p(temperature(logits, 1.5), 0.05)`. The cuts are unmoved by a constant
added to the logits, so log-probabilities serve too.
"""

import math

import torch

from llmbook.checks import number, share, whole


def temperature(logits, value):
    """logits / T: below 1 sharper, above 1 flatter; T → 0 is greedy, 1 leaves them as they are.

    Raises ValueError unless T is above 0: `generate` takes 0 for greedy and does not come here.
    """
    return logits / number("temperature", value, above=0)


def top_k(logits, k):
    """Keep the k likeliest tokens, exactly k where some are as likely as the k-th.

    (transformers keeps all of those.) Source: Fan et al. 2018.
    """
    whole("top_k", k, least=1)
    if k >= logits.shape[-1]:
        return logits
    best = logits.topk(k, dim=-1)
    return torch.full_like(logits, -math.inf).scatter(-1, best.indices, best.values)


def top_p(logits, p):
    """Keep the smallest set of likeliest tokens with total probability of at least p.

    Of equally likely ones the first in the vocabulary stays. Source: Holtzman et al. 2020.
    """
    share("top_p", p, zero=False)
    if p == 1:
        return logits
    ordered, place = logits.sort(dim=-1, descending=True, stable=True)
    shares = ordered.float().softmax(-1)
    before = shares.cumsum(-1) - shares  # probability of all likelier tokens
    before[..., 0] = 0.0  # the likeliest stays, whatever p
    kept = ordered.masked_fill(before >= p, -math.inf)
    return torch.empty_like(logits).scatter(-1, place, kept)


def min_p(logits, p):
    """Keep the tokens that are at least p times as likely as the likeliest.

    Few where the model is sure, many where it is not. Source: Nguyen et al. 2024.
    """
    share("min_p", p, one=False)
    if p == 0:
        return logits
    least = logits.amax(-1, keepdim=True) + math.log(p)
    return logits.masked_fill(logits < least, -math.inf)


def repetition_penalty(logits, tokens, penalty, keep=None):
    """Make the text's tokens rarer: their logit / θ where it is above 0, else logit · θ.

    logits (rows, V); tokens (rows, length) int64, the text so far, prompt included; keep (rows,
    length), False at padding, which is no text; θ = penalty, 1 changes nothing. It depends on
    where the model's logits have their 0, which is arbitrary. Source: Keskar et al. 2019.
    """
    number("repetition_penalty", penalty, above=0)
    seen = torch.zeros_like(logits, dtype=torch.bool)
    if keep is None:
        seen.scatter_(-1, tokens, True)
    else:  # a token may stand under padding and in the text
        here = torch.zeros_like(logits).scatter_add_(-1, tokens, keep.to(logits.dtype))
        seen = here > 0
    rarer = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, rarer, logits)


def probabilities(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """What is sampled from: softmax(logits / temperature), cut by top-k, then top-p, then min-p.

    logits (…, V) → the same shape in float32, rows sum to 1. Tokens that are cut get exactly 0.
    """
    return cut(logits.float(), temperature, top_k, top_p, min_p).softmax(-1)


def cut(logits, t=1.0, k=None, p=None, m=None):
    """The logits of `probabilities`: those of the samplers that are asked for, in their order."""
    if t != 1:
        logits = temperature(logits, t)
    if k is not None:
        logits = top_k(logits, k)
    if p is not None:
        logits = top_p(logits, p)
    return logits if m is None else min_p(logits, m)
