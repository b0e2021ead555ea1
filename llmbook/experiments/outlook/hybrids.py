"""Experts behind a hybrid's blocks, on the recall task of `llmbook.experiments.mamba`.

That chapter's record has attention, scan and hybrid, two blocks each and no feed-forward networks.
Here one follows each block of the hybrid: dense, or N_EXPERTS experts of which K see a token and
together have the width of the dense one. Task, steps, rate and width are those of that record.
"""

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.experiments import mamba
from llmbook.experiments.fit import fit
from llmbook.layers import GatedFeedForward, RMSNorm
from llmbook.moe import MoE, MoEConfig, collect_routings, pooled_balance_loss
from llmbook.seeds import generator

KINDS = ("selective", "attention")
N_EXPERTS, K, HIDDEN, WIDTH = 8, 2, 64, 48
ARMS = ("hybrid, dense", "hybrid, experts")  # those without networks stand in mamba's record
ROWS, RATE = 16, 4e-3  # of that record


class Hybrid(nn.Module):
    """Embedding, for each kind a block and a feed-forward network, norm, head."""

    def __init__(
        self, kinds, experts, vocabulary=mamba.LOOP_SYMBOLS, d_model=WIDTH, hidden=HIDDEN
    ):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, d_model)
        self.mixers = nn.ModuleList(mamba.Block(d_model, kind) for kind in kinds)
        config = MoEConfig(d_model, hidden // K, N_EXPERTS, K) if experts else None
        self.nets = nn.ModuleList(
            MoE(config) if experts else GatedFeedForward(d_model, hidden) for _ in kinds
        )
        self.norms = nn.ModuleList(RMSNorm(d_model) for _ in kinds)
        self.norm, self.head = RMSNorm(d_model), nn.Linear(d_model, vocabulary)

    def forward(self, ids):
        """int64 (batch, tokens) → logits (batch, tokens, vocabulary)."""
        x = self.embed(ids)
        for mixer, norm, net in zip(self.mixers, self.norms, self.nets, strict=True):
            x = mixer(x)
            x = x + net(norm(x))
        return self.head(self.norm(x))

    def weights(self):
        """(all, those that one token passes through)."""
        total = sum(p.numel() for p in self.parameters())
        idle = sum(
            all_ - active
            for all_, active in (n.parameter_counts for n in self.nets if isinstance(n, MoE))
        )
        return total, total - idle


def hybrid_run(arm, seed, steps=mamba.LOOP_STEPS):
    """Train an arm on loops; accuracy in the second round by the phrase's length, and its size."""
    experts = arm == "hybrid, experts"
    torch.manual_seed(seed)
    model, gen = Hybrid(KINDS, experts), generator(seed, "loops")

    def loss_at(step):
        ids = mamba.loops(ROWS, gen)[0]
        with collect_routings(model) as routings:
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        return loss + 0.01 * pooled_balance_loss(routings, "switch") if experts else loss

    seconds = fit(model, loss_at, steps, RATE, fused=True)
    total, active = model.weights()
    return {
        "accuracy": mamba.loops_accuracy(model),
        "weights": total,
        "active": active,
        "seconds": seconds,
    }
