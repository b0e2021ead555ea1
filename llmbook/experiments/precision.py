"""The same small run with its weights kept in 32 or in 16 bits, and which updates 16 would lose.

    float32                     everything
    autocast                    matrix products in bfloat16, weights and means in float32: mixed
    bfloat16                    everything, weights and the optimisers' means among it
    bfloat16, rounded by chance  the same; a result is rounded up or down, right on average

The arms share batches, schedule, start and the optimisers' formulas, which are computed in float32
and then stored. Sources: Micikevicius et al. 2018; Kalamkar et al. 2019; Gupta et al. 2015.
"""

import torch

from llmbook.data.packing import Windows
from llmbook.seeds import generator
from llmbook.training.optim import block_matrices, orthogonalise

STORED = {  # arm: how weights and means are kept, and how a result is rounded to that
    "float32": (torch.float32, "nearest"),
    "autocast": (torch.float32, "nearest"),
    "bfloat16": (torch.bfloat16, "nearest"),
    "bfloat16, rounded by chance": (torch.bfloat16, "chance"),
}
LOST_AT = (10, 20, 40, 60, 80)  # steps, counted from 1
SMALL = (torch.bfloat16, torch.float16)


def stored(x, dtype, how, draw=None):
    """x, float32, as it is kept; by chance: up or down so that the mean is x.

    The 16 bits that bfloat16 cuts off are a number from 0 to 65,535: adding a random one of these
    before the cut carries over with just the probability wanted. Source: Gupta et al. 2015.
    """
    if how == "nearest":
        return x.to(dtype)
    noise = torch.randint(1 << 16, x.shape, generator=draw, dtype=torch.int32)
    return ((x.view(torch.int32) + noise) & -65536).view(torch.float32).to(dtype)


def lost_share(moves, dtype):
    """Share of the updates (before, after), float32, that weights kept in dtype do not notice."""
    lost = every = 0
    for before, after in moves:
        kept, told = before.to(dtype), after != before
        moved = (kept.float() + (after - before)).to(dtype)
        lost, every = lost + ((moved == kept) & told).sum().item(), every + told.sum().item()
    return round(lost / every, 4)


def train_in(arm, model, stream, config):
    """Train with weights and means kept as the arm says; (the model in float32, what was seen).

    Seen are the mean losses of every thirty steps and, of "float32", the shares of updates that
    bfloat16 and float16 would lose, by step.
    """
    (dtype, how), model = STORED[arm], model.to(STORED[arm][0])
    windows = Windows(stream, model.config.max_len, config.seed)
    draw, weights = generator(config.seed, "rounding"), list(model.parameters())
    means = [[torch.zeros_like(p), torch.zeros_like(p)] for p in weights]
    inside = {id(p) for p in block_matrices(model).values()}
    losses, lost = [], {}
    for step in range(config.steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=arm == "autocast"):
            loss = model.loss(*windows.batch(step, config.batch_size))
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, config.clip)
        moves = []
        for p, mean in zip(weights, means, strict=True):
            old = p.detach().float().clone()
            new, fresh = moved(
                old, p.grad.float(), [m.float() for m in mean], step + 1, config, id(p) in inside
            )
            mean[:] = [stored(m, dtype, how, draw) for m in fresh]
            p.data.copy_(stored(new, dtype, how, draw))
            p.grad = None
            moves.append((old, new))
        if arm == "float32" and step + 1 in LOST_AT:
            lost[step + 1] = [lost_share(moves, dtype) for dtype in SMALL]
    spans = range(0, config.steps, 30)
    seen = {
        "on the way": [round(sum(losses[i : i + 30]) / len(losses[i : i + 30]), 4) for i in spans]
    }
    return model.float(), seen | ({"lost": lost} if lost else {})


def moved(weight, g, means, t, config, by_muon):
    """The weight after step t (from 1) and its two means, all float32: AdamW's rule, or Muon's.

    Muon has one mean; the other stays as it is. Decay is on matrices alone.
    """
    lr, (m, v) = config.lr * config.factor(t - 1), means
    decay = config.weight_decay if weight.ndim > 1 else 0.0
    if by_muon:
        m = 0.95 * m + 0.05 * g
        step = 0.2 * max(g.shape) ** 0.5 * orthogonalise(0.95 * m + 0.05 * g)
    else:
        b1, b2 = config.beta1, config.beta2
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        step = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + config.eps)
    return weight - lr * (step + decay * weight), (m, v)
