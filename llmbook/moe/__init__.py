"""Mixture of experts: a small router sends each token to a few of many feed-forward networks.

    y(x) = Σ_{i chosen} weight_i(x) · expert_i(x),   expert_i(x) = down_i(φ(gate_i x) ⊙ up_i x)

router.py: who gets a token, and with what weight. experts.py: the chosen experts computed, by the
plain loop and by fast paths. balance.py: losses and a bias that spread the load. layer.py: `MoE`,
the layer. parallel.py: experts over several processes.

Letters in comments of this package, the whole of it:

    N  tokens of the batch, batch · tokens in a row      D  d_model
    E  experts                                           F  d_expert, the width inside an expert
    K  experts a token may get                           S  slots, N · K: a token at an expert
"""

from llmbook.moe.balance import (
    balance_loss,
    bias_step,
    collect_routings,
    experts_read,
    load,
    pooled_balance_loss,
    z_loss,
)
from llmbook.moe.experts import BACKENDS, Experts, explain_backend, run_experts
from llmbook.moe.layer import MoE, MoEConfig
from llmbook.moe.router import FORMS, Router, Routing, choose_tokens, limit_capacity, route

__all__ = [
    "BACKENDS",
    "Experts",
    "FORMS",
    "MoE",
    "MoEConfig",
    "Router",
    "Routing",
    "balance_loss",
    "bias_step",
    "choose_tokens",
    "collect_routings",
    "experts_read",
    "explain_backend",
    "limit_capacity",
    "load",
    "pooled_balance_loss",
    "route",
    "run_experts",
    "z_loss",
]
