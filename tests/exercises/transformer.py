"""Solutions of the exercises on the encoder–decoder Transformer, and wrong answers of students."""

import torch


def decoder_inputs(targets, bos, pad):
    start = torch.full_like(targets[:, :1], bos)
    shifted = torch.cat([start, targets[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, pad)


def smooth(logits, targets, eps):
    counts = targets != -100
    log_p = logits[counts].log_softmax(-1)
    right = log_p.gather(-1, targets[counts][:, None])[:, 0]
    loss = (1 - eps) * right + eps * log_p.mean(-1)
    return -loss.mean()


def count(vocab_size, d_model, layers, d_ff):
    attention = 4 * d_model**2 + 4 * d_model
    ffn = 2 * d_model * d_ff + d_ff + d_model
    norm = 2 * d_model
    encoder = attention + ffn + 2 * norm
    decoder = 2 * attention + ffn + 3 * norm
    return vocab_size * d_model + layers * (encoder + decoder)


def translate(model, source, bos, eos, most):
    written = [bos]
    while len(written) <= most:
        logits = model(source, torch.tensor(written))
        token = int(logits[-1].argmax())
        if token == eos:
            break
        written.append(token)
    return written[1:]


def output_norm(x, sublayer, norm):
    return x + norm(sublayer(x))


SOLUTIONS = {
    "decoder_inputs": decoder_inputs,
    "smooth": smooth,
    "count": count,
    "translate": translate,
    "shifted": "RMSNorm",
    "looks": 0.34,
    "output_norm": output_norm,
}


# --- wrong answers


def norm_after_the_sum(x, sublayer, norm):
    return norm(x + sublayer(x))


def norm_before(x, sublayer, norm):
    return x + sublayer(norm(x))


def norm_on_both_sides(x, sublayer, norm):
    return x + norm(sublayer(norm(x)))


def nothing_added(x, sublayer, norm):
    return norm(sublayer(x))


def adds_to_the_normalised(x, sublayer, norm):
    return norm(x) + norm(sublayer(x))


def no_norm(x, sublayer, norm):
    return x + sublayer(x)


def not_shifted(targets, bos, pad):
    return targets.masked_fill(targets == -100, pad)


def shifted_the_wrong_way(targets, bos, pad):
    end = torch.full_like(targets[:, :1], bos)
    shifted = torch.cat([targets[:, 1:], end], 1)
    return shifted.masked_fill(shifted == -100, pad)


def padding_left_in(targets, bos, pad):
    return torch.cat([torch.full_like(targets[:, :1], bos), targets[:, :-1]], 1)


def rolled_round(targets, bos, pad):
    shifted = targets.roll(1, 1)
    return shifted.masked_fill(shifted == -100, pad)


def bos_in_front_and_nothing_dropped(targets, bos, pad):
    shifted = torch.cat([torch.full_like(targets[:, :1], bos), targets], 1)
    return shifted.masked_fill(shifted == -100, pad)


def first_token_overwritten(targets, bos, pad):
    shifted = targets.masked_fill(targets == -100, pad)
    shifted[:, 0] = bos
    return shifted


def smooth_over_the_wrong_ones(logits, targets, eps):
    counts = targets != -100
    log_p = logits[counts].log_softmax(-1)
    V = log_p.shape[-1]
    right = log_p.gather(-1, targets[counts][:, None])[:, 0]
    others = (log_p.sum(-1) - right) / (V - 1)
    return -((1 - eps) * right + eps * others).mean()


def smooth_not_at_all(logits, targets, eps):
    counts = targets != -100
    log_p = logits[counts].log_softmax(-1)
    return -log_p.gather(-1, targets[counts][:, None]).mean()


def smooth_with_the_sum(logits, targets, eps):
    counts = targets != -100
    log_p = logits[counts].log_softmax(-1)
    right = log_p.gather(-1, targets[counts][:, None])[:, 0]
    return -((1 - eps) * right + eps * log_p.sum(-1)).mean()


def smooth_added_on_top(logits, targets, eps):
    counts = targets != -100
    log_p = logits[counts].log_softmax(-1)
    right = log_p.gather(-1, targets[counts][:, None])[:, 0]
    return -(right + eps * log_p.mean(-1)).mean()


def smooth_divided_by_all_rows(logits, targets, eps):
    return smooth(logits, targets, eps) * (targets != -100).sum() / len(targets)


def smooth_counting_padding_as_token_0(logits, targets, eps):
    return smooth(logits, targets.clamp(min=0), eps)


def smooth_by_the_library(logits, targets, eps):
    return torch.nn.functional.cross_entropy(logits, targets, label_smoothing=eps)


def smooth_probabilities_instead_of_logs(logits, targets, eps):
    counts = targets != -100
    p = logits[counts].softmax(-1)
    right = p.gather(-1, targets[counts][:, None])[:, 0]
    return -((1 - eps) * right + eps * p.mean(-1)).mean()


def count_without_biases(vocab_size, d_model, layers, d_ff):
    encoder = 4 * d_model**2 + 2 * d_model * d_ff + 4 * d_model
    decoder = 8 * d_model**2 + 2 * d_model * d_ff + 6 * d_model
    return vocab_size * d_model + layers * (encoder + decoder)


def count_without_cross_attention(vocab_size, d_model, layers, d_ff):
    attention = 4 * d_model**2 + 4 * d_model
    ffn = 2 * d_model * d_ff + d_ff + d_model
    return vocab_size * d_model + 2 * layers * (attention + ffn + 4 * d_model)


def count_three_tables(vocab_size, d_model, layers, d_ff):
    return count(vocab_size, d_model, layers, d_ff) + 2 * vocab_size * d_model


def count_without_norms(vocab_size, d_model, layers, d_ff):
    return count(vocab_size, d_model, layers, d_ff) - layers * 10 * d_model


def count_three_matrices_an_attention(vocab_size, d_model, layers, d_ff):
    return count(vocab_size, d_model, layers, d_ff) - 3 * layers * (d_model**2 + d_model)


def count_one_stack(vocab_size, d_model, layers, d_ff):
    attention = 4 * d_model**2 + 4 * d_model
    ffn = 2 * d_model * d_ff + d_ff + d_model
    return vocab_size * d_model + layers * (attention + ffn + 4 * d_model)


def translate_keeping_eos(model, source, bos, eos, most):
    written = [bos]
    for _ in range(most):
        written.append(int(model(source, torch.tensor(written))[-1].argmax()))
        if written[-1] == eos:
            break
    return written[1:]


def translate_keeping_bos(model, source, bos, eos, most):
    return [bos, *translate(model, source, bos, eos, most)]


def translate_from_the_first_place(model, source, bos, eos, most):
    written = [bos]
    while len(written) <= most:
        token = int(model(source, torch.tensor(written))[0].argmax())
        if token == eos:
            break
        written.append(token)
    return written[1:]


def translate_never_stopping(model, source, bos, eos, most):
    written = [bos]
    for _ in range(most):
        written.append(int(model(source, torch.tensor(written))[-1].argmax()))
    text = written[1:]
    return text[: text.index(eos)] if eos in text else text


def translate_all_at_once(model, source, bos, eos, most):
    logits = model(source, torch.tensor([bos] + [0] * (most - 1)))
    text = logits.argmax(-1).tolist()
    return text[: text.index(eos)] if eos in text else text


def translate_reading_only_the_last(model, source, bos, eos, most):
    text, last = [], bos
    while len(text) < most:
        last = int(model(source, torch.tensor([last]))[-1].argmax())
        if last == eos:
            break
        text.append(last)
    return text


def translate_starting_with_the_source(model, source, bos, eos, most):
    written = source.tolist()
    begin = len(written)
    while len(written) < begin + most:
        token = int(model(source, torch.tensor(written))[-1].argmax())
        if token == eos:
            break
        written.append(token)
    return written[begin:]


def translate_without_a_limit(model, source, bos, eos, most):
    return translate(model, source, bos, eos, 45)


WRONG = {
    "decoder_inputs": {
        "not shifted": not_shifted,
        "shifted to the left": shifted_the_wrong_way,
        "-100 left in": padding_left_in,
        "rolled round": rolled_round,
        "one token too many": bos_in_front_and_nothing_dropped,
        "first token overwritten": first_token_overwritten,
    },
    "smooth": {
        "spread over the wrong tokens only": smooth_over_the_wrong_ones,
        "not smoothed": smooth_not_at_all,
        "sum for mean": smooth_with_the_sum,
        "added on top": smooth_added_on_top,
        "divided by all rows": smooth_divided_by_all_rows,
        "padding counted as token 0": smooth_counting_padding_as_token_0,
        "probabilities, no logs": smooth_probabilities_instead_of_logs,
        "the library's own": smooth_by_the_library,
    },
    "count": {
        "no biases": count_without_biases,
        "no cross-attention": count_without_cross_attention,
        "three tables": count_three_tables,
        "no norms": count_without_norms,
        "no output projection": count_three_matrices_an_attention,
        "one stack": count_one_stack,
    },
    "translate": {
        "eos kept": translate_keeping_eos,
        "bos kept": translate_keeping_bos,
        "first place for last": translate_from_the_first_place,
        "goes on after eos": translate_never_stopping,
        "all at once": translate_all_at_once,
        "reads only the last token": translate_reading_only_the_last,
        "begins with the source": translate_starting_with_the_source,
        "no limit": translate_without_a_limit,
    },
    "shifted": {
        "the one that takes the mean off": "layer norm",
        "both": "both",
        "neither": "neither",
        "no such choice": "batch norm",
        "a number": 5.0,
    },
    "looks": {
        "another word": 0.01,
        "evenly spread": 1 / 7,
        "all of it": 1.0,
        "the probability": 0.99,
        "in percent": 34.0,
    },
    "output_norm": {
        "after the sum": norm_after_the_sum,
        "before": norm_before,
        "on both sides": norm_on_both_sides,
        "nothing added": nothing_added,
        "adds to the normalised": adds_to_the_normalised,
        "no norm": no_norm,
    },
}
