"""From a differential equation to steps: h' = A h + B x becomes h_t = Ā h_(t−1) + B̄ x_t.

    zero-order hold   Ā = exp(ΔA),                  B̄ = A⁻¹ (exp(ΔA) − I) B     x held in a step
    Euler             Ā = I + ΔA,                   B̄ = Δ B                     a straight line
    bilinear          Ā = (I − ΔA/2)⁻¹ (I + ΔA/2),  B̄ = (I − ΔA/2)⁻¹ Δ B        trapezoids

The hold is exact for an input that stands still within each step, and its Ā is stable exactly
when A is; so is the bilinear form's. Euler's is stable only for small steps. Mamba's code takes
Ā from the hold and B̄ = Δ B from Euler. Source: Gu et al. 2022 (S4); Gu and Dao 2023, section 2.
"""

import torch

from llmbook.checks import one_of, positive, tensor

METHODS = ("hold", "euler", "bilinear")


def discretise(A, B, delta, method="hold"):
    """(Ā, B̄) for A (d_state, d_state), B (d_state, inputs) and a step Δ above 0, a number.

    Raises ValueError for shapes that do not fit, a step of 0 or below, an unknown method.
    """
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"A must be square (d_state, d_state): got {tuple(A.shape)}")
    tensor("B", B, "d_state inputs", d_state=len(A))
    positive("delta", delta)
    one_of("method", method, METHODS)
    one = torch.eye(len(A), dtype=A.dtype, device=A.device)
    if method == "euler":
        return one + delta * A, delta * B
    if method == "bilinear":
        half = one - delta / 2 * A
        return torch.linalg.solve(half, one + delta / 2 * A), torch.linalg.solve(half, delta * B)
    # exp of [[A, B], [0, 0]] holds both, and needs no inverse of A, which may be singular.
    both = torch.zeros(len(A) + B.shape[1], len(A) + B.shape[1], dtype=A.dtype, device=A.device)
    both[: len(A)] = torch.cat([A, B], 1)
    both = torch.linalg.matrix_exp(delta * both)
    return both[: len(A), : len(A)], both[: len(A), len(A) :]


def zero_order_hold(A, B, delta):
    """The hold for a diagonal A, entry by entry: exp(ΔA), (exp(ΔA) − 1)/A · B; A may be complex.

    A, B and delta broadcast. Where ΔA is near 0 the second is Δ B, its limit.
    """
    x = delta * A
    small = x.abs() < 1e-4
    safe = torch.where(small, torch.ones_like(x), x)
    share = torch.where(small, 1 + x / 2 + x * x / 6, (torch.exp(safe) - 1) / safe)
    return torch.exp(x), share * delta * B


def run_linear(A_bar, B_bar, C, x, state=None):
    """The recurrence h_t = Ā h_(t−1) + B̄ x_t, y_t = C h_t: x (tokens, inputs) → (tokens, outputs).

    Ā (d_state, d_state), B̄ (d_state, inputs), C (outputs, d_state).
    """
    state = A_bar.new_zeros(len(A_bar)) if state is None else state
    ys = []
    for x_t in x:
        state = A_bar @ state + B_bar @ x_t
        ys.append(C @ state)
    return torch.stack(ys)
