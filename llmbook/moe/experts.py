"""The chosen experts, computed: a loop that reads like the formula, and fast paths beside it.

    y_n = Σ_j weight[n, j] · down_e (φ(gate_e x_n) ⊙ up_e x_n),   e = chosen[n, j]

    reference   for each expert: its tokens picked out, put through it, added to the output
    compiled    the same in C, for gated SiLU on a CPU: a thread has whole experts of its own
    sorted      slots sorted by expert once, one transfer to the host, then a matrix product for
                each expert into a slice; forward and backward written out, nothing stored twice
    grouped     PyTorch's `F.grouped_mm`: all experts in one call, no transfer to the host
    triton      our grouped matrix product (`llmbook.kernels.experts`), forward and backward

Empty experts, experts with any number of tokens and no tokens at all are ordinary cases. Gradients
are the same on every run. Letters: see `llmbook.moe`.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from llmbook.backends import Backends
from llmbook.checks import one_of, tensor
from llmbook.layers import ACTIVATIONS
from llmbook.moe import compiled
from llmbook.moe.sorted import sorted_experts

BACKENDS = ("reference", "compiled", "sorted", "grouped", "triton")


class Experts(nn.Module):
    """E feed-forward networks of one size, their weights stacked.

    in_weight (E, 2F, D): the rows of gate, then those of up; (E, F, D), up alone, when not gated.
    down_weight (E, D, F). No biases. activation: a name of `llmbook.layers.ACTIVATIONS`.
    """

    def __init__(
        self, d_model, d_expert, n_experts, activation="silu", gated=True, backend="auto"
    ):
        super().__init__()
        self.activation, self.gated, self.backend = activation, gated, backend
        self.in_weight = nn.Parameter(torch.empty(n_experts, (1 + gated) * d_expert, d_model))
        self.down_weight = nn.Parameter(torch.empty(n_experts, d_model, d_expert))
        self.reset_parameters()

    def reset_parameters(self):
        """Uniform within 1/√(inputs), as `nn.Linear` begins."""
        for weight in (self.in_weight, self.down_weight):
            bound = 1 / math.sqrt(weight.shape[-1])
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x, routing):
        """Put tokens through the experts they were routed to: (N, D) → (N, D)."""
        return run_experts(
            x,
            routing.chosen,
            routing.weights,
            self.in_weight,
            self.down_weight,
            activation=self.activation,
            on_input=routing.on_input,
            backend=self.backend,
        )

    def extra_repr(self):
        """Sizes, as `print(module)` shows them."""
        n_experts, d_model, d_expert = self.down_weight.shape
        return f"{n_experts} experts, d_model={d_model}, d_expert={d_expert}, {self.activation}"


def run_experts(
    x,
    chosen,
    weights,
    in_weight,
    down_weight,
    *,
    activation="silu",
    on_input=False,
    backend="auto",
):
    """The weighted sum of each token's experts: x (N, D) → (N, D).

    chosen: int64 (N, K), each row's experts different, −1 for none. weights: (N, K), float.
    in_weight: (E, 2F, D), gated, or (E, F, D). down_weight: (E, D, F). on_input: the weight
    multiplies x, not the output. The sum is taken in float32 for half precision.

    backend: see the top of the module; `explain_backend` tells which "auto" is. A backend asked
    for by name that cannot run this raises ValueError. Costs 6 S D F operations forward (gated)
    and twice that backward, S ≤ N · K the slots that are not −1. Raises TypeError or ValueError
    for shapes and dtypes that don't fit.
    """
    _check(x, chosen, weights, in_weight, down_weight, activation)
    name = _backends(x, in_weight, down_weight, activation).choose(backend)
    return _RUN[name](x, chosen, weights, in_weight, down_weight, activation, on_input)


# --- the formula


def _bend(hidden, activation, gated):
    """(…, 2F) → (…, F): φ(gate) ⊙ up; (…, F) → (…, F): φ(up) when not gated."""
    if not gated:
        return ACTIVATIONS[activation](hidden)
    gate, up = hidden.chunk(2, dim=-1)
    return ACTIVATIONS[activation](gate) * up


def _gated(in_weight, down_weight):
    return in_weight.shape[1] == 2 * down_weight.shape[2]


def _reference(x, chosen, weights, in_weight, down_weight, activation, on_input):
    gated = _gated(in_weight, down_weight)
    out = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
    for expert in range(len(in_weight)):
        token, slot = torch.where(chosen == expert)
        weight = weights[token, slot, None].to(out.dtype)
        given = x[token]
        if on_input:
            given = (given * weight).to(x.dtype)
        hidden = _bend(given @ in_weight[expert].t(), activation, gated)
        answer = (hidden @ down_weight[expert].t()).to(out.dtype)
        out = out.index_add(0, token, answer if on_input else answer * weight)
    return out.to(x.dtype)


def _sorted(x, chosen, weights, in_weight, down_weight, activation, on_input):
    gated = _gated(in_weight, down_weight)
    return sorted_experts(x, chosen, weights, in_weight, down_weight, activation, gated, on_input)


def _compiled(x, chosen, weights, in_weight, down_weight, activation, on_input):
    return compiled.compiled_experts(x, chosen, weights, in_weight, down_weight, on_input)


# --- one grouped product for all experts


def _with_product(product, x, chosen, weights, in_weight, down_weight, activation, on_input):
    """Sort slots by expert, multiply by `product(rows, weight, ends)`, sort back, sum.

    ends: int32 (E,), where each expert's rows end. Rows past the last end, the slots with no
    expert, are whatever a product left there: they are set to 0 before use, and their gradient
    too.
    """
    (n, k), n_experts = chosen.shape, len(in_weight)
    ids = torch.where(chosen < 0, n_experts, chosen).flatten()  # no expert sorts last
    order = ids.argsort(stable=True)  # (S,): which slot stands in each sorted row
    ends = torch.searchsorted(
        ids[order], torch.arange(n_experts, device=x.device), right=True, out_int32=True
    )
    nobody = (torch.arange(n * k, device=x.device) >= ends[-1])[:, None]
    scale = weights.flatten()[order, None]
    rows = x[order // k]  # (S, D)
    if on_input:
        rows = (rows * scale).to(x.dtype)
    rows = rows.masked_fill(nobody, 0.0)
    hidden = product(rows, in_weight, ends)
    hidden = _bend(hidden, activation, _gated(in_weight, down_weight)).masked_fill(nobody, 0.0)
    answer = product(hidden, down_weight, ends).masked_fill(nobody, 0.0)
    high = torch.promote_types(x.dtype, torch.float32)
    answer = answer.to(high) if on_input else answer.to(high) * scale.to(high)
    back = torch.empty_like(order)
    back[order] = torch.arange(n * k, device=x.device)
    return answer[back].unflatten(0, (n, k)).sum(1).to(x.dtype)


def _grouped(*arguments):
    def product(rows, weight, ends):
        # (S, in) · (E, out, in)ᵀ; its backward refuses an expanded gradient.
        return F.grouped_mm(rows, weight.transpose(1, 2), offs=ends)

    return _with_product(product, *arguments)


def _triton(*arguments):
    from llmbook.kernels.experts import grouped_product

    return _with_product(grouped_product, *arguments)


_RUN = {
    "reference": _reference,
    "compiled": _compiled,
    "sorted": _sorted,
    "grouped": _grouped,
    "triton": _triton,
}


# --- which backend


def explain_backend(x, in_weight, down_weight, backend="auto", activation="silu"):
    """Say which backend `run_experts` would take for these tensors, and why not the others.

    Runs nothing. Returns a `BackendChoice`; print it. Raises ValueError for a backend asked for by
    name that cannot run.
    """
    return _backends(x, in_weight, down_weight, activation).explain(backend)


def _backends(x, in_weight, down_weight, activation):
    return Backends(
        "these experts",
        BACKENDS,
        ("grouped", "sorted") if x.is_cuda else ("compiled", "sorted"),
        lambda name: _why_not(name, x, in_weight, down_weight, activation),
        {
            "compiled": "a thread has whole experts of its own and waits for no other",
            "sorted": f"one product for each expert that has tokens, on {x.device.type}",
            "grouped": "all experts in one call, and nothing sent to the host",
        },
        {
            "reference": "the same result, slower: every expert's tokens are searched for",
            "compiled": "not measured ahead of the others on this device",
            "sorted": "it sends the experts' token counts to the host",
            "grouped": "on a CPU it is a loop over the experts, and stores more",
            "triton": "not measured ahead of the others on this device",
        },
    )


def _why_not(backend, x, in_weight, down_weight, activation):
    """Reason why a backend cannot run this, or None."""
    if backend == "compiled":
        return _why_not_compiled(x, in_weight, down_weight, activation)
    if backend == "grouped":
        return _why_not_grouped(x, in_weight, down_weight)
    if backend == "triton":
        from llmbook.kernels.expert_tiles import why_not

        return why_not(x)
    return None


def _why_not_compiled(x, in_weight, down_weight, activation):
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return f"it takes float32 or float64 on the CPU: got {x.dtype} on {x.device.type}"
    if activation != "silu" or not _gated(in_weight, down_weight):
        return "it has gated SiLU alone"
    if torch.compiler.is_compiling():
        return "torch.compile cannot see into it"
    return compiled.why_not()


def _why_not_grouped(x, in_weight, down_weight):
    if not hasattr(F, "grouped_mm"):
        return f"torch {torch.__version__} has no F.grouped_mm (2.10 and later have)"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"F.grouped_mm takes float32, float16 or bfloat16: got {x.dtype}"
    for name, size in (("d_model", x.shape[-1]), ("d_expert", down_weight.shape[2])):
        if size * x.element_size() % 16:
            return (
                f"F.grouped_mm wants rows of a multiple of 16 bytes: got {name}={size}, {x.dtype}"
            )
    return None


# --- bad input


def _check(x, chosen, weights, in_weight, down_weight, activation):
    one_of("activation", activation, ACTIVATIONS)
    tensor("x", x, "tokens d_model", float)
    tensor("chosen", chosen, "tokens k", torch.int64, tokens=len(x))
    tensor("weights", weights, "tokens k", float, tokens=len(x), k=chosen.shape[1])
    n_experts, d_model, d_expert = down_weight.shape
    fits = in_weight.shape in ((n_experts, 2 * d_expert, d_model), (n_experts, d_expert, d_model))
    if not fits or d_model != x.shape[1]:
        raise ValueError(
            "in_weight must be (E, 2F, D) or (E, F, D), down_weight (E, D, F) and x (N, D): got "
            f"{tuple(in_weight.shape)}, {tuple(down_weight.shape)} and {tuple(x.shape)}"
        )
    if not x.dtype == in_weight.dtype == down_weight.dtype:
        raise TypeError(
            f"x and the experts' weights must share one dtype: got {x.dtype}, {in_weight.dtype} "
            f"and {down_weight.dtype}"
        )
