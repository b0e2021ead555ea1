"""Routers: which experts a token gets, and with what weight.

A router is one small matrix, logits = W x with W (E, D). The forms in use differ in what follows
(`FORMS`), and the weights they give are not the same numbers:

    softmax_after    choose by the logits, softmax over the K chosen: sums to 1   Mixtral
    softmax_before   softmax over all E, then choose: sums to less than 1         Switch, OLMoE
    sigmoid          sigmoid of each, choose, divide by the sum of the chosen     DeepSeek-V3
    input            sigmoid of each, choose; the weight multiplies the *input*   Llama 4

Letters: see `llmbook.moe`. All of it is computed in float32, float64 for float64.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.checks import one_of, positive, tensor, whole

FORMS = ("softmax_after", "softmax_before", "sigmoid", "input")


@dataclass(frozen=True)
class Routing:
    """What a router decided for N tokens.

    chosen: int64 (N, K), the experts of each token, best first; −1 where a slot has no expert (it
    was dropped). weights: (N, K), 0 where dropped. probabilities: (N, E), each row sums to 1: what
    balance losses average. logits: (N, E). on_input: the weights multiply the experts' input, not
    their output. asked: what `chosen` was before slots were dropped, None when none could be.
    """

    chosen: torch.Tensor
    weights: torch.Tensor
    probabilities: torch.Tensor
    logits: torch.Tensor
    on_input: bool = False
    asked: torch.Tensor | None = None

    @property
    def wanted(self):
        """The router's choices, dropped ones too: int64 (N, K)."""
        return self.chosen if self.asked is None else self.asked

    @property
    def counts(self):
        """Tokens at each expert: int64 (E,)."""
        n_experts = self.logits.shape[-1]
        # −1, no expert, is counted in a bin of its own and cut off.
        return torch.bincount(self.chosen.flatten() + 1, minlength=n_experts + 1)[1:]

    @property
    def dropped(self):
        """Number of slots without an expert."""
        return int((self.chosen < 0).sum())


def route(logits, k, form="softmax_after", *, bias=None, scale=1.0):
    """Choose k experts for each token and weight them: logits (N, E) → `Routing`.

    form: one of `FORMS`. bias (E,): added to the scores (softmax or sigmoid) for choosing only,
    never to the weights: balancing without a loss (Wang et al. 2024). scale: multiplies the
    weights (DeepSeek-V3's routed scaling factor is 2.5).

    The gradient reaches the logits through the weights: with "softmax_after" and k = 1 the weight
    is always 1, and the router learns nothing. Raises ValueError for k > E and for NaN logits.
    """
    _check_route(logits, k, form)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if form in ("sigmoid", "input"):
        scores = logits.sigmoid()
        probabilities = scores / scores.sum(-1, keepdim=True).clamp(min=1e-20)
    else:
        scores = probabilities = logits.softmax(-1)
    chosen = (logits if bias is None else scores.detach() + bias).topk(k, dim=-1).indices
    if form == "softmax_after":
        weights = logits.gather(-1, chosen).softmax(-1)
    else:
        weights = scores.gather(-1, chosen)
        if form == "sigmoid":
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-20)
    return Routing(chosen, weights * scale, probabilities, logits, form == "input")


def limit_capacity(routing, factor):
    """Let no expert take more than C = ⌈factor · N · K / E⌉ tokens; the rest is dropped.

    First choices go before second ones, and among equals earlier tokens before later ones. A
    dropped slot has chosen −1 and weight 0; the other weights stay as they are. A token all of
    whose slots are dropped gets nothing from the layer but the residual connection. Raises
    ValueError for factor ≤ 0. Source: Lepikhin et al. 2021; Fedus et al. 2022.
    """
    positive("capacity", factor)
    (n, k), n_experts = routing.chosen.shape, routing.logits.shape[-1]
    capacity = math.ceil(factor * n * k / n_experts)
    queue = routing.chosen.t().flatten()  # (K · N,): all first choices, then all second ones
    at_expert = F.one_hot(queue + 1, n_experts + 1)[:, 1:]  # −1 stands at none
    place = (at_expert.cumsum(0) * at_expert).sum(-1)  # 1 for the first of an expert's queue
    kept = (place <= capacity).reshape(k, n).t()
    return replace(
        routing,
        chosen=routing.chosen.masked_fill(~kept, -1),
        weights=routing.weights.masked_fill(~kept, 0.0),
        asked=routing.chosen,
    )


def choose_tokens(logits, k):
    """Expert choice: each expert takes its ⌈N · k / E⌉ best tokens: logits (N, E) → `Routing`.

    Perfectly balanced by construction, and a token may get no expert, or all. `chosen` is (N, E):
    column i holds i or −1. The weight is the softmax over experts. What an expert takes depends on
    all tokens of the batch, *later ones too*: in a causal model this leaks the future. Source:
    Zhou et al. 2022.
    """
    _check_route(logits, k, "softmax_before")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    n, n_experts = logits.shape
    probabilities = logits.softmax(-1)
    takes = min(n, math.ceil(n * k / n_experts))
    best = probabilities.topk(takes, dim=0).indices  # (takes, E): the tokens of each expert
    taken = torch.zeros_like(logits, dtype=torch.bool).scatter_(0, best, True)
    everyone = torch.arange(n_experts, device=logits.device).expand(n, n_experts)
    weights = probabilities.masked_fill(~taken, 0.0)
    return Routing(everyone.masked_fill(~taken, -1), weights, probabilities, logits)


class Router(nn.Module):
    """The learned router: x (N, D) → `Routing`.

    weight (E, D). bias: a buffer (E,) of zeros, moved by `llmbook.moe.bias_step` and not by the
    gradient; None without `balance_bias`. noisy: while training, normal noise of a learned size,
    softplus(W_noise x), is added to each logit (Shazeer et al. 2017). See `MoEConfig` for the
    rest.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        shape = (config.n_experts, config.d_model)
        self.weight = nn.Parameter(torch.empty(shape))
        noise = nn.Parameter(torch.empty(shape)) if config.noisy else None
        self.register_parameter("noise_weight", noise)
        self.register_buffer("bias", torch.zeros(shape[0]) if config.balance_bias else None)
        self.reset_parameters()

    def reset_parameters(self):
        """Normal with deviation 1/√D · 0.1, so that routing starts nearly even; no noise yet."""
        nn.init.normal_(self.weight, std=0.1 / math.sqrt(self.config.d_model))
        if self.noise_weight is not None:
            nn.init.zeros_(self.noise_weight)

    def forward(self, x):
        """Route tokens: (N, D) → `Routing`. Raises ValueError when a logit is NaN."""
        high = torch.promote_types(x.dtype, torch.float32)
        logits = F.linear(x.to(high), self.weight.to(high))
        if self.noise_weight is not None and self.training:
            size = F.softplus(F.linear(x.to(high), self.noise_weight.to(high)))
            logits = logits + size * torch.randn_like(logits)
        config = self.config
        if config.choice == "experts":
            return choose_tokens(logits, config.k)
        routing = route(logits, config.k, config.router, bias=self.bias, scale=config.scale)
        if config.capacity is not None:
            routing = limit_capacity(routing, config.capacity)
        return routing


def _check_route(logits, k, form):
    tensor("logits", logits, "tokens experts", float)
    one_of("form", form, FORMS)
    whole("k", k, least=1, most=logits.shape[-1])
    # A NaN would be chosen first by topk, and the token be lost without a word. On a GPU this is
    # one number sent to the host.
    if bool(logits.isnan().any()):
        raise ValueError(
            "the router's logits must be numbers: got NaN (a step too large, or input not finite)"
        )
