"""The scan's Triton kernels in Triton's interpreter, on the CPU: outputs and every gradient.

The cases run in a process of their own, in which the interpreter is chosen before Triton is
imported; each is a test here.
"""

import json
import os

import pytest

pytest.importorskip("triton")

# name: (dtype, batch, tokens, channels, d_state, documents begin, softplus with all options)
CASES = {
    "all options, odd sizes": ("float32", 2, 19, 3, 5, True, True),
    "no options, whole tiles": ("float32", 1, 16, 4, 4, False, False),
    "documents alone": ("float32", 2, 17, 3, 2, True, False),
    "one of each": ("float32", 1, 1, 1, 1, False, True),
    "float16": ("float16", 1, 13, 2, 2, True, True),
}
NAMES = ["y", "state", "u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state"]


def run_case(dtype, batch, tokens, channels, d_state, documents, options):
    """{name: [the kernel's error, the plain formula's, size]} against float64."""
    import torch

    from llmbook.ssm import selective_scan

    torch.manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    full = (batch, tokens, channels)
    rate = -torch.rand(channels, d_state, dtype=torch.float64) * 3
    inputs = [draw(*full), draw(*full), rate, draw(batch, tokens, d_state)]
    inputs += [draw(batch, tokens, d_state), draw(channels), draw(*full), draw(channels)]
    inputs += [draw(batch, channels, d_state)]
    dtype = getattr(torch, dtype)
    wide = {2, 8}  # A and the state stay in float32
    inputs = [x.to(torch.float32 if i in wide else dtype) for i, x in enumerate(inputs)]
    if not options:
        inputs[1] = inputs[1].abs()
    starts = torch.rand(batch, tokens) < 0.2 if documents else None
    up, up_state = draw(*full), draw(batch, channels, d_state)

    def run(backend, high):
        xs = [x.detach().double() if high else x.detach().clone() for x in inputs]
        xs = [x.requires_grad_() for x in xs[: 9 if options else 5]]
        more = dict(zip(("D", "z", "delta_bias", "initial_state"), xs[5:], strict=False))
        y, state = selective_scan(
            *xs[:5],
            **more,
            delta_softplus=options,
            starts=starts,
            return_state=True,
            backend=backend,
        )
        goal = (y.double() * up).sum() + (state.double() * up_state).sum()
        return [y.detach(), state.detach(), *torch.autograd.grad(goal, xs)]

    truth, plain = run("reference", True), run("reference", False)
    torch.set_deterministic_debug_mode("error")  # what a kernel forgot to write shows as NaN
    torch.utils.deterministic.fill_uninitialized_memory = True
    poisoned = bool(torch.empty(3).isnan().all())
    ours = run("triton", False)
    result = {"poisoned": poisoned}
    for name, t, p, o in zip(NAMES, truth, plain, ours, strict=False):
        result[name] = [float((x.double() - t).abs().max()) for x in (o, p)] + [
            float(t.abs().max())
        ]
    return result


@pytest.fixture(scope="module")
def results(fresh):
    """Every case's result, from one process in which Triton interprets."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]);"
        "import test_scan_interpreted as t, torch; torch.set_num_threads(1);"
        "print(json.dumps({name: t.run_case(*case) for name, case in t.CASES.items()}))"
    )
    done = fresh(code, os.path.dirname(__file__), TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_scan_kernel_is_as_near_to_the_truth_as_the_formula(results, name):
    result = results[name]
    assert result["poisoned"]
    floor = 3e-6 if CASES[name][0] == "float32" else 2e-3
    for what in NAMES[: 11 if CASES[name][-1] else 7]:
        ours, plain, size = result[what]
        assert ours <= 2 * plain + floor * max(size, 1), f"{what}: {ours:.2e}, {plain:.2e}"
