"""Claims: one that does not hold stops the chapter; a chapter settles each of its rows once."""

import ast
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from llmbook.book import chapter, claims
from llmbook.book.calibrate import collect, margin_problem
from llmbook.book.claims import CLAIM_MIME, ClaimError, claim
from llmbook.book.execute import executed_path
from llmbook.book.records import ledger, papers_of, recorded
from llmbook.book.root import chapters, find_root

ROOT = find_root(Path(__file__).parent)
CHAPTERS = chapters(ROOT)


def claimed(notebook):
    """The id of every literal claim(...) call in a notebook's code cells."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and "colab" not in cell["metadata"].get("tags", []):
            for node in ast.walk(ast.parse("".join(cell["source"]))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "claim":
                    yield ast.literal_eval(node.args[0])


@pytest.fixture
def shown(monkeypatch):
    """What `claim` publishes, instead of a display."""
    seen = []
    monkeypatch.setattr(
        claims, "publish", lambda text, html, data: seen.append((text, html, data))
    )
    monkeypatch.setattr(chapter, "_current", None)
    return seen


def at_profile(monkeypatch, profile):
    run = chapter.Run("recurrent", profile, 0, torch.device("cpu"), torch.float32, "")
    monkeypatch.setattr(claims, "current_run", lambda: run)


def test_every_row_of_the_existing_chapters_is_settled_exactly_once():
    found = Counter(id for path in CHAPTERS for id in claimed(path))
    expected = {id for id, row in ledger().items() if row["chapter"] in {p.stem for p in CHAPTERS}}
    assert CHAPTERS and expected
    assert {id: n for id, n in found.items() if n != 1} == {}
    assert set(found) == expected


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_every_trained_claim_is_calibrated_with_room(path, book):
    past = recorded(path.stem)
    _, trained = collect([executed_path(path)])
    if not trained:  # its rows are counted, or settled by an experiment's recorded seeds
        assert past == {}
        return
    assert len(past.get("_run", {}).get("seeds", [])) >= 5, (
        f"run: python -m llmbook calibrate {path.stem}"
    )
    assert set(past) - {"_run"} == set(trained), f"run: python -m llmbook calibrate {path.stem}"
    problems = [
        f"{id}, {name}: {problem}"
        for id, bounds in trained.items()
        for name, bound in bounds.items()
        if (problem := margin_problem(past[id][name], bound))
    ]
    assert problems == []


def test_a_claim_that_does_not_hold_stops_the_chapter(shown):
    with pytest.raises(ClaimError, match="rnn-bptt"):
        claim("rnn-bptt", measured=1.0, holds=False)
    assert shown == []


def test_a_claim_that_holds_is_published_with_its_evidence(shown):
    claim(
        "rnn-bptt",
        measured={"difference": np.float64(1e-12), "steps": torch.tensor(50)},
        holds=np.bool_(True),
    )
    text, html, data = shown[0]
    assert data[CLAIM_MIME]["measured"] == [("difference", 1e-12), ("steps", 50)]
    assert "1.0·10⁻¹²" in text and 'id="claim-rnn-bptt"' in html


def test_a_bound_that_is_missed_stops_the_chapter_and_a_list_needs_every_seed(shown):
    claim("rnn-bptt", measured={"accuracy": [0.96, 0.99]}, bounds={"accuracy": ">= 0.95"})
    with pytest.raises(ClaimError, match="accuracy"):
        claim("rnn-bptt", measured={"accuracy": [0.94, 0.99]}, bounds={"accuracy": ">= 0.95"})
    with pytest.raises(ClaimError):
        claim("rnn-bptt", measured={"accuracy": float("nan")}, bounds={"accuracy": ">= 0.95"})


def test_smoke_records_trained_claims_without_judging_and_judges_the_exact_ones(
    shown, monkeypatch
):
    at_profile(monkeypatch, "smoke")
    claim("rnn-bptt", measured={"accuracy": 0.1}, bounds={"accuracy": ">= 0.95"})
    assert shown[0][2][CLAIM_MIME]["judged"] is False
    with pytest.raises(ClaimError):
        claim("rnn-bptt", measured=1.0, holds=False)
    at_profile(monkeypatch, "quick")
    with pytest.raises(ClaimError):
        claim("rnn-bptt", measured={"accuracy": 0.1}, bounds={"accuracy": ">= 0.95"})


@pytest.mark.parametrize(
    "kwargs, error, words",
    [
        ({"id": "rnn-bpt", "measured": 1, "holds": True}, ValueError, "did you mean 'rnn-bptt'"),
        ({"id": "rnn-bptt", "measured": 1}, ValueError, "exactly one of"),
        (
            {"id": "rnn-bptt", "measured": 1, "holds": True, "bounds": {"measured": "> 0"}},
            ValueError,
            "exactly one of",
        ),
        ({"id": "rnn-bptt", "measured": 1, "holds": 1}, TypeError, "holds must be a bool"),
        ({"id": "rnn-bptt", "measured": {}, "holds": True}, ValueError, "at least one"),
        ({"id": "rnn-bptt", "measured": {"a": object()}, "holds": True}, TypeError, "a number"),
        (
            {"id": "rnn-bptt", "measured": {"a": 1}, "bounds": {"b": "> 0"}},
            ValueError,
            "bounds name",
        ),
        (
            {"id": "rnn-bptt", "measured": {"a": 1}, "bounds": {"a": "0.5"}},
            ValueError,
            "a bound reads like",
        ),
        (
            {"id": "rnn-bptt", "measured": {"a": 1}, "bounds": {"a": ">= nan"}},
            ValueError,
            "a bound reads like",
        ),
    ],
)
def test_bad_arguments_get_a_clear_error(shown, kwargs, error, words):
    with pytest.raises(error, match=words):
        claim(**kwargs)


def test_a_claim_without_a_box_waits_for_the_table_of_the_others(shown, monkeypatch):
    with pytest.raises(ValueError, match="call start"):
        claim("rnn-bptt", measured=1, holds=True, box=False)
    at_profile(monkeypatch, "quick")
    run = claims.current_run()
    with pytest.raises(ValueError, match="waits for the table"):
        run.checked()
    claim("rnn-bptt", measured={"error": 1e-12}, holds=True, box=False)
    text, html, data = shown[0]
    assert "claim-rnn-bptt" not in html and data[CLAIM_MIME]["holds"] is True
    monkeypatch.setattr(chapter, "publish", lambda text, html: shown.append((text, html)))
    run.checked()
    text, html = shown[1]
    assert text.startswith("claim rnn-bptt") and html.startswith("<details")
    assert 'id="claim-rnn-bptt"' in html and "1 more statements" in html


def test_a_box_links_the_papers_and_names_the_number_of_recorded_seeds(shown, monkeypatch):
    row = ledger()["rnn-bptt"]
    claim("rnn-bptt", measured=1, holds=True)
    for key in row["reference"]:
        name, url = papers_of("recurrent")[key]
        assert f'<a href="{url}">{name}</a>' in shown[0][1]
    past = {"rnn-bptt": {"loss": [0.1, 0.2, 0.3, 0.4, 0.5]}}
    monkeypatch.setattr(claims, "recorded", lambda chapter: past)
    claim("rnn-bptt", measured={"loss": 0.25}, bounds={"loss": "<= 1"})
    assert "recorded, 5 other seeds" in shown[1][1] and "0.1 to 0.5" in shown[1][1]
    past["rnn-bptt"]["recorded: loss"] = [0.4] * 25  # a record says what it is, and has no other
    claim("rnn-bptt", measured={"loss": [0.2], "recorded: loss": [0.3, 0.4]}, holds=True)
    assert "recorded, 5 other seeds" in shown[2][1] and "0.4 to" not in shown[2][1]


def test_a_row_of_history_is_settled_by_papers_that_have_an_address_and_by_no_measurement(
    shown, monkeypatch
):
    claim("rnn-bptt", by_references=True)
    record = shown[0][2][CLAIM_MIME]
    assert record["by"] == "references" and record["measured"][0][1] > 0
    with pytest.raises(ValueError, match="takes no measurement"):
        claim("rnn-bptt", measured=1, by_references=True)
    with pytest.raises(ValueError, match="needs measured="):
        claim("rnn-bptt", holds=True)
    papers = {key: (name, "") for key, (name, _) in papers_of("recurrent").items()}
    monkeypatch.setattr(claims, "papers_of", lambda chapter: papers)
    with pytest.raises(ClaimError):
        claim("rnn-bptt", by_references=True)


@pytest.mark.parametrize(
    "value, text",
    [
        (6.661e-16, "6.7·10⁻¹⁶"),
        (37888000, "37,888,000"),
        (0.96466, "0.9647"),
        (-1.5, "−1.5"),
        (60611.47, "60,611"),
        (0.0, "0"),
        (16.0, "16"),
        (True, "True"),
        ([0.5, 2], "0.5 / 2"),
        (float("inf"), "inf"),
        (2.5e9, "2.5·10⁹"),
    ],
)
def test_numbers_are_shown_as_a_reader_writes_them(value, text):
    assert claims.format_value(value) == text


def test_a_claim_of_another_chapter_is_refused(shown, monkeypatch):
    at_profile(monkeypatch, "quick")
    with pytest.raises(ValueError, match="belongs to chapter 'attention'"):
        claim("attn-formula", measured=0.0, holds=True)


@pytest.mark.parametrize(
    "values, bound, near",
    [
        ([0.97, 0.98, 0.99], ">= 0.95", False),
        ([0.97, 0.98, 0.99], ">= 0.96", True),
        ([0.2, 0.3], "<= 0.4", False),
        ([0.2, 0.3], "<= 0.39", True),
        ([1.0, 1.0], ">= 1.0", False),
        ([1.0, 1.0], "> 1.0", True),
    ],
)
def test_a_bound_must_clear_the_spread_by_its_width(values, bound, near):
    assert bool(margin_problem(values, bound)) is near


def test_calibration_collects_each_seed_of_bounded_claims_only(tmp_path):
    def copy(name, value):
        records = [
            {
                "id": "a",
                "measured": [["x", value], ["seen", 3], ["recorded: x", [8, 9]]],
                "bounds": {"x": "> 0"},
            },
            {"id": "b", "measured": [["y", 1]], "bounds": {}},
        ]
        cells = [{"outputs": [{"data": {CLAIM_MIME: record}}]} for record in records]
        (tmp_path / name).write_text(json.dumps({"cells": cells}))
        return tmp_path / name

    values, bounds = collect([copy("1", 0.5), copy("2", [0.6, 0.7])])
    past = {"recorded: x": [8, 9]}  # stands in each copy, and counts once
    assert values == {"a": {"x": [0.5, 0.6, 0.7], "seen": [3, 3], **past}}
    assert bounds == {"a": {"x": "> 0"}}
