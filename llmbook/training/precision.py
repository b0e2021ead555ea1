"""Mixed precision: matrix products in 16 bits where the device has them, the rest in 32.

| what | precision | why |
|---|---|---|
| the weights that are updated, optimiser state | float32 | in 8 bits an update of 1/1000 is lost |
| matrix products, attention | bfloat16 or float16 | where the time goes |
| norms' statistics, softmax, loss | float32 | sums of many terms, exponentials |
| gradients of float32 weights | float32 | they are summed over micro-batches |

float16 has 5 bits of exponent: gradients below 6e-8 would be 0. The loss is therefore multiplied
by a large number before the backward pass and the gradients divided by it after (`GradScaler`); a
step whose gradients overflow is skipped and the number halved. bfloat16 has float32's exponent and
needs none of it.
"""

from dataclasses import dataclass

import torch

from llmbook.checks import one_of
from llmbook.device import choose_dtype

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Precision:
    """A precision for a device: `with precision.autocast(): …`, `precision.scaler()`."""

    device_type: str
    dtype: torch.dtype
    reason: str

    @classmethod
    def choose(cls, device, name="auto"):
        """The precision named, or what suits the device. Raises ValueError for an unknown name."""
        device = torch.device(device)
        if name == "auto":
            return cls(device.type, *choose_dtype(device))
        found = getattr(torch, one_of("precision", name, PRECISIONS))
        return cls(device.type, found, f"{name}: as asked for")

    def autocast(self):
        """A context in which matrix products run in this precision; does nothing for float32."""
        enabled = self.dtype != torch.float32
        return torch.autocast(
            self.device_type, dtype=self.dtype if enabled else None, enabled=enabled
        )

    def scaler(self):
        """A `GradScaler` for float16, None for what needs none."""
        if self.dtype != torch.float16:
            return None
        return torch.amp.GradScaler(self.device_type)
