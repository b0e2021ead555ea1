"""The matrix state's kernels on the chip: what neither interpreter nor compiler can show."""

import pytest
import torch
from helpers.matrix_cases import CASES, draw_case, run_scan

from llmbook.ssm import explain_delta_backend, explain_ssd_backend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LONG = {
    "ssd, Mamba-2's sizes": ("ssd", 2, 1000, 8, 1, 128, 64, True),
    "delta rule, long": ("delta", 2, 1000, 4, 4, 64, 64, True),
}


@pytest.mark.parametrize("name", [*CASES, *LONG])
def test_matrix_error_is_at_most_twice_that_of_the_formula(name):
    case = {**CASES, **LONG}[name]
    inputs, starts = draw_case(*case, device="cuda")
    truth = run_scan(case[0], inputs, starts, "reference", high=True)
    plain = run_scan(case[0], inputs, starts, "reference")
    ours = run_scan(case[0], inputs, starts, "triton")
    for t, p, o in zip(truth, plain, ours, strict=True):
        floor = 3e-6 * max(t.abs().max().item(), 1)
        assert (o - t).abs().max() <= 2 * (p - t).abs().max() + floor
    for a, b in zip(ours, run_scan(case[0], inputs, starts, "triton"), strict=True):
        assert torch.equal(a, b)  # the same on every run


def test_auto_says_that_the_kernel_could_run():
    x, keys = torch.zeros(1, 9, 2, 16, device="cuda"), torch.zeros(1, 9, 1, 8, device="cuda")
    for choice in (explain_ssd_backend(x, keys), explain_delta_backend(x, x)):
        assert choice.backend == "chunked"
        assert "by name" in choice.others["triton"]
