"""The mixture-of-experts layer: a router, its experts, and those that every token visits."""

from dataclasses import dataclass

import torch
from torch import nn

from llmbook.checks import one_of, positive, tensor, whole
from llmbook.layers import ACTIVATIONS, GatedFeedForward
from llmbook.moe.experts import BACKENDS, Experts
from llmbook.moe.router import FORMS, Router


@dataclass(frozen=True)
class MoEConfig:
    """Sizes and choices of a `MoE`.

    d_expert: the width inside one expert. Fine-grained experts are many narrow ones: m times as
    many of d_expert / m, with m times the k, cost the same. router: one of `FORMS`. scale: factor
    of the weights. choice: "tokens" choose experts, or "experts" choose tokens (`choose_tokens`).
    capacity: None lets an expert take any number of tokens; a factor c at most ⌈c N k / E⌉
    (`limit_capacity`). noisy: learned noise on the logits while training. balance_bias: the router
    has a bias for `bias_step`. d_shared: width of the shared expert that every token visits, 0 for
    none. shared_gate: it is weighted by a sigmoid of its own (Qwen2-MoE).
    """

    d_model: int
    d_expert: int
    n_experts: int
    k: int = 2
    router: str = "softmax_after"
    scale: float = 1.0
    choice: str = "tokens"
    capacity: float | None = None
    noisy: bool = False
    balance_bias: bool = False
    d_shared: int = 0
    shared_gate: bool = False
    activation: str = "silu"
    gated: bool = True
    backend: str = "auto"

    def __post_init__(self):
        for name in ("d_model", "d_expert", "n_experts", "k"):
            whole(name, getattr(self, name), least=1)
        if self.k > self.n_experts:
            raise ValueError(
                f"k must be at most n_experts: got k={self.k}, n_experts={self.n_experts}"
            )
        one_of("router", self.router, FORMS)
        one_of("choice", self.choice, ("tokens", "experts"))
        one_of("activation", self.activation, ACTIVATIONS)
        one_of("backend", self.backend, ("auto", *BACKENDS))
        if self.capacity is not None:
            positive("capacity", self.capacity)
        whole("d_shared", self.d_shared, least=0)
        if self.shared_gate and not self.d_shared:
            raise ValueError("shared_gate must have a shared expert, d_shared > 0: got d_shared=0")
        if self.choice == "experts" and (self.capacity or self.balance_bias):
            raise ValueError(
                "choice='experts' is balanced by itself: capacity and balance_bias must be unset"
            )


class MoE(nn.Module):
    """A mixture of experts in the place of a feed-forward network: (…, d_model) → the same.

    `moe = MoE(MoEConfig(d_model=64, d_expert=128, n_experts=8, k=2))`; `moe.router`, `moe.experts`
    and `moe.shared` are its parts. Losses take what the router decided: `moe.router(x)` for tokens
    (N, D), or `collect_routings(model)` around a forward pass. Source: Shazeer et al. 2017; shared
    and fine-grained experts: Dai et al. 2024.
    """

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        self.router = Router(c)
        self.experts = Experts(
            c.d_model, c.d_expert, c.n_experts, c.activation, c.gated, c.backend
        )
        self.shared = self.shared_gate = None
        if c.d_shared:
            self.shared = GatedFeedForward(c.d_model, c.d_shared, c.activation)
            self.shared_gate = nn.Linear(c.d_model, 1, bias=False) if c.shared_gate else None

    def forward(self, x):
        """(…, d_model) → (…, d_model); no tokens at all are an ordinary case."""
        return self.run(x)[0]

    def run(self, x):
        """As the call, with the `Routing` of the tokens, flat, besides: (output, routing)."""
        tensor("x", x, "... d_model", float, d_model=self.config.d_model)
        tokens = x.reshape(-1, x.shape[-1])  # (N, D)
        routing = self.router(tokens)
        out = self.experts(tokens, routing)
        if self.shared is not None:
            always = self.shared(tokens)
            if self.shared_gate is not None:
                always = always * self.shared_gate(tokens).sigmoid()
            out = out + always
        return out.view(x.shape), routing

    @property
    def parameter_counts(self):
        """Parameters in all, and those that one token's result depends on: (all, active)."""
        expert = sum(p[0].numel() for p in self.experts.parameters())
        total = sum(p.numel() for p in self.parameters())
        return total, total - (self.config.n_experts - self.config.k) * expert

    @classmethod
    def from_dense(cls, ffn, n_experts, k, *, router="softmax_after"):
        """Sparse upcycling: every expert begins as a copy of a trained `GatedFeedForward`.

        With weights that sum to 1 the layer computes what the dense one did, until experts part.
        Source: Komatsuzaki et al. 2023.
        """
        if not isinstance(ffn, GatedFeedForward) or ffn.up.bias is not None:
            raise TypeError(
                f"ffn must be a GatedFeedForward without biases: got {type(ffn).__name__}"
            )
        d_ff, d_model = ffn.up.weight.shape
        moe = cls(
            MoEConfig(d_model, d_ff, n_experts, k, router=router, activation=ffn.activation)
        ).to(ffn.up.weight)
        with torch.no_grad():
            moe.experts.in_weight.copy_(torch.cat([ffn.gate.weight, ffn.up.weight]))
            moe.experts.down_weight.copy_(ffn.down.weight)
        return moe
