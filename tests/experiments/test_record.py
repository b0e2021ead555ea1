"""`python -m llmbook record`: what a record says, part by part, and what stops it."""

import json

import pytest
import torch

from llmbook.experiments import record, small
from llmbook.experiments.families import table
from llmbook.experiments.record import EXPERIMENTS, main, recorded, recording


def test_a_record_grows_part_by_part_and_tells_of_each(tmp_path):
    path = tmp_path / "new" / "record.json"
    with recording(path, "python -m llmbook record x") as run:
        run.write("first", {"a": 1}, steps=3)
        assert set(json.loads(path.read_text())) == {"first", "_runs"}
        run.write("second", [2])
    content = json.loads(path.read_text())
    assert content["first"] == {"a": 1} and content["second"] == [2]
    told = content["_runs"]["first"]
    assert told["steps"] == 3 and told["command"] == "python -m llmbook record x"
    assert {"hardware", "versions", "threads", "date", "commit", "seconds"} <= set(told)
    assert "steps" not in content["_runs"]["second"]


def test_the_parts_that_were_there_are_kept_only_when_wanted(tmp_path):
    path = tmp_path / "record.json"
    for part, keep, wanted in (("a", False, {"a"}), ("b", True, {"a", "b"}), ("c", False, {"c"})):
        with recording(path, "command", keep=keep) as run:
            run.write(part, 1)
        assert set(json.loads(path.read_text())) - {"_runs"} == wanted
    with recording(tmp_path / "none.json", "command", keep=True) as run:
        assert run.content == {}


def test_a_record_of_one_piece_tells_once(tmp_path):
    with recording(tmp_path / "a.json", "command") as run:
        run.write_whole({"BLEU": 30.0}, sizes={"layers": 2})
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["BLEU"] == 30.0 and content["_run"]["sizes"] == {"layers": 2}


def test_the_threads_are_those_asked_for_and_put_back(tmp_path):
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="stopped"):
        with recording(tmp_path / "a.json", "command", threads=before + 1) as run:
            assert torch.get_num_threads() == before + 1
            assert run.about()["threads"] == before + 1
            raise RuntimeError("stopped")
    assert torch.get_num_threads() == before
    assert not (tmp_path / "a.json").exists()


def test_runs_by_key_are_kept_and_the_record_tells_of_every_commit(tmp_path, monkeypatch):
    path, clock = tmp_path / "runs.json", [0.0]
    monkeypatch.setattr(record.time, "monotonic", lambda: clock[0])
    for commit, keys in (("a" * 40, "xy"), ("a" * 40, "z"), ("b" * 40, "uv")):
        monkeypatch.setattr(record.provenance, "commit", lambda commit=commit: commit)
        with recording(path, "command", keep=True) as run:
            for key in keys:
                run.content.setdefault("part", {})[key] = {"loss": 1.0}
                clock[0] += 4
                run.save()
        content = json.loads(path.read_text())
        assert content["_run"]["commit"] == commit and content["_run"]["command"] == "command"
        assert ("commits" in content["_run"]) == (commit == "b" * 40)
    assert list(content["part"]) == list("xyzuv")
    assert content["_run"]["commits"] == ["a" * 40, "b" * 40]
    assert content["_run"]["seconds"] == 20


def test_seconds_are_those_of_the_part(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(record.time, "monotonic", lambda: clock[0])
    with recording(tmp_path / "a.json", "command") as run:
        clock[0] = 107.4
        run.write("a", 1)
        clock[0] = 110.0
        run.write("b", 1)
    assert run.content["_runs"]["a"]["seconds"] == 7
    assert run.content["_runs"]["b"]["seconds"] == 3


def test_only_missing_runs_are_made_and_each_is_written_at_once(tmp_path, capsys):
    path, made = tmp_path / "runs.json", []

    def run(x):
        made.append(x)
        if x == 3:
            raise KeyboardInterrupt
        return {"x": x}, "a model"

    points = [("part", str(x), (run, x)) for x in (1, 2, 3)]
    for asked in ([1, 2, 3], [3]):  # the second time only what the first lost
        made.clear()
        with recording(path, "again", keep=True) as record, pytest.raises(KeyboardInterrupt):
            record.make_missing(points, keep=lambda part, key, found: found[0])
        assert made == asked
        kept = recorded(path)
        assert kept["part"] == {"1": {"x": 1}, "2": {"x": 2}} and "_run" in kept
    assert capsys.readouterr().out == "part 1 {'x': 1}\npart 2 {'x': 2}\n"
    assert recorded(tmp_path / "none.json") == {}


# --- the command


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_tells_its_options(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "--out" in text and "default: 1" in text


def test_without_a_name_the_experiments_are_listed(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and line[:20] in listed for name, (_, line) in EXPERIMENTS.items())
    with pytest.raises(SystemExit):
        main(["--resume"])
    assert "name an experiment before" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


@pytest.fixture
def toy_table(monkeypatch):
    """The table's parts measure nothing; returns what they were asked."""
    asked = []

    def part(name):
        return lambda steps, seed: asked.append((name, steps, seed)) or {"value": steps}

    monkeypatch.setattr(table, "PARTS", {name: part(name) for name in table.PARTS})
    monkeypatch.setattr(table, "available", lambda name: name == "sst2")
    return asked


def test_the_table_records_every_part_that_the_data_allow(toy_table, tmp_path, capsys):
    out = tmp_path / "table.json"
    assert main(["families_table", "--out", str(out), "--steps", "10", "--seed", "2"]) == 0
    assert "recorded in" in capsys.readouterr().out
    assert toy_table == [*((name, 10, 2) for name in ("library", "parameters", "which", "sst2"))]
    content = json.loads(out.read_text())
    assert content["_runs"]["which"]["steps"] == 10 and content["_runs"]["which"]["seed"] == 2
    command = f"python -m llmbook record families_table --out {out} --steps 10 --seed 2"
    assert content["_runs"]["parameters"]["command"] == command

    toy_table.clear()
    assert main(["families_table", "--out", str(out), "--only", "parameters", "--seed", "3"]) == 0
    assert toy_table == [("parameters", 200, 3)]
    again = json.loads(out.read_text())
    assert again["which"] == content["which"] and again["_runs"]["parameters"]["seed"] == 3


def test_bad_input_is_an_error_and_not_a_traceback(toy_table, tmp_path, capsys):
    out = ["--out", str(tmp_path / "a.json")]
    assert main(["families_table", *out, "--threads", "0"]) == 2
    assert "error: threads must be a whole number of at least 1: got 0" in capsys.readouterr().err
    assert main(["multi30k", *out, "--device", "abacus"]) == 2
    assert "error: device must be" in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()


def test_small_is_the_preset_of_that_name(monkeypatch, tmp_path):
    from llmbook.training import command
    from llmbook.training.presets import preset

    seen = []
    monkeypatch.setattr(command, "run", lambda *arguments: seen.append(arguments))
    assert main(["small", "--out", str(tmp_path / "out"), "--resume"]) == 2 and not seen
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log.jsonl").touch()
    assert main(["small", "--out", str(tmp_path / "out"), "--seed", "4", "--resume"]) == 0
    recipe, options, line = seen[0]
    assert recipe == preset("small").changed({"training": {"seed": 4}})
    assert options.resume and options.out == tmp_path / "out" and options.threads == 1
    assert line == f"python -m llmbook record small --out {tmp_path / 'out'} --seed 4 --resume"
    assert main(["small", "--steps", "7"]) == 0
    recipe, options, _ = seen[1]
    assert recipe.training.steps == 7 and options.out == small.OUT and not options.resume
