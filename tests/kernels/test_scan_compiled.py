"""The scan's kernels compiled for every chip without any of them: shared memory, spills, cores."""

import pytest

triton = pytest.importorskip("triton")

from helpers.kernel_compiler import resource_usage  # noqa: E402

from llmbook.kernels.attention_tiles import CHIPS  # noqa: E402

STACK = 128  # bytes of stack a thread may have


def compile_scan(chip, name, n_states, half, options=True):
    """Compile a kernel of the scan: (shared bytes, registers, stack bytes, PTX)."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from llmbook.kernels import scan

    kernel = getattr(scan, f"{name}_kernel")
    tokens, channels, states = scan.tile_of(n_states)
    constants = {"T": tokens, "D": channels, "N": states, "SOFTPLUS": options}
    constants |= {f"HAS_{what}": options for what in ("SKIP", "Z", "BIAS", "STARTS")}
    pointer = "*fp16" if half else "*fp32"
    full = ("A_", "INITIAL", "KEPT", "LAST", "DLAST", "DA", "DB", "DC", "DSKIP", "DBIAS", "BIAS")
    signature, aligned = {}, {}
    for i, arg in enumerate(kernel.arg_names):
        if not options and arg in ("SKIP", "Z", "BIAS", "STARTS", "DSKIP", "DZ", "DBIAS"):
            constants[arg] = None
        if arg in constants:
            signature[arg] = "constexpr"
        elif arg == "STARTS":
            signature[arg] = "*u8"
        elif arg.isupper():
            in_full = arg in full or arg == "DINITIAL" or arg == "SKIP"
            signature[arg] = "*fp32" if in_full else pointer
        else:
            signature[arg] = "i32"
        if signature[arg].startswith("*"):
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, aligned)
    target = GPUTarget("cuda", 10 * chip[0] + chip[1], 32)
    built = triton.compile(source, target=target, options={"num_warps": scan.WARPS})
    registers, stack = resource_usage(built.asm["cubin"])
    return built.metadata.shared, registers, stack, built.asm["ptx"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forward", "backward"])
@pytest.mark.parametrize(("n_states", "half"), [(16, True), (16, False), (1, False), (32, True)])
@pytest.mark.parametrize("chip", CHIPS)
def test_scan_kernel_compiles_and_fits(record_property, chip, n_states, half, name):
    shared, registers, stack, ptx = compile_scan(chip, name, n_states, half)
    report = f"{shared / 1024:.1f} KB, {registers} registers, {stack} bytes spilled"
    record_property("usage", report)
    print(f"{chip} {name} {n_states}: {report}")
    assert shared <= CHIPS[chip].shared_kb * 1024
    assert "mma" not in ptx  # no tensor cores are needed: a T4 runs it as well as any
    assert stack <= STACK


@pytest.mark.slow
def test_scan_kernel_without_its_options_compiles():
    assert compile_scan((8, 0), "backward", 16, False, options=False)[2] <= STACK
