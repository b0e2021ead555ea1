"""How property tests are run here, and tensors of every layout that a caller may hand over."""

import hypothesis
import torch
from hypothesis import strategies as st

EXAMPLES = 50
ODD = st.sampled_from([1, 2, 3, 5, 7, 16, 17])  # sizes that no tile divides among them


def settings(examples=EXAMPLES):
    """The same examples on every run, and no limit to the time of one."""
    return hypothesis.settings(max_examples=examples, deadline=None, derandomize=True)


LAYOUTS = ("plain", "transposed", "sliced", "expanded")


def laid_out(x, layout):
    """x's numbers in another memory layout; expanded: the first row for all of them."""
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "sliced":
        return torch.stack([x, x + 1], -1).flatten(-2)[..., ::2]
    if layout == "expanded":
        return x[:1].expand_as(x)
    return x.contiguous()


def normal(*shape, seed=0, dtype=torch.float64):
    """Normal numbers of a seed of their own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
