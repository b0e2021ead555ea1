"""What may come next, whatever the model thinks: rules (logits, tokens) → logits.

logits (rows, V) are the model's, or a beam's log-probabilities; tokens (rows, length) int64 is the
text so far, prompt or start token included. A token that may not come gets −inf. `generate` takes
such functions as `processors`; a published model's generation_config.json asks for some of these.
"""

import math

import torch


def forbid(ids):
    """These tokens never come."""
    ids = list(ids)

    def rule(logits, tokens):
        logits = logits.clone()
        logits[:, ids] = -math.inf
        return logits

    return rule


def forbid_at(length, ids):
    """These tokens don't come where the text has `length` tokens."""
    return _where(lambda n: n == length, forbid(ids))


def forbid_before(length, ids):
    """These tokens don't come while the text has fewer than `length` tokens: no end too soon."""
    return _where(lambda n: n < length, forbid(ids))


def force_at(length, ids):
    """Only one of these tokens comes where the text has `length` tokens, each as likely."""
    ids = list(ids)

    def rule(logits, tokens):
        forced = torch.full_like(logits, -math.inf)
        forced[:, ids] = 0.0
        return forced

    return _where(lambda n: n == length, rule)


def no_repeated_ngram(n):
    """No n tokens in a row come twice. Costs a look at the whole text a step."""

    def rule(logits, tokens):
        if tokens.shape[1] < n:
            return logits
        begin = tokens[:, tokens.shape[1] - n + 1 :]  # the n − 1 last ones
        seen = tokens.unfold(1, n, 1)  # (rows, places, n)
        same = (seen[..., :-1] == begin[:, None]).all(-1)
        row, place = same.nonzero(as_tuple=True)
        logits = logits.clone()
        logits[row, seen[row, place, -1]] = -math.inf
        return logits

    return rule


def _where(holds, rule):
    def only(logits, tokens):
        return rule(logits, tokens) if holds(tokens.shape[1]) else logits

    return only
