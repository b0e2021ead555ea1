"""Inputs for the scans whose state is a matrix, and a run of them with every gradient."""

import torch

from llmbook.ssm import gated_delta_rule, ssd

# name: (scan, batch, tokens, heads, groups, key_dim, value_dim, documents begin)
CASES = {
    "ssd, groups, odd sizes": ("ssd", 2, 11, 4, 2, 5, 18, True),
    "ssd, one of each": ("ssd", 1, 1, 1, 1, 1, 1, False),
    "ssd, wide state in three blocks": ("ssd", 1, 9, 1, 1, 120, 34, False),
    "delta rule, odd sizes": ("delta", 2, 11, 2, 2, 5, 18, True),
    "delta rule, whole stretches": ("delta", 1, 16, 1, 1, 16, 16, False),
    "delta rule, wide state in two blocks": ("delta", 1, 9, 1, 1, 70, 34, False),
}
NAMES = {
    "ssd": ["y", "state", "x", "delta", "A", "B", "C", "D", "delta_bias", "initial_state"],
    "delta": ["o", "state", "q", "k", "v", "beta", "log_alpha", "initial_state"],
}


def draw_case(scan, batch, tokens, heads, groups, key_dim, value_dim, documents, device="cpu"):
    """Inputs in float32; where documents begin."""
    torch.manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, device=device)

    state = draw(batch, heads, value_dim, key_dim)
    starts = torch.rand(batch, tokens, device=device) < 0.1 if documents else None
    narrow = (batch, tokens, heads)
    if scan == "ssd":
        keys = [draw(batch, tokens, groups, key_dim) for _ in range(2)]
        delta, A = draw(*narrow), -draw(heads).exp()
        x = draw(*narrow, value_dim)
        return [x, delta, A, *keys, draw(heads), draw(heads), state], starts
    q, k, v = draw(*narrow, key_dim), draw(*narrow, key_dim), draw(*narrow, value_dim)
    k[:, 1:4] = k[:, :1]  # a key that comes again is written over
    k = torch.nn.functional.normalize(k, dim=-1)
    beta, log_alpha = torch.rand(narrow, device=device), -0.1 * torch.rand(narrow, device=device)
    log_alpha[:, 2:3] = -1e4  # all is forgotten at once, and no later digit with it
    return [q, k, v, beta, log_alpha, state], starts


def run_scan(scan, inputs, starts, backend, high=False):
    """The output, the last state and every gradient."""
    xs = [(x.double() if high else x.detach().clone()).requires_grad_() for x in inputs]
    more = {"starts": starts, "return_state": True, "backend": backend, "initial_state": xs[-1]}
    if scan == "ssd":
        more |= {"D": xs[5], "delta_bias": xs[6], "delta_softplus": True}
        y, state = ssd(*xs[:5], **more)
    else:
        y, state = gated_delta_rule(*xs[:5], **more)
    gen = torch.Generator().manual_seed(1)
    ups = [torch.randn(v.shape, generator=gen).to(v.device).double() for v in (y, state)]
    goal = (y.double() * ups[0]).sum() + (state.double() * ups[1]).sum()
    return [y.detach(), state.detach(), *torch.autograd.grad(goal, xs)]
