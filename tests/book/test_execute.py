"""Execution: one copy per (notebook, package, profile); failures are told and the others still run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmbook.book.execute import ExecutionFailed, ensure_executed, executed_path
from llmbook.book.root import chapters, find_chapter, find_root, read_notebook

ROOT = find_root(Path(__file__).parent)


def notebook(*cells):
    return json.dumps(
        {
            "cells": [
                {
                    "cell_type": "code",
                    "id": f"c{i}",
                    "metadata": {"tags": tags},
                    "execution_count": None,
                    "outputs": [],
                    "source": source,
                }
                for i, (source, tags) in enumerate(cells)
            ],
            "metadata": {
                "kernelspec": {"name": "python3", "display_name": "x", "language": "python"}
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )


@pytest.fixture
def root(tmp_path):
    """A book of two chapters, the second of which fails when asked to."""
    (tmp_path / "chapters").mkdir()
    (tmp_path / "llmbook").mkdir()
    (tmp_path / "llmbook" / "a.py").write_text("x = 1\n")
    (tmp_path / "requirements.txt").write_text("torch\n")
    (tmp_path / "_toc.yml").write_text(
        "root: chapters/intro\nparts:\n- chapters:\n"
        "  - file: chapters/one\n  - file: chapters/two\n  - file: chapters/page\n"
    )
    parameters = ('profile = "auto"\nseed = 0', ["parameters"])
    for name in ("one", "two"):
        (tmp_path / "chapters" / f"{name}.ipynb").write_text(
            notebook(parameters, ("print(profile, seed)", []))
        )
    return tmp_path


def test_chapters_are_the_notebooks_of_the_table_of_contents_in_order(root):
    assert [p.stem for p in chapters(root)] == ["one", "two"]
    assert find_chapter("two", root).name == "two.ipynb"
    with pytest.raises(ValueError, match="one of one, two"):
        find_chapter("three", root)


def test_a_chapter_is_executed_once_and_again_only_when_what_it_is_made_of_changes(root, capsys):
    one = chapters(root)[0]
    (copy,) = ensure_executed([one], "smoke", 3)
    told = read_notebook(copy)
    assert "smoke 3" in json.dumps(told)
    assert (
        told["metadata"]["llmbook"]["seconds"] > 0
        and told["metadata"]["llmbook"]["peak_memory_mb"] > 10
    )
    assert capsys.readouterr().out.count("executing") == 1
    ensure_executed([one], "smoke", 3)
    assert "executing" not in capsys.readouterr().out
    before = executed_path(one, "smoke", 3)
    changes = [root / "llmbook" / "a.py", root / "requirements.txt", one]
    for file in changes:
        old = file.read_text()
        file.write_text(
            old.replace("1", "2") if file != one else old.replace("print(", "print(1,")
        )
        if file.name == "requirements.txt":
            file.write_text("torch==2\n")
        assert executed_path(one, "smoke", 3) != before, file
        file.write_text(old)
        assert executed_path(one, "smoke", 3) == before
    assert executed_path(one, "quick", 3) != before and executed_path(one, "smoke", 4) != before
    (root / "llmbook" / "fig.js").write_text("1")
    assert executed_path(one, "smoke", 3) != before


def test_outputs_in_the_source_do_not_ask_for_a_new_execution(root):
    one = chapters(root)[0]
    before = executed_path(one)
    text = json.loads(one.read_text())
    text["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    one.write_text(json.dumps(text))
    assert executed_path(one) == before


def test_a_failing_chapter_is_named_and_the_others_still_run(root, capsys):
    one, two = chapters(root)
    one.write_text(
        notebook(('profile = "auto"\nseed = 0', ["parameters"]), ("print('before'); 1 / 0", []))
    )
    with pytest.raises(ExecutionFailed, match="1 of 2 chapters failed: one.*ZeroDivisionError"):
        ensure_executed([one, two], "smoke")
    assert executed_path(two, "smoke").is_file() and not executed_path(one, "smoke").exists()
    kept = list((root / "_build" / "executed").glob("one*.failed.ipynb"))
    assert len(kept) == 1 and "before" in kept[0].read_text()
    assert not list((root / "_build" / "executed").glob("*.part.ipynb"))


def test_the_command_exits_1_when_a_chapter_fails_and_prints_time_and_memory(root):
    (root / "chapters" / "one.ipynb").write_text(
        notebook(("raise ValueError('broken on purpose')", ["parameters"]))
    )
    done = subprocess.run(
        [sys.executable, "-m", "llmbook", "run", "--profile", "smoke"],
        cwd=root / "chapters",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert "broken on purpose" in done.stdout and "peak MB" in done.stdout
    assert any(line.startswith("two ") for line in done.stdout.splitlines())


def test_bad_arguments_get_a_clear_error(root, tmp_path_factory):
    with pytest.raises(ValueError, match="profile must be one of"):
        ensure_executed([], "fast")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match="_toc.yml"):
        find_root(empty)
    done = subprocess.run(
        [sys.executable, "-m", "llmbook", "run", "nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "chapter must be one of" in done.stderr


def test_two_processes_do_not_execute_the_same_chapter_twice(root):
    code = (
        "from llmbook.book.execute import *; import pathlib, sys;"
        f"print(ensure_executed([pathlib.Path({str(root)!r}) / 'chapters/one.ipynb'], 'smoke'))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    out = "".join(p.communicate()[0] for p in both)
    assert all(p.returncode == 0 for p in both) and out.count("executing") == 1


def test_calibration_runs_each_seed_and_refuses_fewer_than_three(root, monkeypatch):
    from llmbook.book.calibrate import calibrate

    body = (
        'from llmbook.book import start, claim\nrun = start("rnn_lstm", profile, seed)\n'
        'claim("rnn-bptt", measured={"x": 0.5 + seed / 10}, bounds={"x": ">= 0.45"})'
    )
    shutil.copytree(ROOT / "llmbook" / "book" / "ledger", root / "llmbook" / "book" / "ledger")
    one = root / "chapters" / "one.ipynb"
    one.write_text(notebook(('profile = "auto"\nseed = 0', ["parameters"]), (body, [])))
    with pytest.raises(ValueError, match="three different seeds"):
        calibrate(one, [1, 1, 2])
    target, problems = calibrate(one, [1, 2, 3])
    record = json.loads(target.read_text())
    assert record["rnn-bptt"]["x"] == [0.6, 0.7, 0.8]
    assert record["_run"]["seeds"] == [1, 2, 3] and "calibrate one" in record["_run"]["command"]
    assert len(problems) == 1 and "spread is 0.2" in problems[0]


def test_grading_takes_the_last_check_and_lists_what_was_never_checked(tmp_path, monkeypatch):
    from llmbook.book import grade
    from llmbook.book.check import CHECK_MIME

    states = [
        ("rnn_lstm/clip", "not yet"),
        ("rnn_lstm/clip", "right"),
        ("rnn_lstm/join", "not yet"),
    ]
    copy = tmp_path / "copy.ipynb"
    copy.write_text(
        json.dumps(
            {
                "cells": [
                    {"outputs": [{"data": {CHECK_MIME: {"id": id, "state": state}}}]}
                    for id, state in states
                ]
            }
        )
    )
    monkeypatch.setattr(grade, "ensure_executed", lambda notebooks, profile: [copy])
    found = grade.grade(tmp_path / "student.ipynb")
    assert found["rnn_lstm/clip"] == "right" and found["rnn_lstm/join"] == "not yet"
    assert found["rnn_lstm/swap"] == "unanswered"
