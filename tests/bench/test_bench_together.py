"""All races by one command: one table, JSON, and what is not raced is told with the reason."""

import argparse
import json

import pytest
import torch

from llmbook.bench import RACES, main, together


def options(**given):
    settings = {"races": ["recurrent"], "quick": True, "threads": 1, "minutes": 6, "json": None}
    return argparse.Namespace(**(settings | given))


def test_every_race_has_its_sizes():
    assert set(together.SET) == set(RACES)


def test_one_table_and_json_of_two_races(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)  # ours, not the races'
    file = tmp_path / "all.json"
    words = ["--quick", "--races", "recurrent", "attention", "--threads", "1", f"--json={file}"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    told = json.loads(file.read_text(encoding="utf-8"))
    assert set(told["races"]) == {"recurrent", "attention"}
    for name, race in told["races"].items():
        assert race["outcomes"] and not race["wrong"] and not race["note"] and race["seconds"] > 0
        for one in race["outcomes"]:
            start = f"{name:13} {one['case'][:37]:37} {one['ours']:10} {one['peer']:12}"
            line = next(line for line in printed.splitlines() if line.startswith(start))
            assert f" {one['speed']['median']:.2f} [" in line
    assert {"hardware", "versions", "threads", "date", "commit", "command", "cores"} <= set(told)
    assert told["command"].endswith("--json=all.json") and told["peers"]["transformers"]
    assert told["threads"] == 1
    cases = [one["speed"]["median"] for r in told["races"].values() for one in r["outcomes"]]
    assert f"the peer is faster in {sum(speed < 1 for speed in cases)}." in printed


def test_a_race_that_does_not_fit_is_told():
    assert together.run_one("recurrent", options(), 0)["note"] == "not within the minutes"
    assert together.run_one("recurrent", options(), 0.05)["note"] == "not within the minutes"


@pytest.mark.parametrize(
    "stderr, note",
    [
        (
            "x\nModuleNotFoundError: No module named 'trl'\n",
            "not installed: No module named 'trl'",
        ),
        ("x\nValueError: too large\n", "broke off: too large"),
        ("", "broke off: it said nothing"),
    ],
)
def test_a_race_that_broke_off_says_why(stderr, note):
    assert together._why(stderr) == note


def test_a_race_that_broke_off_is_in_the_status(monkeypatch):
    one = {"outcomes": [], "wrong": {}, "seconds": 1.0}
    good = {"case": "", "ours": "", "peer": "", "speed": {"median": 1, "p20": 1, "p80": 1}}
    told = {
        "recurrent": {**one, "outcomes": [good], "note": ""},
        "loading": {**one, "note": together._why("ValueError: too large")},
    }
    monkeypatch.setattr(together, "run_one", lambda name, *a: told[name])
    assert main(["--races", "recurrent"]) == 0
    assert main(["--races", "recurrent", "loading"]) == 1


def test_a_wrong_result_is_in_the_table_and_in_the_status(monkeypatch, capsys):
    wrong = {"outcomes": [], "wrong": {"GRU": "off by 2"}, "note": "", "seconds": 1.0}
    monkeypatch.setattr(together, "run_one", lambda *a: wrong)
    assert main(["--races", "recurrent"]) == 1
    assert "WRONG, off by 2" in capsys.readouterr().out
