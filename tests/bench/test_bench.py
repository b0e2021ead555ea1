"""The races run, are fair in their order, and show no speed for a wrong result."""

import json
import math
import subprocess
import sys
import time

import pytest
import torch

from llmbook import recurrent
from llmbook.bench import RACES, main, race

TINY = ["recurrent", "--quick", "--device", "cpu"]
CPU = torch.device("cpu")


def a_race(contestants, errors, **options):
    options = {"tolerance": 1e-6, "device": CPU, "repeats": 5, "warmup": 1, **options}
    return race.run_pair("a case", contestants, errors, **options)


# --- the whole


def test_recurrent_race_runs_and_records(tmp_path, capsys):
    file = tmp_path / "race.json"
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        more = ["--threads", "1", "--widths", "4", "7"]
        assert main([*TINY, *more, "--json", str(file)]) == 0
        assert torch.get_num_threads() == threads + 1  # as it was before
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    record = json.loads(file.read_text())
    for fact in ("hardware", "versions", "date", "threads", "commit"):
        assert record[fact] and f"{fact}: " in printed
    assert record["threads"] == 1 and record["versions"]["torch"] == torch.__version__
    assert record["hardware"] in printed and f"torch {torch.__version__}" in printed
    assert record["command"].startswith("python -m llmbook bench recurrent --quick")
    assert record["wrong"] == {} and len(record["outcomes"]) == 3 * 2 * 2
    for outcome in record["outcomes"]:
        assert outcome["peer"] == "torch.nn" and outcome["milliseconds"] == {}
        assert 0 < outcome["speed"]["p20"] <= outcome["speed"]["median"]
        assert outcome["speed"]["median"] <= outcome["speed"]["p80"]
    assert {(o["case"].split()[0], o["ours"]) for o in record["outcomes"]} == {
        (cell, ours) for cell in ("RNN", "LSTM", "GRU") for ours in ("fast", "reference")
    }
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_recurrent_race_in_other_precisions(dtype, capsys):
    more = ["--layers", "2", "--bidirectional", "--cells", "GRU", "--batch", "1", "--steps", "1"]
    assert main([*TINY, *more, "--dtype", dtype]) == 0
    assert "WRONG" not in capsys.readouterr().out


@pytest.mark.parametrize("backend", ["_run_fast", "_run_reference"])
def test_no_speed_is_shown_for_a_wrong_result(backend, tmp_path, monkeypatch, capsys):
    right = getattr(recurrent.LSTM, backend)

    def wrong(self, data, batch_sizes, state):
        output, *rest = right(self, data, batch_sizes, state)
        return output * 1.01, *rest

    monkeypatch.setattr(recurrent.LSTM, backend, wrong)
    file = tmp_path / "race.json"
    assert main([*TINY, "--cells", "LSTM", "GRU", "--json", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    lstm, gru = ([line for line in lines if line.startswith(cell)] for cell in ("LSTM", "GRU"))
    assert len(lstm) == 1 and "WRONG, so no speed is shown" in lstm[0]
    assert "vs torch.nn" not in lstm[0] and "warm-up" not in lstm[0]
    assert len(gru) == 2  # the others still race
    record = json.loads(file.read_text())
    assert [*record["wrong"]] == [lstm[0].split("  ")[0].strip()]
    assert all(o["case"].startswith("GRU") for o in record["outcomes"])


def test_a_wrong_gradient_is_a_wrong_result(monkeypatch, capsys):
    right = recurrent.GRU._run_fast
    monkeypatch.setattr(
        recurrent.GRU,
        "_run_fast",
        lambda self, data, *rest: right(self, data.detach() + 0 * data, *rest),
    )
    assert main([*TINY, "--cells", "GRU"]) == 1
    assert "fast is wrong" in capsys.readouterr().out


# --- the rules


def test_a_wrong_contestant_is_not_even_run():
    ran = []
    contestants = {"ours": lambda: ran.append("ours"), "peer": lambda: ran.append("peer")}
    for error in (1e-5, math.inf, math.nan):
        with pytest.raises(race.WrongResultError, match="ours is wrong: its error is"):
            a_race(contestants, {"ours": error, "peer": 0.0})
    with pytest.raises(race.WrongResultError, match="peer is wrong"):
        a_race(contestants, {"ours": 0.0, "peer": 1.0})
    assert ran == []


def test_a_race_wants_two_contestants_with_an_error_each():
    for contestants, errors in [
        ({"ours": print}, {"ours": 0.0}),
        ({"ours": print, "peer": print}, {"ours": 0.0}),
        ({"ours": print, "peer": print, "third": print}, dict.fromkeys(["ours", "peer"], 0.0)),
    ]:
        with pytest.raises(ValueError, match="a race has two contestants"):
            a_race(contestants, errors)


def test_contestants_take_turns_after_the_warm_up(monkeypatch):
    ran = []

    def contestant(name):
        def run():
            ran.append(name)
            time.sleep(0.001)

        return run

    monkeypatch.setattr(race, "TURN_S", 0.0001)  # one run a turn
    contestants = {name: contestant(name) for name in ("ours", "peer")}
    a_race(contestants, {"ours": 0.0, "peer": 0.0}, repeats=4, warmup=2)
    assert ran == ["ours"] * 2 + ["peer"] * 2 + ["ours", "peer"] * 4


def test_speed_is_the_peers_time_over_ours(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(race.time, "perf_counter", lambda: clock[0])

    def takes(seconds):
        return lambda: clock.__setitem__(0, clock[0] + seconds)

    contestants = {"ours": takes(0.002), "peer": takes(0.012)}
    outcome = a_race(contestants, {"ours": 0.0, "peer": 0.0}, warmup=3)
    assert [outcome.speed.median, outcome.speed.p80] == pytest.approx([6.0, 6.0])
    assert outcome.warm_up_s == pytest.approx({"ours": 0.006, "peer": 0.036})
    assert clock[0] == pytest.approx(3 * 0.014 + 5 * 5 * 0.014)  # 5 runs fill a turn of 10 ms


def test_spread_is_the_median_between_its_percentiles():
    values = [float(v) for v in range(10, -1, -1)]
    assert race.Spread.of(values) == race.Spread(5.0, 2.0, 8.0)
    assert race.Spread.of([3.0]) == race.Spread(3.0, 3.0, 3.0)
    few = race.Spread.of([1.0, 2.0, 9.0])
    assert few.p20 <= few.median == 2.0 <= few.p80


def test_relative_error_sees_size_shape_and_nan():
    truth = [torch.tensor([1.0, -100.0]), torch.zeros(2), torch.zeros(0)]
    assert race.relative_error(truth, truth) == 0
    off = [torch.tensor([2.0, -100.0]), torch.zeros(2), torch.zeros(0)]
    assert race.relative_error(off, truth) == pytest.approx(0.01)
    lost = [torch.tensor([math.nan, -100.0]), torch.ones(2), torch.zeros(0)]
    assert math.isnan(race.relative_error(lost, truth))
    assert race.relative_error([torch.zeros(3)], [torch.zeros(2)]) == math.inf
    with pytest.raises(ValueError):
        race.relative_error(truth[:1], truth)


# --- the command line


def test_help_lists_the_races(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())  # help wraps long lines
    assert all(name in printed and line in printed for name, line in RACES.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "decoding, tokenization: got 'nope'"),
        (["--quick", "--races", "nope"], "invalid choice: 'nope'"),
        (["--minutes", "0"], "--minutes: must be a whole number of at least 1: got '0'"),
        (["--json", "no/such/folder/all.json"], "--json: there is no folder"),
        ([*TINY, "--batch", "0"], "--batch: must be a whole number of at least 1: got '0'"),
        ([*TINY, "--widths", "-3"], "--widths"),
        ([*TINY, "--repeats", "many"], "--repeats: must be a whole number"),
        ([*TINY, "--cells", "CNN"], "invalid choice: 'CNN'"),
        ([*TINY, "--dtype", "int8"], "invalid choice: 'int8'"),
        (["recurrent", "--device", "toaster"], "--device: "),
        ([*TINY, "--json", "no/such/folder/race.json"], "--json: there is no folder"),
        ([*TINY, "--json", "."], "--json: cannot write a file"),
        ([*TINY, "--wide", "3"], "unrecognized arguments: --wide"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_runs(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(recurrent.LSTM, "forward", None)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", RACES)
def test_each_race_has_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "--json FILE" in printed and RACES[name] in printed


def test_listing_the_races_does_not_import_torch():
    code = (
        "import sys; from llmbook.bench import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
