"""The matrix state's Triton kernels in Triton's interpreter, on the CPU: every gradient.

The cases run in a process of their own, in which the interpreter is chosen before Triton is
imported; each is a test here.
"""

import json
import os

import pytest

pytest.importorskip("triton")

from helpers.matrix_cases import CASES, NAMES, draw_case, run_scan


def run_case(*case):
    """{name: [the kernel's error, the plain formula's, size]} against float64."""
    import torch

    scan, (inputs, starts) = case[0], draw_case(*case)
    truth = run_scan(scan, inputs, starts, "reference", high=True)
    plain = run_scan(scan, inputs, starts, "reference")
    torch.set_deterministic_debug_mode("error")  # what a kernel forgot to write shows as NaN
    torch.utils.deterministic.fill_uninitialized_memory = True
    result = {"poisoned": bool(torch.empty(3).isnan().all())}
    ours = run_scan(scan, inputs, starts, "triton")
    for name, t, p, o in zip(NAMES[scan], truth, plain, ours, strict=True):
        result[name] = [float((x.double() - t).abs().max()) for x in (o, p)]
        result[name].append(float(t.abs().max()))
    torch.set_deterministic_debug_mode("default")
    return result


@pytest.fixture(scope="module")
def results(fresh):
    """Every case's result, from one process in which Triton interprets."""
    code = (
        "import json, sys; sys.path[:0] = sys.argv[1:];"
        "import test_matrix_interpreted as t, torch; torch.set_num_threads(1);"
        "print(json.dumps({name: t.run_case(*case) for name, case in t.CASES.items()}))"
    )
    here = os.path.dirname(__file__)
    done = fresh(code, here, os.path.dirname(here), TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_matrix_kernel_is_as_near_to_the_truth_as_the_formula(results, name):
    result = results[name]
    assert result["poisoned"]
    for what in NAMES[CASES[name][0]]:
        ours, plain, size = result[what]
        assert ours <= 2 * plain + 3e-6 * max(size, 1), f"{what}: {ours:.2e}, {plain:.2e}"
