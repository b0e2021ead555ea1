"""The chapter on state spaces: claims that break with their code; a T4's rules, no compiler."""

import re

import pytest
import torch
from helpers.chapter_cells import execute

from llmbook import native
from llmbook.book.claims import ClaimError
from llmbook.book.root import find_chapter, read_notebook
from llmbook.experiments.mamba import Arithmetic

COUNTED = ["02", "05", "06"]
SCAN = 'selective_scan(u, u, A, BC, BC, backend="reference")'
ATTENTION = 'attention(q, q, q, backend="reference")'


def test_arithmetic_is_counted_as_it_is_done():
    a, b, v = torch.rand(3, 4), torch.rand(4, 5), torch.rand(7)
    for run, count in (
        (lambda: a @ b, 2 * 3 * 4 * 5),
        (lambda: a[None].expand(2, 3, 4) @ b[None].expand(2, 4, 5), 2 * 2 * 3 * 4 * 5),
        (lambda: 2 * v.exp() + v, 3 * 7),
        (lambda: v.sum(), 7),
        (lambda: v.softmax(0), 7),
        (lambda: (v.clone().view(7, 1) < 0).any(), 0),
    ):
        with Arithmetic() as done:
            run()
        assert done.count == count


def test_the_claim_on_the_work_by_length_holds():
    assert "256 tokens: scan" in execute("mamba", COUNTED)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (SCAN, ATTENTION),
        (SCAN, SCAN.replace("reference", "associative")),  # log₂(tokens) times the work
        (ATTENTION, SCAN),
    ],
)
def test_the_claim_on_the_work_by_length_fails_when_other_work_is_counted(old, new):
    with pytest.raises(ClaimError, match="mamba-linear-complexity"):
        execute("mamba", COUNTED, old, new)


@pytest.mark.slow
def test_the_chapter_runs_under_a_t4_s_rules_with_nothing_to_compile(monkeypatch):
    monkeypatch.setenv("LLMBOOK_DEVICE_PROFILE", "t4")
    monkeypatch.setenv("LLMBOOK_COMPILER", "none")
    cells = [
        cell["id"].partition("-")[2]
        for cell in read_notebook(find_chapter("mamba"))["cells"]
        if cell["cell_type"] == "code"
        and not {"colab", "parameters"} & set(cell["metadata"].get("tags", []))
    ]
    native._library.cache_clear()
    try:
        printed = execute("mamba", cells)
    finally:
        native._library.cache_clear()
    assert re.search(r"auto +\(loop\)", printed)
    assert "not compiled: there is no C compiler" in printed
    assert not re.search(r"\((compiled|triton)\)", printed)
