"""Keeping experts evenly used: losses in both conventions, a bias without a loss, and measures.

With f_i the share of slots at expert i and P_i the mean probability that the router gives it:

    switch         E Σ f_i P_i,  Σ f = 1:  1 at balance, E / K at collapse     Fedus et al. 2022
    transformers   E Σ f_i P_i,  Σ f = K:  K at balance, E at collapse         Mixtral's config

f counts choices and has no gradient; P has. So the gradient lowers the probability of experts that
are chosen often. Pooled losses multiply after joining all layers, and two layers that each send
everything to one expert look balanced when those differ. Letters: see `llmbook.moe`.
"""

import contextlib

import torch
import torch.distributed as dist

from llmbook.checks import one_of, tensor, whole
from llmbook.moe.layer import MoE

CONVENTIONS = ("switch", "transformers")


def load(routing):
    """Share of the slots at each expert: (E,), sums to 1; dropped slots don't count."""
    counts = routing.counts.to(routing.probabilities.dtype)
    return counts / counts.sum().clamp(min=1)


def balance_loss(routing, convention="switch", *, mask=None, group=None):
    """The auxiliary balance loss of one layer, a scalar: E Σ_i f_i P_i.

    convention: "switch" (1 at perfect balance) or "transformers" (k at perfect balance), see the
    top of the module. mask: bool (N,), True = the token counts. group: a process group over which
    f is averaged, so that balance is asked of the global batch and not of each process's; every
    process must hold the same number of tokens. A dropped slot counts where the router wanted it.
    """
    return pooled_balance_loss([routing], convention, mask=mask, group=group)


def pooled_balance_loss(routings, convention="transformers", *, mask=None, group=None):
    """The loss over several layers' tokens together, as `transformers` computes it: a scalar.

    Arguments as in `balance_loss`; with one layer it is the same. Raises ValueError for an
    unknown convention, no layers, or a mask of another length than a layer's tokens.
    """
    one_of("convention", convention, CONVENTIONS)
    if not routings:
        raise ValueError("routings must hold at least one layer's: got none")
    n_experts = routings[0].logits.shape[-1]
    slots = tokens = None
    for routing in routings:
        n = routing.logits.shape[0]
        keep = torch.ones(n, dtype=torch.bool, device=routing.logits.device)
        if mask is not None:
            tensor("mask", mask, "tokens", torch.bool, tokens=n)
            keep = mask
        counts = torch.bincount(routing.wanted[keep].flatten() + 1, minlength=n_experts + 1)[1:]
        sums = routing.probabilities[keep].sum(0)  # (E,), has the gradient
        slots = counts if slots is None else slots + counts
        tokens = (
            (sums, keep.sum()) if tokens is None else (tokens[0] + sums, tokens[1] + keep.sum())
        )
    probability = tokens[0] / tokens[1].clamp(min=1)
    slots = slots.to(probability.dtype)
    if group is not None:
        dist.all_reduce(slots, group=group)
    share = slots / slots.sum().clamp(min=1)
    k = routings[0].chosen.shape[-1] if convention == "transformers" else 1
    return n_experts * k * (share * probability).sum()


def z_loss(logits):
    """Router z-loss, mean over tokens of (log Σ exp logits)²: (N, E) → scalar.

    Keeps logits small, where float rounding cannot change the choice. Source: Zoph et al. 2022.
    """
    high = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(high).logsumexp(-1).square().mean() if len(logits) else logits.sum()


@torch.no_grad()
def bias_step(bias, counts, rate):
    """Move a router's bias in place: bias_i += rate · sign(mean count − count_i).

    Balancing without a loss: experts with too few tokens become easier to choose, and no gradient
    disturbs the model. counts (E,): tokens at each expert in the last batch, `Routing.counts`,
    summed over processes. Source: Wang et al. 2024; DeepSeek-V3 uses rate 0.001.
    """
    counts = counts.to(bias.dtype)
    bias += rate * torch.sign(counts.mean() - counts)


def experts_read(n_experts, k, tokens):
    """Experts that a batch needs, on average: E (1 − (1 − k/E)^B), each token choosing evenly.

    What is read from memory in a step of generation, where reading weights is the cost.
    """
    whole("k", k, least=1, most=n_experts)
    return n_experts * (1 - (1 - k / n_experts) ** tokens)


@contextlib.contextmanager
def collect_routings(model):
    """Within the block, a list that gets each `Routing` made by the model's routers, in order.

    with collect_routings(model) as routings:
        loss = model.loss(ids, targets)
    loss = loss + 0.01 * pooled_balance_loss(routings)
    """
    found = []
    hooks = [
        layer.router.register_forward_hook(lambda router, inputs, routing: found.append(routing))
        for layer in model.modules()
        if isinstance(layer, MoE)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
