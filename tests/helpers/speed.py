"""How fast this core is, so that a limit in seconds means the same work everywhere."""

import functools
import time

import torch

REFERENCE = 0.055  # seconds of `_work` on the core that the chapters' limits are meant for


@functools.cache
def slowness():
    """How many times slower this core is than the reference, at least 1: the best of ten tries."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return max(1.0, min(_work() for _ in range(10)) / REFERENCE)
    finally:
        torch.set_num_threads(threads)


def _work():
    """Processor seconds of some Python and some small products, as chapters have them."""
    began = time.process_time()
    sum(i * i for i in range(500_000))
    x, w = torch.ones(64, 128), torch.eye(128)
    for _ in range(1500):
        x = (x @ w).tanh()
    return time.process_time() - began
