"""The selective scan as a small compiled loop for CPUs: `compiled_scan.c`, see `llmbook.native`.

One thread for each share of the channels. `why_not()` says what keeps it from being there.
"""

from pathlib import Path

import torch

from llmbook.native import LANES, Loops, in_shares, shares_of

STRETCH = 64  # tokens between two kept states
COST = 0.7e-6  # milliseconds for a number of the state at a token, about
LOOPS = Loops(Path(__file__).with_name("compiled_scan.c"), "the compiled scan")
why_not = LOOPS.why_not


def forward(u, delta, A, B, C, initial, starts, room=None):
    """y (batch, tokens, channels), the last state, and the kept states for `backward`.

    All contiguous, of one dtype, float32 or float64, on the CPU; starts: uint8 or None. room:
    where y is written, or None; it may be delta, of which each number is read before.
    """
    (batch, tokens, channels), n_states = u.shape, A.shape[1]
    stretches, blocks = -(-tokens // STRETCH), -(-channels // LANES)
    y, last = torch.empty_like(u) if room is None else room, torch.empty_like(initial)
    kept = u.new_empty(batch, stretches, blocks, n_states, LANES)
    sizes = (batch, tokens, channels, n_states, STRETCH)

    def run(first, end, _):
        tensors = (u, delta, A, B, C, initial, starts, y, kept, last)
        LOOPS.call("forward", u.dtype, tensors, (*sizes, first, end))

    in_shares(run, blocks, shares_of(blocks, COST * u.numel() * n_states))
    return y, last, kept


def backward(u, delta, A, B, C, starts, kept, dy, dlast, D=None, rooms=(None, None)):
    """Gradients of u, delta, A, B, C and the initial state; u's with the skip's, D · dy.

    rooms: where those of u and delta are written, or None; they may be dy and delta.
    """
    (batch, tokens, channels), n_states = u.shape, A.shape[1]
    blocks = -(-channels // LANES)
    du, ddelta = (torch.empty_like(u) if room is None else room for room in rooms)
    dA, dinitial = torch.zeros_like(A), torch.empty_like(dlast)
    shares = shares_of(blocks, COST * u.numel() * n_states)
    dB, dC = (torch.zeros(shares, *B.shape, dtype=u.dtype) for _ in range(2))
    sizes = (batch, tokens, channels, n_states, STRETCH)

    def run(first, end, share):
        read = (u, delta, A, B, C, D, starts, kept, dy, dlast)
        written = (du, ddelta, dA, dB[share], dC[share], dinitial)
        LOOPS.call("backward", u.dtype, (*read, *written), (*sizes, first, end))

    in_shares(run, blocks, shares)
    if shares == 1:
        return du, ddelta, dA, dB[0], dC[0], dinitial
    return du, ddelta, dA, dB.sum(0), dC.sum(0), dinitial
