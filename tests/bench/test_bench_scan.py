"""The race of scans: it runs, names its peers, refuses a wrong scan."""

import pytest
import torch

from llmbook.bench import main
from llmbook.bench import scan as race

QUICK = [
    "scan",
    "--quick",
    "--device",
    "cpu",
    "--threads",
    "1",
    "--channels",
    "64",
    "--states",
    "3",
]


def test_the_quick_race_runs_and_names_what_is_not_installed(capsys):
    pytest.importorskip("transformers")
    assert main([*QUICK, "--tokens", "9", "--longest", "40"]) == 0
    told = capsys.readouterr().out
    assert "scan L=9 auto" in told
    assert "scan L=9 loop" in told
    assert "mamba2 L=9" in told
    assert "delta rule L=9 chunked" in told
    assert "flash-linear-attention" in told
    assert "scan or attention L=9" in told
    assert "mamba-ssm: not installed" in told or "mamba-ssm" in told
    assert "time of a token" in told


def test_the_quick_race_runs_in_half_precision(capsys):
    pytest.importorskip("transformers")
    more = ["--half", "--tokens", "70", "--against", "unfused", "--backends", "loop"]
    assert main([*QUICK, *more, "--parts", "scan", "mamba2", "delta", "attention"]) == 0
    told = capsys.readouterr().out
    for case in ("scan L=70 loop", "mamba2 L=70 chunked", "delta rule L=70", "scan or attention"):
        assert case in told


def test_a_wrong_scan_gets_no_speed(capsys, monkeypatch):
    pytest.importorskip("transformers")
    right = race.selective_scan

    def off(*inputs, **options):
        y = right(*inputs, **options)
        return y if y.dtype == torch.float64 else y * 1.01

    monkeypatch.setattr(race, "selective_scan", off)
    assert main([*QUICK, "--tokens", "9", "--backends", "loop", "--parts", "scan"]) == 1
    assert "scan L=9 loop" in (told := capsys.readouterr().out)
    assert "WRONG" in told


def test_a_peer_that_loses_digits_gets_no_speed_and_ours_is_not_blamed(capsys):
    more = ["--states", "16", "--tokens", "64", "--against", "heinsen", "--parts", "scan"]
    assert main([*QUICK, *more]) == 0
    told = capsys.readouterr().out
    assert "heinsen is 0.00" in told
    assert "off the truth: no speed is shown" in told
    assert "vs heinsen" not in told
