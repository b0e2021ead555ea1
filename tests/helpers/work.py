"""How much a computation does: counted, not timed."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Written(TorchDispatchMode):
    """Counts the numbers that all operations give back."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.count += sum(x.numel() for x in tree_leaves(found) if isinstance(x, torch.Tensor))
        return found


def growth(run, shapes):
    """The work of `run(*inputs)` and its gradients at twice the length, in units of it at once.

    shapes(length): the inputs' shapes.
    """
    counts = []
    for times in (1, 2):
        xs = [torch.rand(shape).requires_grad_() for shape in shapes(times)]
        with Written() as written:
            torch.autograd.grad(run(*xs).sum(), xs)
        counts.append(written.count)
    return counts[1] / counts[0]
