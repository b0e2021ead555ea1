#!/usr/bin/env bash
# A longer torch.randn with the same seed does not begin with the shorter one.
#
# Version:   torch 2.13.0 (CPU), float32 and float64
# Behaviour: `torch.rand` gives its numbers in one order whatever the size. `torch.randn` has three
#            ways: fewer than 16 numbers are drawn one by one; 16 or more are made in blocks of 16 from
#            blocks of uniform numbers; and when the size is no multiple of 16, the *last 16* are drawn
#            a second time. So randn(15) shares no number with randn(16), randn(17) only its first
#            with randn(64), and a batch of 4 rows of 5 is not the beginning of 8 rows.
# Seen:      how many of the n numbers equal the first n of 64: 8 → 0, 15 → 0, 16 → 16, 17 → 1,
#            32 → 32, 40 → 24.
# Source:    aten/src/ATen/native/cpu/DistributionTemplates.h, normal_kernel and normal_fill: the size
#            is compared with 16, and "recompute the last 16 values" stands beside the tail.
# Who meets it: whoever compares two runs of one seed with a larger batch, width or vocabulary and takes
#            the shared part for equal; whoever ports weights drawn by a seed to another shape.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "numpy==2.4.6" 2>/dev/null
"$work/env/bin/python" -W ignore - <<'PY'
import torch

EXPECTED = {8: 0, 15: 0, 16: 16, 17: 1, 32: 32, 40: 24}


def drawn(how, *size, **kind):
    torch.manual_seed(0)
    return how(*size, **kind)


for dtype in (torch.float32, torch.float64):
    long = drawn(torch.randn, 64, dtype=dtype)
    same = {n: int((drawn(torch.randn, n, dtype=dtype) == long[:n]).sum()) for n in EXPECTED}
    print(dtype, "equal to the first of 64:", same)
    assert same == EXPECTED, f"the behaviour has changed: {same}"
    uniform = drawn(torch.rand, 64, dtype=dtype)
    assert all(torch.equal(drawn(torch.rand, n, dtype=dtype), uniform[:n]) for n in EXPECTED)
few, many = drawn(torch.randn, 4, 5), drawn(torch.randn, 8, 5)
print("rows of 5 that 4 rows share with the first of 8:", int((few == many[:4]).all(1).sum()))
assert not torch.equal(few, many[:4])
print("as described")
PY
