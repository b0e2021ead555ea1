"""Checks of the exercises on pretraining: odd sizes, masked targets, logits that overflow."""

import math

import torch

from llmbook.book.check import NotYet, agree, call, exercise


def _random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@exercise("pretraining/cut", title="Cut the stream", difficulty=1, minutes=10)
def cut(answer):
    for tokens, length in ((22, 7), (21, 7), (16, 5), (9, 4)):
        ids = torch.arange(100, 100 + tokens)
        got = call(answer, ids, length)
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            raise NotYet("Return two tensors: inputs, targets.")
        n = (tokens - 1) // length
        if torch.as_tensor(got[0]).shape != (n, length):
            raise NotYet(
                f"From {tokens} tokens come {n} whole windows of {length}, as each also needs a "
                f"target for its last input: got inputs {tuple(torch.as_tensor(got[0]).shape)}."
            )
        agree(
            got[0],
            ids[: n * length].view(n, length),
            "The inputs are the stream itself, cut into equal pieces one after the other.",
        )
        agree(
            got[1],
            ids[1 : n * length + 1].view(n, length),
            "The target of each input is the token after it in the stream, "
            "also at a window's end.",
        )
    return "Right. The last target of a window is the first input of the next."


@exercise("pretraining/masked_loss", title="The loss, with gaps", difficulty=2, minutes=15)
def masked_loss(answer):
    logits, targets = 2 * _random(1, 9, 5), torch.tensor([0, -100, 3, 4, 4, -100, 1, 2, -100])
    want = torch.nn.functional.cross_entropy(logits, targets)
    got = call(answer, logits, targets)
    if torch.is_tensor(got) and got.numel() == 1 and abs(got.item() * 9 - want.item() * 6) < 1e-9:
        raise NotYet("The sum is right. It is divided by 9, and only 6 of the targets count.")
    agree(
        got,
        want,
        "The mean of −log p over the rows whose target is not −100. In nats: the natural "
        "logarithm.",
    )
    big = logits.clone()
    big[0, 0] = 1000.0
    big[2, 3] = -1000.0  # the token that came
    got = call(answer, big, targets)
    if not torch.isfinite(torch.as_tensor(got)).all():
        raise NotYet(
            "With a logit of 1,000 it is no longer finite: exp(1000) is too large. Use logsumexp."
        )
    agree(
        got,
        torch.nn.functional.cross_entropy(big, targets),
        "Right for small logits, not for ±1,000: is a clamp or an ε in the way? A token with "
        "probability e⁻¹⁰⁰⁰ is a surprise of 1,000.",
    )
    return "Right, and safe."


@exercise("pretraining/to_bits", title="Whose model is better?", difficulty=1, minutes=5)
def to_bits(answer):
    for nats, tokens, n_bytes in ((2.3, 1000, 2670), (1.1, 777, 791), (5.0, 31, 400)):
        agree(
            call(answer, nats, tokens, n_bytes),
            nats * tokens / math.log(2) / n_bytes,
            "The whole text's surprise is nats times tokens; in bits, divided by ln 2; then share "
            "it out among the bytes.",
            tolerance=1e-9,
        )
    return "Right. Now two models with different tokenizers can be compared."


@exercise("pretraining/adamw_step", title="AdamW from memory", difficulty=2, minutes=20)
def adamw_step(answer):
    setting = {"lr": 0.03, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "decay": 0.2}
    theta, m, v = 3 * _random(2, 4, 3), torch.zeros(4, 3).double(), torch.zeros(4, 3).double()
    for t in (1, 2, 3):
        g = _random(10 + t, 4, 3) * 0.3
        got = call(answer, theta, g, m, v, t, *setting.values())
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            raise NotYet("Return three tensors: theta, m, v.")
        theta, m, v = _adamw(theta, g, m, v, t, **setting)
        agree(got[1], m, "m is the running mean of the gradients, without the correction.")
        agree(got[2], v, "v is the running mean of the squared gradients, without the correction.")
        agree(
            got[0],
            theta,
            f"m and v are right; theta after step {t} is not. Divide both means by "
            "1 − βᵗ, add ε after the root, and keep the decay outside of the fraction.",
        )
    return "Right, three steps long."


def _adamw(theta, g, m, v, t, lr, b1, b2, eps, decay):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    fraction = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
    return theta - lr * (fraction + decay * theta), m, v


@exercise("pretraining/rate", title="Warm up, cool down", difficulty=1, minutes=10)
def rate(answer):
    for steps, warmup, peak, final in ((50, 7, 0.3, 0.02), (33, 1, 1.0, 0.0), (20, 5, 2.0, 0.5)):
        for step in range(steps + 1):
            x = (step - warmup) / (steps - warmup)
            want = (
                peak * (step + 1) / warmup
                if step < warmup
                else final + (peak - final) * (1 + math.cos(math.pi * x)) / 2
            )
            where = "in the warm-up" if step < warmup else "on the cosine"
            agree(
                call(answer, step, steps, warmup, peak, final),
                want,
                f"Step {step} of {steps}, {where} (warmup={warmup}, peak={peak}, final={final}): "
                f"expected {want:.4f}.",
                tolerance=1e-9,
            )
    return "Right: peak/warmup at first, peak at the top, final at the end."


@exercise("pretraining/clip", title="Clip", difficulty=2, minutes=10)
def clip(answer):
    grads = [_random(4, 3, 5), 4 * _random(5, 7), 0.1 * _random(6, 2, 2)]
    norm = math.sqrt(sum(g.square().sum().item() for g in grads))
    for max_norm in (1.0, norm / 2, norm * 2):
        got = call(answer, grads, max_norm)
        if not isinstance(got, (list, tuple)) or len(got) != len(grads):
            raise NotYet("Return a list with one tensor for each that was given.")
        factor = min(1.0, max_norm / norm)
        for mine, g in zip(got, grads, strict=True):
            advice = (
                "These gradients are below the limit already: leave them as they are."
                if factor == 1
                else "One norm over all the tensors together, one factor for "
                "all of them: directions must stay."
            )
            agree(mine, g * factor, advice, tolerance=1e-5)
    return "Right. The direction stays; only the length changes."
