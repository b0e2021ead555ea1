"""Execution: side by side, each chapter once; failures are told, and the others still run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.small_book import write_chapter

from llmbook.book.copies import job_of, last_run
from llmbook.book.execute import (
    ExecutionFailed,
    budget,
    ensure_executed,
    executed_path,
    expected,
    how_many,
)
from llmbook.book.root import chapters, find_chapter, find_root, read_notebook

ROOT = find_root(Path(__file__).parent)


@pytest.fixture
def root(tmp_path):
    """A book of two chapters; its path has spaces and letters of two scripts."""
    folder = tmp_path / "ein Büchlein мой"
    folder.mkdir()
    (folder / "requirements.txt").write_text("torch\n")
    (folder / "_toc.yml").write_text(
        "root: chapters/intro\nparts:\n- chapters:\n"
        "  - file: chapters/one\n  - file: chapters/two\n  - file: chapters/page\n"
    )
    for name in ("one", "two"):
        write_chapter(folder, name, "print(profile, seed, flush=True)\nprint('in two pieces')")
    return folder


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
    printed = [c["outputs"] for c in told["cells"] if c.get("outputs")]
    assert ["".join(out["text"]) for outs in printed for out in outs if "text" in out] == [
        "smoke 3\nin two pieces\n"
    ]
    assert (
        told["metadata"]["llmbook"]["seconds"] > 0
        and told["metadata"]["llmbook"]["peak_memory_mb"] > 10
    )
    assert capsys.readouterr().out.count("executing") == 1
    ensure_executed([one], "smoke", 3)
    assert "executing" not in capsys.readouterr().out
    before = executed_path(one, "smoke", 3)
    assert before == copy
    for file in (root / "requirements.txt", one):
        old = file.read_text()
        file.write_text(old.replace("torch", "torch==2").replace("print(", "print(1,"))
        assert not executed_path(one, "smoke", 3).is_file(), file
        file.write_text(old)
        assert executed_path(one, "smoke", 3) == before
    for other in (("quick", 3), ("smoke", 4)):
        assert not executed_path(one, *other).is_file()
    ensure_executed([one], "smoke", 3, force=True)
    assert "executing" in capsys.readouterr().out and executed_path(one, "smoke", 3) == before


def test_outputs_in_the_source_do_not_ask_for_a_new_execution(root):
    one = chapters(root)[0]
    (before,) = ensure_executed([one], "quick")
    text = json.loads(one.read_text())
    text["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    one.write_text(json.dumps(text))
    assert executed_path(one) == before


MEET = """
import pathlib, time
pathlib.Path("here_{mine}").touch()
begin = time.monotonic()
while not pathlib.Path("here_{other}").exists():
    assert time.monotonic() - begin < {wait}, "alone"
    time.sleep(0.05)
"""


def meeting(root, wait):
    """Make each of two chapters wait until it sees the other run."""
    write_chapter(root, "one", MEET.format(mine="one", other="two", wait=wait))
    write_chapter(root, "two", MEET.format(mine="two", other="one", wait=wait))


def test_chapters_run_side_by_side_and_progress_says_what_is_left(root, capsys):
    meeting(root, wait=100)
    done = ensure_executed(chapters(root), "smoke", at_once=2)
    assert [path.name.split(".")[0] for path in done] == ["one", "two"]
    said = capsys.readouterr().out
    assert said.count("executing") == 2 and said.count("(running: ") == 1


@pytest.mark.parametrize("why", ["memory", "one at a time"])
def test_no_other_chapter_is_started_when_memory_is_short_or_one_was_asked_for(
    root, monkeypatch, why
):
    if why == "memory":
        free = type("Memory", (), {"available": 300 * 10**6})
        monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    meeting(root, wait=1)
    with pytest.raises(ExecutionFailed, match="alone"):
        ensure_executed(chapters(root), "smoke", at_once=1 if why != "memory" else 2)
    # the first gave up while nothing else ran; then the second found its mark
    assert sum(executed_path(chapter, "smoke").is_file() for chapter in chapters(root)) == 1


def test_the_number_that_run_at_a_time_may_be_given_and_is_one_on_a_gpu(monkeypatch):
    job = job_of(ROOT / "chapters" / "attention.ipynb", "quick")
    monkeypatch.setenv("LLMBOOK_JOBS", "3")
    assert how_many([job]) == 3
    assert how_many([job_of(job.notebook, "gpu")]) == 1
    for bad in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("LLMBOOK_JOBS", bad)
        with pytest.raises(ValueError, match=f"at least 1: got '{bad}'"):
            how_many([job])
    with pytest.raises(ValueError, match="at_once must be a whole number of at least 1"):
        ensure_executed([job.notebook], at_once=0)


def test_the_longest_chapter_goes_first(root, capsys):
    (root / "chapters" / "budget.json").write_text('{"one": 5, "two": 50}')
    ensure_executed(chapters(root), "smoke", at_once=1)
    starts = [line for line in capsys.readouterr().out.splitlines() if "executing" in line]
    assert [line.split()[1] for line in starts] == ["two,", "one,"]
    two = last_run(job_of(chapters(root)[1], "smoke"))  # from now on: what it took the last time
    assert expected(job_of(chapters(root)[1], "smoke"))["cpu_seconds"] == two["cpu_seconds"] < 50


def test_every_chapter_has_a_budget_and_all_together_stay_within_theirs():
    allowed = budget(ROOT)
    assert set(allowed) == {path.stem for path in chapters(ROOT)}
    assert max(allowed.values()) <= 90 and sum(allowed.values()) <= 900  # seconds of one core


def test_a_kernel_that_dies_fails_its_chapter_only(root):
    write_chapter(root, "one", "import os; os._exit(1)")
    with pytest.raises(ExecutionFailed, match="1 of 2 chapters failed: one"):
        ensure_executed(chapters(root), "smoke", at_once=1)
    assert executed_path(chapters(root)[1], "smoke").is_file()


def test_a_notebook_needs_no_language_and_no_ids(root):
    one = chapters(root)[0]
    source = read_notebook(one)
    source["metadata"], source["nbformat_minor"] = {"kernelspec": {"name": "other"}}, 4
    for cell in source["cells"]:
        del cell["id"]
    one.write_text(json.dumps(source))
    copy = read_notebook(ensure_executed([one], "smoke")[0])
    assert copy["cells"][-1]["outputs"][0]["text"][0] == "smoke 0\n"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 3}', '{"cells": [1]}', "\xff"])
def test_a_broken_notebook_is_named(root, text):
    one, two = chapters(root)
    one.write_bytes(text.encode("latin-1"))
    with pytest.raises(ExecutionFailed, match="1 of 2 chapters failed: one.*one.ipynb is not a"):
        ensure_executed([one, two], "smoke")
    assert executed_path(two, "smoke").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_execution_leaves_no_copy_and_no_process_and_the_next_one_succeeds(root, how):
    import psutil

    write_chapter(root, "one", "import time; time.sleep(100)")
    command = [sys.executable, "-m", "llmbook", "run", "one", "--profile", "smoke"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        command,
        cwd=root,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        # where the tests run in the background, an interrupt is ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert "executing" in run.stdout.readline()
    begin, below = time.monotonic(), []
    while len(below) < 2 and time.monotonic() - begin < 60:  # the worker and its kernel
        below = psutil.Process(run.pid).children(recursive=True)
        time.sleep(0.1)
    run.send_signal(how)
    run.wait()
    gone, alive = psutil.wait_procs(below, timeout=60)
    assert len(gone) >= 2 and not alive
    assert not executed_path(chapters(root)[0], "smoke").is_file()
    write_chapter(root, "one", "print(1)")
    ensure_executed(chapters(root), "smoke")
    left = {path.name for path in (root / "_build" / "executed").glob("*.ipynb")}
    assert len(left) == 2 and not any("part" in name for name in left)


def test_a_failing_chapter_is_named_and_the_others_still_run(root, capsys):
    one, two = chapters(root)
    write_chapter(root, "one", "print('before'); 1 / 0")
    with pytest.raises(ExecutionFailed, match="1 of 2 chapters failed: one.*ZeroDivisionError"):
        ensure_executed([one, two], "smoke")
    assert executed_path(two, "smoke").is_file() and not executed_path(one, "smoke").exists()
    kept = list((root / "_build" / "executed").glob("one*.failed.ipynb"))
    assert len(kept) == 1 and "before" in kept[0].read_text()
    assert not list((root / "_build" / "executed").glob("*.part.ipynb"))


def test_the_command_exits_1_when_a_chapter_fails_and_prints_time_and_memory(root):
    write_chapter(root, "one", "raise ValueError('broken on purpose')")
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


NO_NETWORK = """
import socket, sys
def local(self, address, connect=socket.socket.connect):
    host = address[0] if isinstance(address, tuple) else ""
    if host not in ("", "localhost", "127.0.0.1", "::1"):
        print("asked for", host, file=sys.stderr)
        raise OSError(101, "Network is unreachable")
    return connect(self, address)
socket.socket.connect = local
"""


@pytest.mark.slow
@pytest.mark.parametrize("home", ["/dev/null/home", "/proc/home"])
def test_a_chapter_needs_no_network_and_no_home_to_write_to(tmp_path, home):
    """No folder can be made under either home, by root neither."""
    book, start = tmp_path / "ein Büchlein", tmp_path / "start"
    for folder in ("llmbook", "chapters"):
        shutil.copytree(ROOT / folder, book / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_toc.yml", "requirements.txt"):
        shutil.copy(ROOT / name, book)
    start.mkdir()
    (start / "sitecustomize.py").write_text(NO_NETWORK)
    folders = ("XDG_", "MPLCONFIGDIR", "IPYTHONDIR", "JUPYTER_", "HF_", "LLMBOOK_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(folders)}
    done = subprocess.run(
        [sys.executable, "-m", "llmbook", "run", "attention", "--profile", "smoke"],
        cwd=book,
        env={**env, "HOME": home, "PYTHONPATH": f"{start}{os.pathsep}{book}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "asked for" not in done.stdout
    assert last_run(job_of(book / "chapters/attention.ipynb", "smoke"))["seconds"] > 0


@pytest.mark.slow
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


@pytest.mark.slow
def test_calibration_runs_each_seed_and_refuses_fewer_than_five(root, monkeypatch):
    from llmbook.book.calibrate import calibrate

    body = (
        'from llmbook.book import start, claim\nrun = start("recurrent", profile, seed)\n'
        'claim("rnn-bptt", measured={"x": 0.5 + seed / 10}, bounds={"x": ">= 0.45"})'
    )
    shutil.copytree(ROOT / "llmbook" / "book" / "ledger", root / "llmbook" / "book" / "ledger")
    one = write_chapter(root, "one", body)
    with pytest.raises(ValueError, match="at least 5 different ones"):
        calibrate(one, [1, 1, 2, 3, 4])
    target, written, problems = calibrate(one, [1, 2, 3, 4, 5])
    assert written
    record = json.loads(target.read_text())
    assert record["rnn-bptt"]["x"] == [0.6, 0.7, 0.8, 0.9, 1.0]
    assert (
        record["_run"]["seeds"] == [1, 2, 3, 4, 5] and "calibrate one" in record["_run"]["command"]
    )
    assert len(problems) == 1 and "spread is 0.4" in problems[0]
    before = target.read_bytes()  # what comes out again leaves the record, which chapters read
    assert calibrate(one, [1, 2, 3, 4, 5]) == (target, False, problems)
    assert target.read_bytes() == before
    for was, now, again in (("f00-dirty", "f00", True), ("f00-dirty", "f11-dirty", False)):
        record["_run"]["commit"] = was
        target.write_text(json.dumps(record))
        monkeypatch.setattr("llmbook.provenance.commit", lambda folder, now=now: now)
        assert calibrate(one, [1, 2, 3, 4, 5])[1] == again
        assert json.loads(target.read_text())["_run"]["commit"] == (now if again else was)
    write_chapter(root, "one", body.replace("0.5 + seed", "0.6 + seed"))
    assert calibrate(one, [1, 2, 3, 4, 5])[1] and target.read_bytes() != before
