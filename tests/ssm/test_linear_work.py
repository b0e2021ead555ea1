"""Every scan's work grows as its length, backwards too: counted, not timed."""

import pytest
import torch
from helpers.work import growth

from llmbook.ssm import gated_delta_rule, selective_scan, ssd


def scan_of(name, backend):
    """(scan(*inputs), shapes behind (batch, tokens), the inputs' number)."""
    if name == "selective":
        rate = -torch.ones(8, 1)
        return lambda u, d, B, C: selective_scan(u, d, rate, B, C, backend=backend), (8, 8, 1, 1)
    if name == "ssd":
        rate = -torch.ones(1)
        run = lambda x, d, B, C: ssd(x, d, rate, B, C, chunk=4, backend=backend)
        return run, ((1, 8), 1, (1, 1), (1, 1))
    run = lambda *xs: gated_delta_rule(*xs, chunk=4, backend=backend)
    return run, ((1, 3), (1, 3), (1, 8), 1)


@pytest.mark.parametrize(
    ("name", "backend", "tokens"),
    [
        ("selective", "reference", 200),
        ("selective", "chunked", 2048),
        ("selective", "loop", 640),
        ("ssd", "reference", 200),
        ("ssd", "chunked", 800),
        ("delta", "reference", 200),
        ("delta", "chunked", 800),
    ],
)
def test_twice_the_length_is_twice_the_work_forward_and_backward(name, backend, tokens):
    scan, shapes = scan_of(name, backend)

    def wide(times):
        sizes = [s if isinstance(s, tuple) else (s,) for s in shapes]
        return [(1, times * tokens, *size) for size in sizes]

    assert growth(scan, wide) < 2.2
