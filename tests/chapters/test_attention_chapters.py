"""The chapters on attention: break the code under a claim, and the claim must not hold."""

import contextlib
import io
import json
from pathlib import Path

import matplotlib
import pytest

from llmbook.book.claims import ClaimError
from llmbook.book.root import find_root

matplotlib.use("Agg")
CHAPTERS = find_root(Path(__file__).parent) / "chapters"

PATHS = ["setup", "paths", "claims-paths"]
FLASH = ["setup", "tiled", "tiled-backward", "claim-flash"]
SQUARE = ["setup", "tiled", "square-figure", "claim-square"]
CROWD = ["setup", "bound", "crowd-figure", "claim-crowd"]

# claim, what is broken: its notebook, the cells it stands on (the last makes it), old code, new
BROKEN = {
    "attn-path-length": (
        "attention_kernels",
        PATHS,
        "h = torch.tanh(W @ h + U @ x)\n        states",
        "h = torch.tanh(W @ (states[len(states) // 2] if states else h) + U @ x)\n        states",
    ),
    "demo-path-length": (
        "attention_kernels",
        PATHS,
        "torch.ones(n, n).tril().bool() if causal",
        "torch.ones(n, n).tril(1).bool() if causal",
    ),
    "attn-all-positions-in-parallel": (
        "attention_kernels",
        PATHS,
        "    together = attend(Q, K, V)",
        "    together = torch.cat([attend(q, K, V) for q in Q.split(64)])",
    ),
    "attn-flash-is-approximate, forward": (
        "attention_kernels",
        FLASH,
        "l = fade * l + p.sum(1, keepdim=True)",
        "l = l + p.sum(1, keepdim=True)",
    ),
    "attn-flash-is-approximate, backward": (
        "attention_kernels",
        FLASH,
        "- D[a]) * scale",
        ") * scale",
    ),
    "attn-quadratic-compute": (
        "attention_kernels",
        SQUARE,
        "range(0, i + len(q) if causal else len(K), block)",
        "range(0, len(K), block)",
    ),
    "attn-long-range-as-easy-as-adjacent": (
        "attention_kernels",
        CROWD,
        "math.exp(2 * B) / (n - 1 + math.exp(2 * B))",
        "math.exp(B) / (n - 1 + math.exp(B))",
    ),
}


def cells_of(notebook, names):
    """The sources of a notebook's cells, by their names behind the notebook's own."""
    read = json.loads((CHAPTERS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    found = {cell["id"]: "".join(cell["source"]) for cell in read}
    return [found[f"{notebook}-{name}"] for name in names]


def execute(notebook, names, old=None, new=None):
    """Run cells at `smoke` in a fresh namespace, with one piece of code changed."""
    cells = cells_of(notebook, names)
    if old is not None:
        assert sum(cell.count(old) for cell in cells) == 1, f"{old!r} must occur once"
        cells = [cell.replace(old, new) for cell in cells]
    space = {"profile": "smoke", "seed": 0, "__name__": "chapter"}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells:
            exec(compile(cell, "chapter", "exec"), space)


@pytest.mark.parametrize("cells", [PATHS, FLASH, SQUARE, CROWD], ids=lambda c: c[-1])
def test_the_claims_hold_on_the_code_as_it_is(cells):
    execute("attention_kernels", cells)


@pytest.mark.parametrize("name", BROKEN)
def test_a_claim_fails_when_the_code_under_it_is_broken(name):
    with pytest.raises(ClaimError, match=name.split(",")[0]):
        execute(*BROKEN[name])
