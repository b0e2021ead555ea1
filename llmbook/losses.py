"""What a model is held to: the log-probabilities of given tokens, and the losses made of them.

    log p(y | x) = Σ_t log p(y_t | x, y_<t)        a sum over the tokens that count, not a mean

Shapes: V tokens in the vocabulary; logits (batch, tokens, V) speak of the token that follows each
place; targets (batch, tokens) int64 are those tokens, IGNORED where a place doesn't count: padding
or a prompt. Everything is computed in float32 or wider. SFT, DPO, PPO and GRPO start here.
"""

import torch.nn.functional as F

from llmbook.checks import share, tensor, token_ids

IGNORED = -100  # a target that no loss counts: torch.nn.functional.cross_entropy's ignore_index


def next_token_loss(logits, targets):
    """Mean cross-entropy of the targets that count, in nats: scalar; nan when none counts.

    logits (batch, tokens, V), targets (batch, tokens): a mean over all tokens of the batch, not
    over rows. Raises TypeError for another dtype, ValueError for another shape or id.
    """
    _check(logits, targets)
    flat = logits.flatten(0, -2)
    return F.cross_entropy(_wide(flat), targets.flatten(), ignore_index=IGNORED)


def log_probs(logits, targets):
    """log p of each target, in nats: (batch, tokens), 0 where a target is IGNORED.

    So `.sum(-1)` is the log-probability of a row's answer: the sum, as DPO and PPO take it, that a
    longer answer makes smaller. The V probabilities are never stored twice: log p(y) = logit of y
    − logsumexp.
    """
    _check(logits, targets)
    flat = logits.flatten(0, -2)
    nats = F.cross_entropy(_wide(flat), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return 0.0 - nats.view(targets.shape)  # a zero without a sign at IGNORED


def answer_log_probs(model, input_ids, targets, attention_mask=None):
    """log p of each row's counted targets under a decoder: (batch,), in nats, sums.

    input_ids, targets (batch, tokens): see `log_probs`; attention_mask (batch, tokens): True where
    a token stands. One forward pass; with gradients, unless called under torch.no_grad().
    """
    return log_probs(model(input_ids, attention_mask), targets).sum(-1)


def label_smoothing(logits, targets, smoothing=0.1):
    """Mean cross-entropy against (1 − ε) · one-hot + ε/V, in nats: scalar.

        loss = −(1 − ε) log p(target) − ε · mean over the V tokens of log p

    logits (n, V); targets (n,) int64. Equal to `torch.nn.functional.cross_entropy(…,
    label_smoothing=ε)`, which serves where ε = 0. Raises as `next_token_loss` does. Source:
    Szegedy et al. 2016.
    """
    share("smoothing", smoothing)
    _check(logits, targets)
    if smoothing == 0:
        return F.cross_entropy(logits, targets, ignore_index=IGNORED)
    counts = targets != IGNORED
    log_p = logits[counts].log_softmax(-1)
    right = log_p.gather(-1, targets[counts][:, None])[:, 0]
    return -((1 - smoothing) * right + smoothing * log_p.mean(-1)).mean()


def count_targets(targets):
    """How many targets count: a scalar tensor."""
    return (targets != IGNORED).sum()


def _check(logits, targets):
    tensor("logits", logits, "... tokens vocab_size", float)
    token_ids("targets", targets, vocab_size=logits.shape[-1], ignored=IGNORED, axes="... tokens")
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets must have the logits' (batch, tokens) = {tuple(logits.shape[:-1])}: "
            f"got {tuple(targets.shape)}"
        )


def _wide(x):
    """Half precision as float32; float32 and float64 as they are."""
    return x.float() if x.dtype.itemsize < 4 else x
