"""Checks of the exercises on mixtures of experts: weights, balance, capacity, counting."""

import math

import torch
import torch.nn.functional as F

from llmbook.book.check import NotYet, agree, call, exercise, number
from llmbook.experiments import moe as runs


@exercise(
    "moe/networks_run", title="How many networks run?", difficulty=1, minutes=5, kind="predict"
)
def networks_run(answer):
    said = number(answer)
    if said == 2:
        raise NotYet("That is one layer's. The next layer chooses anew.")
    if said in (128, 4 * 32 * 2):
        raise NotYet("k counts once: of 8 experts in a layer, 2 run.")
    if said != 64:
        raise NotYet("Multiply the layers by the experts that a token visits in each.")
    return "Right: 2 in each of 32 layers, out of 256."


@exercise("moe/batch_for_seven", title="Seven of eight", difficulty=1, minutes=5, kind="figure")
def batch_for_seven(answer):
    said = number(answer)
    if said != int(said) or said < 1:
        raise NotYet("A number of sequences is wanted: a whole number of at least 1.")
    read = 8 * (1 - 0.75**said)
    if read <= 7:
        raise NotYet(f"With {said:.0f} sequences {read:.2f} experts are read: look further right.")
    if said != 8:
        raise NotYet("More than seven are read there, and with fewer sequences already.")
    return "Right: 8 sequences read 7.2 of 8 experts, at twice the operations of one expert each."


def _logits(n, n_experts, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, n_experts, generator=g, dtype=torch.float64)


def _weights(logits, k):
    best = logits.topk(k, -1)
    return torch.zeros_like(logits).scatter(-1, best.indices, best.values.softmax(-1))


@exercise("moe/router_weights", title="The router's weights", difficulty=2, minutes=15)
def router_weights(answer):
    for n, n_experts, k, seed in ((5, 6, 2, 0), (7, 4, 1, 1), (3, 5, 5, 2)):
        logits = _logits(n, n_experts, seed)
        got, want = call(answer, logits, k), _weights(logits, k)
        if torch.is_tensor(got) and got.shape == want.shape:
            if ((got != 0).sum(-1) != k).any():
                raise NotYet("Exactly k numbers of each row may differ from 0.")
            if not torch.allclose(got.sum(-1), torch.ones(n, dtype=got.dtype)):
                raise NotYet("Each row must sum to 1: the softmax is over the chosen ones alone.")
        agree(got, want, "Choose the k best of each row, then take the softmax of those.")
    logits = _logits(5, 6, 3).requires_grad_()
    out = call(lambda logits, k: answer(logits, k), logits, 2)
    grad = None
    if out.requires_grad:
        # `call` copies its arguments, so the gradient is asked of a fresh run.
        mine = answer(logits, 2)
        (grad,) = torch.autograd.grad(mine[0].max(), logits, allow_unused=True)
    if grad is None or grad.abs().max() == 0:
        raise NotYet("The weights have no gradient: so the router would never learn anything.")
    return "Right. And the gradient reaches the router through these weights alone."


@exercise("moe/balance", title="The balance loss", difficulty=2, minutes=15)
def balance(answer):
    for n, n_experts, k, seed in ((9, 4, 1, 4), (12, 6, 2, 5), (8, 5, 3, 6)):
        probabilities = (2 * _logits(n, n_experts, seed)).softmax(-1)
        chosen = probabilities.topk(k, -1).indices
        share = F.one_hot(chosen, n_experts).double().sum((0, 1)) / chosen.numel()
        want = n_experts * (share * probabilities.mean(0)).sum()
        got = call(answer, probabilities, chosen)
        if k > 1 and torch.is_tensor(got) and torch.allclose(got.double(), k * want):
            raise NotYet(
                "That is k times as much: the shares must sum to 1 over all n · k choices, so "
                "that perfect balance is 1 whatever k is."
            )
        agree(
            got,
            want,
            "E times the sum over experts of (share of the choices) times (mean probability). "
            "With all experts used alike it must be 1.",
        )
    probabilities = _logits(6, 4, 7).softmax(-1).requires_grad_()
    got = answer(probabilities, probabilities.topk(2, -1).indices)
    if not (torch.is_tensor(got) and got.requires_grad):
        raise NotYet("The value is right, and it has no gradient: P must keep its own.")
    return "Right: 1 at balance, and its gradient lowers the probability of crowded experts."


def _kept(chosen, n_experts, capacity):
    kept, room = torch.zeros(chosen.shape, dtype=torch.bool), [capacity] * n_experts
    for slot in range(chosen.shape[1]):
        for n, expert in enumerate(chosen[:, slot].tolist()):
            if room[expert]:
                kept[n, slot], room[expert] = True, room[expert] - 1
    return kept


@exercise("moe/tokens_lost", title="Who gets nothing?", difficulty=3, minutes=20)
def tokens_lost(answer):
    for n, n_experts, k, factor, seed in (
        (16, 4, 1, 1.0, 8),
        (15, 4, 2, 0.5, 9),
        (21, 6, 2, 0.75, 10),
        (10, 5, 2, 9.0, 11),
    ):
        logits = _logits(n, n_experts, seed) + torch.arange(n_experts) / 2
        chosen = logits.topk(k, -1).indices
        capacity = math.ceil(factor * n * k / n_experts)
        want = int((~_kept(chosen, n_experts, capacity)).all(-1).sum())
        agree(
            call(answer, chosen, n_experts, factor),
            want,
            "Each expert takes ⌈c · n · k / E⌉ slots, first choices of all tokens before second "
            "ones. Count the tokens of which no slot was taken.",
        )
    return "Right. In a model nothing tells you about them: count them."


@exercise("moe/more_experts", title="More experts", difficulty=2, minutes=10, kind="experiment")
def more_experts(answer):
    said = number(answer)
    found = runs.spread(runs.recorded()["more experts"], "mixture 32", "known")
    usual = runs.spread(runs.recorded()["facts"], "mixture", "known")
    room = max(max(found) - min(found), 0.02)
    if min(found) - room <= said <= max(found) + room:
        return (
            f"Right. Recorded with five seeds: {min(found):.2f} to {max(found):.2f}, at the "
            "operations of eight experts."
        )
    if abs(said - sum(usual) / len(usual)) < 0.02:
        raise NotYet("That is what 8 experts know. Call known_with(32).")
    if not 0 <= said <= 1:
        raise NotYet("A share is wanted, from 0 to 1.")
    raise NotYet("Run known_with(32) and answer with the number that it returns.")
