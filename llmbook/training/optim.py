"""Optimisers written out, and the fast ones that training uses: AdamW and Muon.

`build_optimizers(model, config)` makes what a config asks for: "adamw" (PyTorch's fused AdamW),
"adamw_reference" (the formula below), or "muon" (Muon for the matrices inside the blocks, AdamW
for embeddings, head, norms and biases).
"""

import math

import torch
from torch import nn

from llmbook.training.distributed import shard_like, whole


class AdamW(torch.optim.Optimizer):
    """AdamW as its formula, one parameter after the other.

        m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
        θ ← θ − lr · (λ θ + m̂ / (√v̂ + ε)),   m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)

    The decay λ acts on the weight itself, not through the gradient: it isn't rescaled by √v̂.
    State and results are torch.optim.AdamW's. Source: Loshchilov and Hutter 2019.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, (b1, b2), decay = group["lr"], group["betas"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(p)
                    state["exp_avg_sq"] = torch.zeros_like(p)
                m, v, g = state["exp_avg"], state["exp_avg_sq"], p.grad
                state["step"] += 1
                t = state["step"].item()
                m.mul_(b1).add_((1 - b1) * g)
                v.mul_(b2).add_((1 - b2) * g * g)
                m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
                p.sub_(lr * (decay * p + m_hat / (v_hat.sqrt() + group["eps"])))
        return loss


class Muon(torch.optim.Optimizer):
    """Muon: momentum whose matrix is replaced by the nearest orthogonal one, roughly.

        B ← μ B + (1 − μ) G,   O = orthogonalise((1 − μ) G + μ B)
        W ← W − lr · (λ W + 0.2 √max(rows, columns) · O)

    Every direction of the update gets about the same size, also those that the gradient hardly
    speaks of. The factor makes the size of its entries AdamW's (a root mean square of 0.2), so
    that one learning rate and decay serve both. For matrices alone, (rows, columns); raises
    ValueError for others. In float32: PyTorch's own orthogonalises in bfloat16. Source: Jordan et
    al. 2024; Liu et al. 2025 for the factor.
    """

    def __init__(self, params, lr=1e-3, momentum=0.95, weight_decay=0.1, steps=5):
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps}
        )
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(f"Muon is for matrices: got a parameter {tuple(p.shape)}")

    @torch.no_grad()
    def step(self, closure=None):
        """Update every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, mu = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - mu)
                # Every process orthogonalises the whole of a sharded matrix: it is gathered once,
                # where each product of parts would gather or add up something.
                update = orthogonalise(whole(p.grad.lerp(buffer, mu)), group["steps"])
                p.mul_(1 - lr * group["weight_decay"])
                p.sub_(shard_like(update, p), alpha=lr * 0.2 * math.sqrt(max(p.shape)))
        return loss


def orthogonalise(matrix, steps=5):
    """U Vᵀ of a matrix U S Vᵀ, roughly: singular values end between about 0.7 and 1.2.

    Newton–Schulz: X ← a X + (b A + c A²) X with A = X Xᵀ, which maps every singular value s to
    a s + b s³ + c s⁵ without a decomposition. (rows, columns) → the same.
    """
    a, b, c = 3.4445, -4.7750, 2.0315  # steep at 0, so that small singular values grow fast
    x = matrix / matrix.norm().clamp(min=1e-7)
    x = x.T if matrix.shape[0] > matrix.shape[1] else x  # A is then the smaller of the two
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def parameter_groups(model, weight_decay):
    """Matrices, which decay, and vectors (biases, norms), which do not: two groups for AdamW."""
    return _by_rank([p for p in model.parameters() if p.requires_grad], weight_decay)


def _by_rank(parameters, weight_decay):
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [(matrices, weight_decay), (vectors, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


def block_matrices(model):
    """The matrices inside lists of layers (`nn.ModuleList`), by name: what Muon is for."""
    # A table of embeddings, also one that a block holds, is no linear map.
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    inside = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            for name, p in module.named_parameters(prefix=path):
                if p.ndim == 2 and p.requires_grad and id(p) not in tables:
                    inside[name] = p
    return inside


def build_optimizers(model, config):
    """The optimisers that a `TrainConfig` names, in a list: one, or Muon and AdamW."""
    adam = {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.eps}
    if config.optimizer == "adamw_reference":
        return [AdamW(parameter_groups(model, config.weight_decay), **adam)]
    if config.optimizer == "adamw":
        groups = parameter_groups(model, config.weight_decay)
        return [torch.optim.AdamW(groups, fused=True, **adam)]
    matrices = list(block_matrices(model).values())
    if not matrices:
        raise ValueError("optimizer='muon' needs a model with matrices in an nn.ModuleList")
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    muon = Muon(matrices, lr=config.lr, weight_decay=config.weight_decay)
    groups = _by_rank(rest, config.weight_decay)
    return [muon, torch.optim.AdamW(groups, fused=True, **adam)]


@torch.no_grad()
def clip_gradients(parameters, max_norm):
    """Scale all gradients together so that their joint norm is at most max_norm; return the norm.

        ‖g‖ = √(Σ g²) over all parameters,   g ← g · min(1, max_norm / ‖g‖)

    The direction stays. The norm, before clipping, is a scalar tensor: a GPU isn't waited for.
    max_norm 0: measure only. Of gradients sharded over processes (DTensors) it is the whole's.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    norms = [
        n.full_tensor() if hasattr(n, "full_tensor") else n for n in torch._foreach_norm(gradients)
    ]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if max_norm:
        parts = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
        torch._foreach_mul_(parts, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
