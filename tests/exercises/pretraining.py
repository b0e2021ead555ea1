"""Solutions of the exercises on pretraining, and wrong answers of students."""

import math

import torch
import torch.nn.functional as F


def cut(ids, length):
    n = (len(ids) - 1) // length
    inputs = ids[: n * length].reshape(n, length)
    targets = ids[1 : n * length + 1].reshape(n, length)
    return inputs, targets


def masked_loss(logits, targets):
    counts = targets != -100
    logits, targets = logits[counts], targets[counts]
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    return -log_p.gather(-1, targets[:, None]).mean()


def to_bits(nats, tokens, n_bytes):
    return nats * tokens / math.log(2) / n_bytes


def adamw_step(theta, g, m, v, t, lr, b1, b2, eps, decay):
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g**2
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    step = m_hat / (v_hat.sqrt() + eps) + decay * theta
    return theta - lr * step, m, v


def rate(step, steps, warmup, peak, final):
    if step < warmup:
        return peak * (step + 1) / warmup
    x = (step - warmup) / (steps - warmup)
    return final + (peak - final) * (1 + math.cos(math.pi * x)) / 2


def clip(grads, max_norm):
    norm = sum(g.square().sum() for g in grads).sqrt()
    factor = min(1.0, max_norm / norm.item())
    return [g * factor for g in grads]


SOLUTIONS = {
    "cut": cut, "masked_loss": masked_loss, "to_bits": to_bits, "adamw_step": adamw_step,
    "rate": rate, "clip": clip,
}


def cut_without_moving(ids, length):
    n = (len(ids) - 1) // length
    x = ids[: n * length].view(n, length)
    return x, x


def cut_moved_the_wrong_way(ids, length):
    n = (len(ids) - 1) // length
    return ids[1 : n * length + 1].view(n, length), ids[: n * length].view(n, length)


def cut_too_few_windows(ids, length):
    n = len(ids) // (length + 1)
    w = ids[: n * (length + 1)].view(n, length + 1)
    return w[:, :-1], w[:, 1:]


def cut_rolled_within_a_window(ids, length):
    n = (len(ids) - 1) // length
    x = ids[: n * length].view(n, length)
    return x, x.roll(-1, 1)


def cut_a_window_too_many(ids, length):
    n = len(ids) // length
    return ids[: n * length].view(n, length), ids.roll(-1)[: n * length].view(n, length)


def cut_down_the_columns(ids, length):
    n = (len(ids) - 1) // length
    return ids[: n * length].view(length, n).T, ids[1 : n * length + 1].view(length, n).T


def cut_by_two(ids, length):
    n = (len(ids) - 2) // length
    return ids[: n * length].view(n, length), ids[2 : n * length + 2].view(n, length)


def loss_divided_by_all(logits, targets):
    return F.cross_entropy(logits, targets, reduction="sum") / len(targets)


def loss_without_a_mask(logits, targets):
    log_p = logits.log_softmax(-1)
    return -log_p.gather(-1, targets.clamp(min=0)[:, None]).mean()


def loss_with_bare_exponentials(logits, targets):
    keep = targets != -100
    p = logits[keep].exp() / logits[keep].exp().sum(-1, keepdim=True)
    return -p.gather(-1, targets[keep][:, None]).log().mean()


def loss_in_bits(logits, targets):
    return F.cross_entropy(logits, targets) / math.log(2)


def loss_summed(logits, targets):
    return F.cross_entropy(logits, targets, reduction="sum")


def loss_of_the_mean_probability(logits, targets):
    keep = targets != -100
    return -logits[keep].softmax(-1).gather(-1, targets[keep][:, None]).mean().log()


def loss_with_an_epsilon(logits, targets):
    keep = targets != -100
    p = logits[keep].softmax(-1).gather(-1, targets[keep][:, None])
    return -(p + 1e-9).log().mean()


def loss_over_positions(logits, targets):
    keep = targets != -100
    return -logits[keep].log_softmax(0).gather(-1, targets[keep][:, None]).mean()


def bits_still_nats(nats, tokens, n_bytes):
    return nats * tokens / n_bytes


def bits_times_ln2(nats, tokens, n_bytes):
    return nats * tokens * math.log(2) / n_bytes


def bits_upside_down(nats, tokens, n_bytes):
    return nats / math.log(2) * n_bytes / tokens


def bits_per_token(nats, tokens, n_bytes):
    return nats / math.log(2)


def bits_of_perplexity(nats, tokens, n_bytes):
    return math.log2(math.exp(nats)) / 8 * tokens / n_bytes


def bits_of_the_text(nats, tokens, n_bytes):
    return nats * tokens / math.log(2)


def adam_decay_in_the_gradient(theta, g, m, v, t, lr, b1, b2, eps, decay):
    g = g + decay * theta
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    return theta - lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps), m, v


def adam_without_correction(theta, g, m, v, t, lr, b1, b2, eps, decay):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    return theta - lr * (m / (v.sqrt() + eps) + decay * theta), m, v


def adam_epsilon_in_the_root(theta, g, m, v, t, lr, b1, b2, eps, decay):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
    return theta - lr * (m_hat / (v_hat + eps).sqrt() + decay * theta), m, v


def adam_without_the_root(theta, g, m, v, t, lr, b1, b2, eps, decay):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
    return theta - lr * (m_hat / (v_hat + eps) + decay * theta), m, v


def adam_betas_swapped(theta, g, m, v, t, lr, b1, b2, eps, decay):
    return adamw_step(theta, g, m, v, t, lr, b2, b1, eps, decay)


def adam_decay_without_the_rate(theta, g, m, v, t, lr, b1, b2, eps, decay):
    new, m, v = adamw_step(theta, g, m, v, t, lr, b1, b2, eps, 0.0)
    return new - decay * theta, m, v


def adam_uphill(theta, g, m, v, t, lr, b1, b2, eps, decay):
    new, m, v = adamw_step(theta, g, m, v, t, lr, b1, b2, eps, decay)
    return 2 * theta - new, m, v


def adam_corrected_means_kept(theta, g, m, v, t, lr, b1, b2, eps, decay):
    new, m, v = adamw_step(theta, g, m, v, t, lr, b1, b2, eps, decay)
    return new, m / (1 - b1**t), v / (1 - b2**t)


def rate_that_starts_at_zero(step, steps, warmup, peak, final):
    return peak * step / warmup if step < warmup else rate(step, steps, warmup, peak, final)


def rate_whose_cosine_starts_at_step_zero(step, steps, warmup, peak, final):
    if step < warmup:
        return peak * (step + 1) / warmup
    return final + (peak - final) * (1 + math.cos(math.pi * step / steps)) / 2


def rate_down_to_zero(step, steps, warmup, peak, final):
    return rate(step, steps, warmup, peak, 0.0) if step >= warmup else peak * (step + 1) / warmup


def rate_in_a_straight_line(step, steps, warmup, peak, final):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak + (final - peak) * (step - warmup) / (steps - warmup)


def rate_of_a_whole_cosine(step, steps, warmup, peak, final):
    if step < warmup:
        return peak * (step + 1) / warmup
    x = (step - warmup) / (steps - warmup)
    return final + (peak - final) * math.cos(math.pi * x)


def rate_without_warmup(step, steps, warmup, peak, final):
    return final + (peak - final) * (1 + math.cos(math.pi * step / steps)) / 2


def clip_each_alone(grads, max_norm):
    return [g * min(1.0, max_norm / g.norm().item()) for g in grads]


def clip_each_entry(grads, max_norm):
    return [g.clamp(-max_norm, max_norm) for g in grads]


def clip_always(grads, max_norm):
    norm = sum(g.square().sum() for g in grads).sqrt()
    return [g * (max_norm / norm) for g in grads]


def clip_by_the_sum_of_norms(grads, max_norm):
    norm = sum(g.norm().item() for g in grads)
    return [g * min(1.0, max_norm / norm) for g in grads]


def clip_without_the_root(grads, max_norm):
    norm = sum(g.square().sum().item() for g in grads)
    return [g * min(1.0, max_norm / norm) for g in grads]


def clip_by_the_largest(grads, max_norm):
    norm = max(g.abs().max().item() for g in grads)
    return [g * min(1.0, max_norm / norm) for g in grads]


def clip_to_zero(grads, max_norm):
    norm = sum(g.square().sum() for g in grads).sqrt()
    return [g if norm <= max_norm else torch.zeros_like(g) for g in grads]


WRONG = {
    "cut": {
        "targets not moved": cut_without_moving,
        "inputs and targets swapped": cut_moved_the_wrong_way,
        "a token wasted between windows": cut_too_few_windows,
        "rolled inside each window": cut_rolled_within_a_window,
        "a window too many, which wraps round": cut_a_window_too_many,
        "cut down the columns": cut_down_the_columns,
        "moved by two": cut_by_two,
    },
    "masked_loss": {
        "divided by all rows": loss_divided_by_all,
        "masked rows counted": loss_without_a_mask,
        "bare exponentials": loss_with_bare_exponentials,
        "in bits": loss_in_bits,
        "the sum": loss_summed,
        "log of the mean probability": loss_of_the_mean_probability,
        "an epsilon in the logarithm": loss_with_an_epsilon,
        "softmax over the rows": loss_over_positions,
    },
    "to_bits": {
        "still nats": bits_still_nats,
        "times ln 2": bits_times_ln2,
        "upside down": bits_upside_down,
        "bits per token": bits_per_token,
        "divided by eight": bits_of_perplexity,
        "bits of the whole text": bits_of_the_text,
    },
    "adamw_step": {
        "decay in the gradient": adam_decay_in_the_gradient,
        "no bias correction": adam_without_correction,
        "epsilon inside the root": adam_epsilon_in_the_root,
        "no root": adam_without_the_root,
        "betas swapped": adam_betas_swapped,
        "decay not times the rate": adam_decay_without_the_rate,
        "uphill": adam_uphill,
        "corrected means kept": adam_corrected_means_kept,
    },
    "rate": {
        "starts at zero": rate_that_starts_at_zero,
        "cosine from step 0": rate_whose_cosine_starts_at_step_zero,
        "down to zero": rate_down_to_zero,
        "a straight line": rate_in_a_straight_line,
        "a whole cosine": rate_of_a_whole_cosine,
        "no warm-up": rate_without_warmup,
    },
    "clip": {
        "each tensor alone": clip_each_alone,
        "each entry": clip_each_entry,
        "small ones scaled up": clip_always,
        "sum of the norms": clip_by_the_sum_of_norms,
        "root forgotten": clip_without_the_root,
        "by the largest entry": clip_by_the_largest,
        "dropped": clip_to_zero,
    },
}
