"""The selective scan with the state updated in place: no (tokens × channels × states) tensor.

The backward pass of the plain formula keeps every state. Here only the state at the start of each
stretch of tokens is kept; going back, a stretch is run again from it, and the gradient of the
state follows its own recurrence in reverse:

    h_t = a_t ∘ h_(t−1) + b_t,   a_t = exp(Δ_t A),  b_t = Δ_t u_t B_tᵀ,   y_t = h_t C_t
    g_t = dy_t C_tᵀ + a_(t+1) ∘ g_(t+1)

    du_t = Δ_t (g_t B_t),   dΔ_t = u_t (g_t B_t) + Σ_n g_t ∘ h_(t−1) ∘ a_t ∘ A
    dB_t = g_tᵀ (Δ_t u_t),  dC_t = h_tᵀ dy_t,  dA = Σ_t Δ_t g_t ∘ h_(t−1) ∘ a_t

Two ways to run it: `torch`, one fused multiply-add a step, anywhere; and the compiled loop.
Shape legend: B batch, L tokens, D channels, N states, T tokens of a stretch.
"""

import torch
import torch.nn.functional as F

from llmbook.ssm import compiled

STRETCH = 64  # tokens of a stretch in the torch form


class LoopScan(torch.autograd.Function):
    """(y, last state) of the scan by a loop, with softplus, skip and gate.

    LoopScan.apply(u, delta, A, B, C, D, z, bias, h0, starts, softplus, how): u, delta, z (B, L,
    D); A (D, N); B, C (B, L, N); D, bias (D,); h0 (B, D, N), all of one dtype; starts bool (B, L);
    D, z, bias and starts may be None. softplus: Δ = softplus(delta + bias), else delta + bias.
    how: "torch" or "compiled". Keeps L/T states and, with a gate, what it weighs; Δ is computed
    again on the way back.

    Everything around the loop is done in place where it can be, and the compiled loop writes over
    what it has read: at great lengths a fresh tensor costs as much time as what is computed in it.
    """

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, bias, initial, starts, softplus, how):
        u, delta, A, B, C, initial = (x.contiguous() for x in (u, delta, A, B, C, initial))
        z, D = (None if x is None else x.contiguous() for x in (z, D))
        step = _step(delta, bias, softplus)
        if how == "compiled":
            starts = None if starts is None else starts.contiguous().to(torch.uint8)
            room = None if step is delta else step
            y, last, kept = compiled.forward(u, step, A, B, C, initial, starts, room)
        else:
            y, last, kept = _forward(u, step, A, B, C, initial, starts)
        if D is not None:
            y.addcmul_(u, D)
        ungated = y
        if z is not None:
            y = F.silu(z).mul_(ungated)
        ctx.save_for_backward(
            u, delta, A, B, C, D, z, bias, starts, kept, None if z is None else ungated
        )
        ctx.softplus, ctx.how = softplus, how
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dlast):
        u, delta, A, B, C, D, z, bias, starts, kept, ungated = ctx.saved_tensors
        dy, dz, dD, dbias = dy.contiguous(), None, None, None
        up = dy
        if z is not None:  # y = y' σ z: dy' = dy σ z, and dz = y' (dy σ + dy σ z (1 − σ))
            gate = torch.sigmoid(z)
            up = (dy * z).mul_(gate)
            dz = torch.lerp(up, dy, gate, out=gate).mul_(ungated)
        if D is not None:
            dD = sum((a * b).sum((0, 1)) for a, b in _pieces(up, u))
        step, dlast = _step(delta, bias, ctx.softplus), dlast.contiguous()
        given = (u, step, A, B, C, starts, kept, up, dlast)
        if ctx.how == "compiled":
            rooms = (None if z is None else up, None if step is delta else step)
            du, ddelta, dA, dB, dC, dinitial = compiled.backward(*given, D, rooms)
        else:
            du, ddelta, dA, dB, dC, dinitial = _backward(*given)
            if D is not None:
                du.addcmul_(up, D)
        if ctx.softplus:
            for slope, raw in _pieces(ddelta, delta):
                slope.mul_(torch.sigmoid(raw if bias is None else raw + bias))
        if bias is not None:
            dbias = ddelta.sum((0, 1))
        return du, ddelta, dA, dB, dC, dD, dz, dbias, dinitial, None, None, None


def _step(delta, bias, softplus):
    """Δ: a tensor of its own, or delta itself where nothing is done to it."""
    step = delta if bias is None else delta + bias
    if not softplus:
        return step
    return torch.ops.aten.softplus.out(step, out=torch.empty_like(step) if bias is None else step)


def _pieces(a, b):
    """Pairs of parts of two (B, L, D), small enough to stay in cache."""
    return zip(a.split(1024, 1), b.split(1024, 1), strict=True)


def _stretches(tokens):
    return [(at, min(at + STRETCH, tokens)) for at in range(0, tokens, STRETCH)]


def _terms(u, delta, A, B, starts, at, end):
    """Transitions and inputs of a stretch, time first: two (T, B, D, N)."""
    dt = delta[:, at:end].transpose(0, 1)
    a = (dt.unsqueeze(-1) * A).exp_()
    if starts is not None:
        a.masked_fill_(starts[:, at:end].t()[..., None, None], 0.0)
    fed = (dt * u[:, at:end].transpose(0, 1)).unsqueeze(-1)
    return a, fed * B[:, at:end].transpose(0, 1).unsqueeze(2), fed


def _run(a, h, state):
    """Turn the inputs of a stretch into its states, in place; the last of them."""
    for a_t, h_t in zip(a.unbind(), h.unbind(), strict=True):
        h_t.addcmul_(a_t, state)
        state = h_t
    return state


def _forward(u, delta, A, B, C, initial, starts):
    y, state, kept = torch.empty_like(u), initial, []
    for at, end in _stretches(u.shape[1]):
        kept.append(state.clone())
        a, h, _ = _terms(u, delta, A, B, starts, at, end)
        state = _run(a, h, state)
        c = C[:, at:end].transpose(0, 1).unsqueeze(-1)
        y[:, at:end] = (h @ c).squeeze(-1).transpose(0, 1)
    return y, state.clone(), torch.stack(kept)


def _backward(u, delta, A, B, C, starts, kept, dy, dlast):
    du, ddelta, dB, dC = (torch.empty_like(x) for x in (u, delta, B, C))
    dA, carry = torch.zeros_like(A), dlast
    for (at, end), state in reversed(list(zip(_stretches(u.shape[1]), kept, strict=True))):
        a, h, fed = _terms(u, delta, A, B, starts, at, end)
        _run(a, h, state)
        x, dt, b, c, up = (v[:, at:end].transpose(0, 1) for v in (u, delta, B, C, dy))
        g = up.unsqueeze(-1) * c.unsqueeze(2)  # (T, B, D, N)
        g[-1].add_(carry)
        for t in range(end - at - 2, -1, -1):
            g[t].addcmul_(a[t + 1], g[t + 1])
        carry = a[0] * g[0]
        into = (g @ b.unsqueeze(-1)).squeeze(-1)  # (T, B, D)
        dB[:, at:end] = (fed.transpose(-1, -2) @ g).squeeze(2).transpose(0, 1)
        dC[:, at:end] = (up.unsqueeze(2) @ h).squeeze(2).transpose(0, 1)
        m = g.mul_(a)
        m[0].mul_(state)
        m[1:].mul_(h[:-1])
        du[:, at:end] = (into * dt).transpose(0, 1)
        ddelta[:, at:end] = (into * x + (m * A).sum(-1)).transpose(0, 1)
        dA += (m * dt.unsqueeze(-1)).sum((0, 1))
    return du, ddelta, dA, dB, dC, carry
