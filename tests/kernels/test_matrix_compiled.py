"""The matrix state's kernels compiled for every chip without any: shared memory, spills, cores."""

import pytest

triton = pytest.importorskip("triton")

from helpers.kernel_compiler import resource_usage  # noqa: E402

from llmbook.kernels.attention_tiles import CHIPS  # noqa: E402

STACK = 128  # bytes of stack a thread may have


def compile_matrix(chip, name, n_keys, n_values, correct):
    """Compile a kernel of the matrix state: (shared bytes, registers, stack bytes, PTX)."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from llmbook.kernels import matrix_state

    kernel = getattr(matrix_state, f"{name}_kernel")
    keys, values = matrix_state.tile_of(n_keys, n_values)
    constants = {"T": 64, "K": keys, "V": values, "CORRECT": correct, "HAS_BETA": correct}
    if not correct:
        constants |= {arg: None for arg in ("BETA", "DBETA") if arg in kernel.arg_names}
    signature, aligned = {}, {}
    for i, arg in enumerate(kernel.arg_names):
        if arg in constants:
            signature[arg] = "constexpr"
        elif arg.isupper():
            signature[arg], aligned[(i,)] = "*fp32", [["tt.divisibility", 16]]
        else:
            signature[arg] = "i32"
    source = ASTSource(kernel, signature, constants, aligned)
    target = GPUTarget("cuda", 10 * chip[0] + chip[1], 32)
    built = triton.compile(source, target=target, options={"num_warps": matrix_state.WARPS})
    registers, stack = resource_usage(built.asm["cubin"])
    return built.metadata.shared, registers, stack, built.asm["ptx"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forward", "backward"])
@pytest.mark.parametrize("correct", [False, True], ids=["ssd", "delta rule"])
@pytest.mark.parametrize(("n_keys", "n_values"), [(64, 64), (128, 64)])
@pytest.mark.parametrize("chip", CHIPS)
def test_matrix_kernel_compiles_and_fits(record_property, chip, n_keys, n_values, correct, name):
    shared, registers, stack, ptx = compile_matrix(chip, name, n_keys, n_values, correct)
    report = f"{shared / 1024:.1f} KB, {registers} registers, {stack} bytes spilled"
    record_property("usage", report)
    print(f"{chip} {name} {n_keys} {n_values} {correct}: {report}")
    assert shared <= CHIPS[chip].shared_kb * 1024
    assert "mma" not in ptx  # no tensor cores are needed: a T4 runs it as well as any
    assert stack <= STACK
