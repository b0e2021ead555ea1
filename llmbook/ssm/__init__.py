"""State space models: sequences read with a state of fixed size.

selective_scan, selective_step   Mamba's scan, and one token of it
ssd, ssd_step, semiseparable     Mamba-2's, and its matrix written out
gated_delta_rule, …_step         a matrix memory that corrects itself, and one token of it
S4D, hippo_legs, …               time-invariant ones: a layer that is a convolution
explain_backend, explain_…       which way each of the three would be computed, and why
discretise, zero_order_hold      from h' = A h + B x to steps
"""

import torch

from llmbook.checks import whole
from llmbook.ssm.delta import explain_delta_backend, gated_delta_rule, gated_delta_step
from llmbook.ssm.discretise import discretise, run_linear, zero_order_hold
from llmbook.ssm.s4d import S4D, hippo_legs, hippo_memory, hippo_reconstruct
from llmbook.ssm.scan import explain_backend, selective_scan, selective_step
from llmbook.ssm.ssd import explain_ssd_backend, semiseparable, ssd, ssd_step

__all__ = [
    "S4D",
    "discretise",
    "explain_backend",
    "explain_delta_backend",
    "explain_ssd_backend",
    "gated_delta_rule",
    "gated_delta_step",
    "hippo_legs",
    "hippo_memory",
    "hippo_reconstruct",
    "run_linear",
    "selective_scan",
    "selective_step",
    "semiseparable",
    "ssd",
    "ssd_step",
    "zero_order_hold",
    "document_starts",
]


def document_starts(lengths, tokens=None):
    """Where documents begin in a packed row: bool (tokens,), True at the first token of each.

    lengths: the documents' lengths, in order. tokens: the row's length, their sum when None; what
    is left over counts as one more document.
    """
    lengths = [whole("lengths", length, least=1) for length in lengths]
    total = sum(lengths)
    tokens = whole("tokens", total if tokens is None else tokens, least=max(total, 1))
    starts = torch.zeros(tokens, dtype=torch.bool)
    at = 0
    for length in [*lengths, 0]:
        if at < tokens:
            starts[at] = True
        at += length
    return starts
