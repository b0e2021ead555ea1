"""Time-invariant state spaces: HiPPO's memory, and S4D, a layer that is a convolution.

In a time-invariant system Ā, B̄ and C are the same for every token, so the whole sequence is one
long convolution y = K * x with the kernel K_l = C Ā^l B̄, which fast Fourier transforms compute in
tokens · log(tokens). S4D takes A diagonal and complex: entry n swings at its own rate.
Source: Gu et al. 2020 (HiPPO), 2022 (S4); Gupta et al. 2022 and Gu et al. 2022 (S4D).

Shape legend: b batch, d channels (d_model), n d_state, l tokens. Layers take (b, l, d); Fourier
transforms run over the last axis of (b, d, l).
"""

import math

import torch
from torch import nn

from llmbook.checks import number, one_of, positive, tensor, wholes
from llmbook.ssm.discretise import zero_order_hold


def hippo_legs(d_state):
    """HiPPO-LegS: A (d_state, d_state) and B (d_state, 1), float64, of t c' = A c + B f.

    c holds the first d_state coefficients of f on [0, t] in Legendre polynomials, scaled to unit
    norm: the best summary of all the past that d_state numbers can be, every time weighed alike.
    """
    wholes(1, d_state=d_state)
    root = torch.sqrt(2 * torch.arange(d_state, dtype=torch.float64) + 1)
    A = -torch.outer(root, root).tril(-1)
    A -= torch.diag(torch.arange(1, d_state + 1, dtype=torch.float64))
    return A, root[:, None].clone()


def hippo_memory(signal, d_state):
    """HiPPO-LegS run over a signal (tokens,): the coefficients after its last token, (d_state,).

    Each step is the bilinear form of t c' = A c + B f with Δ = 1, which stays bounded.
    """
    A, B = hippo_legs(d_state)
    one, c = torch.eye(d_state, dtype=torch.float64), torch.zeros(d_state, dtype=torch.float64)
    for k, f in enumerate(signal.double(), start=1):
        left = one - A / (2 * k)
        c = torch.linalg.solve(left, (one + A / (2 * k)) @ c + B[:, 0] / k * f)
    return c


def hippo_reconstruct(c, tokens):
    """The signal that the coefficients stand for, at `tokens` points from first to last."""
    at = (torch.arange(tokens, dtype=torch.float64) + 0.5) / tokens * 2 - 1
    p = [torch.ones_like(at), at]
    for n in range(1, len(c)):
        p.append(((2 * n + 1) * at * p[n] - n * p[n - 1]) / (n + 1))
    root = torch.sqrt(2 * torch.arange(len(c), dtype=torch.float64) + 1)
    return (c * root) @ torch.stack(p[: len(c)])


class S4D(nn.Module):
    """A diagonal state space layer: (batch, tokens, d_model) → the same, channel by channel.

        h_t = Ā h_(t−1) + B̄ x_t,   y_t = Re(C h_t) + D x_t,   A_n = −1/2 + iπn (S4D-Lin)

    Ā, B̄ by zero-order hold with a learned step Δ for each channel, between dt_min and dt_max at
    first. d_state complex numbers a channel. `how`: "convolution" (FFT, all tokens at once) or
    "recurrence" (a state, one token after the other); both give the same.
    """

    def __init__(self, d_model, d_state=16, dt_min=1e-3, dt_max=1e-1):
        super().__init__()
        wholes(1, d_model=d_model, d_state=d_state)
        positive("dt_min", dt_min)
        number("dt_max", dt_max, least=dt_min)
        self.d_model, self.d_state = d_model, d_state
        low, high = math.log(dt_min), math.log(dt_max)
        self.log_dt = nn.Parameter(torch.rand(d_model) * (high - low) + low)
        self.log_decay = nn.Parameter(torch.full((d_model, d_state), math.log(0.5)))
        self.swing = nn.Parameter(math.pi * torch.arange(d_state).float().repeat(d_model, 1))
        self.C = nn.Parameter(torch.randn(d_model, d_state, 2) / math.sqrt(2))
        self.D = nn.Parameter(torch.ones(d_model))

    def discrete(self):
        """Ā and B̄, complex (d_model, d_state)."""
        A = torch.complex(-self.log_decay.exp(), self.swing)
        return zero_order_hold(A, torch.ones_like(A), self.log_dt.exp()[:, None])

    def kernel(self, tokens):
        """The convolution's kernel K_l = Re(C Ā^l B̄): (d_model, tokens)."""
        A = torch.complex(-self.log_decay.exp(), self.swing)
        _, B_bar = self.discrete()
        weight = torch.view_as_complex(self.C) * B_bar
        when = torch.arange(tokens, device=self.D.device, dtype=self.D.dtype)
        powers = torch.exp(A[..., None] * self.log_dt.exp()[:, None, None] * when)
        return torch.einsum("dn,dnl->dl", weight, powers).real

    def forward(self, x, how="convolution"):
        """y for every token of x (batch, tokens, d_model)."""
        tensor("x", x, "batch tokens d_model", float, d_model=self.d_model)
        one_of("how", how, ("convolution", "recurrence"))
        if how == "convolution":
            tokens = x.shape[1]
            # twice the length, or the end of the convolution would wrap round to the beginning
            wide = torch.fft.rfft(x.transpose(1, 2), 2 * tokens)
            y = torch.fft.irfft(wide * torch.fft.rfft(self.kernel(tokens), 2 * tokens))
            return y[..., :tokens].transpose(1, 2) + self.D * x
        state, ys = self.new_state(len(x)), []
        for x_t in x.unbind(1):
            y_t, state = self.step(x_t, state)
            ys.append(y_t)
        return torch.stack(ys, 1)

    def new_state(self, batch):
        """The state before the first token: complex zeros (batch, d_model, d_state)."""
        return torch.zeros(
            batch,
            *self.C.shape[:2],
            dtype=torch.view_as_complex(self.C).dtype,
            device=self.D.device,
        )

    def step(self, x, state):
        """One token x (batch, d_model): y (batch, d_model), and the state after it."""
        A_bar, B_bar = self.discrete()
        state = A_bar * state + B_bar * x[..., None]
        return (torch.view_as_complex(self.C) * state).sum(-1).real + self.D * x, state
