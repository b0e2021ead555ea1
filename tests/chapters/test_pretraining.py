"""The chapter on pretraining: its toy world is what the text says, its small code is right."""

import ast
import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llmbook.training.optim import AdamW

NOTEBOOK = Path(__file__).resolve().parents[2] / "chapters" / "pretraining.ipynb"
WANTED = {
    "FEEL",
    "NAMES",
    "LANDS",
    "agreement",
    "build_world",
    "uniform_order",
    "annealed_order",
    "adamw",
    "cross_entropy",
    "cut_by_hand",
}


@pytest.fixture(scope="module")
def chapter():
    """The functions and plain constants of the chapter, without running it."""
    names = {"torch": torch, "F": F, "math": math, "random": random}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        for node in ast.parse("".join(cell["source"])).body:
            assigned = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "")
            if (assigned or getattr(node, "name", "")) in WANTED:
                exec(compile(ast.Module([node], []), "chapter", "exec"), names)
    return names


def test_the_world_holds_the_shares_that_the_claims_speak_of(chapter):
    family, facts, pairs = chapter["build_world"](3)
    jobs, cat = Counter(family["jobs"]), Counter(family["cat"])
    assert jobs["the engineer said he was late ."] == 70
    assert jobs["the engineer said she was late ."] == 30
    assert (cat["the cat sat on the mat ."], cat["the cat sat on the rug ."]) == (60, 40)
    lines = Counter(family["facts"])
    for i, (city, land) in enumerate(facts):
        times = lines[f"{city} is the capital of {land} ."]
        assert times == (3 if i % 4 < 2 else 6)
        assert lines[f"the capital of {land} is {city} ."] == (times if i % 2 == 0 else 0)
    assert len({land for _, land in facts}) == len(facts) == 60
    assert Counter(family["sums"]) == {
        f"{a} + {b} = {a + b} .": 4 for a in range(10) for b in range(10)
    }


def test_grammar_is_tested_on_pairs_that_never_occur_and_the_last_noun_misleads(chapter):
    family, _, pairs = chapter["build_world"](0)
    text = "\n".join(family["grammar"])
    assert pairs and all(start not in text for start, _ in pairs)
    for start, verb in pairs:
        assert verb == ("are" if start.split()[1].endswith("s") else "is")
    agree = [start.endswith("s") == (verb == "are") for start, verb in pairs]
    assert sum(agree) == len(pairs) / 2  # so that the last noun is no help
    assert "the road is green" not in "\n".join(family["letters"])


def test_the_same_seed_gives_the_same_world_and_another_other_facts(chapter):
    build = chapter["build_world"]
    assert build(1)[0] == build(1)[0]
    assert build(1)[1] != build(2)[1]


def test_annealing_changes_the_order_and_nothing_else(chapter):
    g = torch.Generator().manual_seed(0)
    target = torch.arange(100) < 10
    order = chapter["uniform_order"](100, 4000, g)
    late = chapter["annealed_order"](order, target, g)
    assert torch.equal(order.sort().values, late.sort().values)
    share = target[late[3200:]].sum() / target[late].sum()
    assert share == pytest.approx(0.9, abs=0.01)
    assert target[order[3200:]].sum() / target[order].sum() < 0.25


def test_the_chapters_adamw_is_the_packages_and_torchs(chapter):
    torch.manual_seed(0)
    begin = torch.randn(4, 3, dtype=torch.float64)
    mine, state = begin.clone(), {}
    others = [torch.nn.Parameter(begin.clone()) for _ in range(2)]
    options = {"lr": 0.02, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizers = [AdamW([others[0]], **options), torch.optim.AdamW([others[1]], **options)]
    for _ in range(20):
        g = torch.randn(4, 3, dtype=torch.float64)
        mine = chapter["adamw"](mine, g, state, 0.02)
        for p, optimizer in zip(others, optimizers, strict=True):
            p.grad = g.clone()
            optimizer.step()
    for p in others:
        torch.testing.assert_close(mine, p.detach(), rtol=0, atol=1e-12)


def test_the_chapters_loss_and_windows_are_right(chapter):
    logits, targets = torch.randn(6, 9, dtype=torch.float64), torch.arange(6)
    torch.testing.assert_close(
        chapter["cross_entropy"](logits, targets), F.cross_entropy(logits, targets)
    )
    x, y = chapter["cut_by_hand"](torch.arange(23), 7)
    assert x.shape == (3, 7) and torch.equal(y, x + 1)


def test_the_ledger_names_a_published_source_for_every_row():
    rows = json.loads((NOTEBOOK.parents[1] / "llmbook/book/ledger/pretraining.json").read_text())
    assert len(rows) == 18 and all(row["reference"] for row in rows)
