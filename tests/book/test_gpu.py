"""`python -m llmbook gpu`: within its minutes, resumable, and on a machine that lacks much."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest

from llmbook.book import gpu

ON_A_GPU = {"hardware": "NVIDIA T4", "capability": [7, 5]}


def step(name, code, minutes=0.1, **others):
    """A step that runs some Python; what it writes to {out}/result.json is its result."""

    def reads(folder):
        return json.loads((folder / "result.json").read_text())

    return gpu.Step(name, minutes, (sys.executable, "-c", code, "{out}"), reads, **others)


def writes(value):
    return f"import sys; open(sys.argv[1] + '/result.json', 'w').write('{json.dumps(value)}')"


@pytest.fixture
def day(tmp_path, monkeypatch):
    """Run the command over given steps; returns its exit status and records."""

    def run(listed, *options, out="out"):
        monkeypatch.setattr(gpu, "steps", lambda smoke=False, nanogpt=None: listed)
        status = gpu.main(["--out", str(tmp_path / out), *options])
        return status, json.loads((tmp_path / out / "records.json").read_text())

    return run


def test_each_step_is_recorded_with_its_result_command_and_time(day):
    status, records = day([step("one", writes(7)), step("two", "raise SystemExit(3)")])
    assert (
        status == 1 and records["hardware"] and records["commit"] and len(records["kernels"]) == 64
    )
    one, two = records["steps"]["one"], records["steps"]["two"]
    assert (
        one["state"] == "passed" and one["result"] == 7 and one["command"].startswith("python -c")
    )
    assert two["state"] == "failed" and two["seconds"] >= 0


def test_a_step_that_leaves_no_result_has_failed(day):
    status, records = day([step("one", "print('nothing written')")])
    assert status == 1 and records["steps"]["one"]["state"] == "failed"
    assert "nothing written" in records["steps"]["one"]["output"]


def test_no_step_begins_that_does_not_fit_the_minutes_and_a_shorter_one_still_does(day):
    status, records = day(
        [step("long", writes(1), minutes=5), step("short", writes(2))], "--minutes", "1"
    )
    assert status == 0 and list(records["steps"]) == ["short"]


def test_a_step_that_outlasts_the_minutes_is_ended_with_its_children(day, tmp_path):
    code = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    begin = time.monotonic()
    status, records = day([step("stuck", code, minutes=0.01)], "--minutes", "0.2")
    assert status == 1 and records["steps"]["stuck"]["state"] == "timed out"
    assert time.monotonic() - begin < 30
    state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    while (
        not ended(state) and time.monotonic() - begin < 40
    ):  # killed, it has yet to be run to end
        time.sleep(0.1)
    assert ended(state)


def ended(state):
    """Is the process gone whose /proc/PID/stat this is, or dead and not yet waited for?"""
    try:
        return state.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_second_call_goes_on_and_tries_what_broke_off_last(day, tmp_path):
    listed = [step("one", writes(1)), step("two", writes(2), minutes=5), step("three", writes(3))]
    day(listed, "--minutes", "1")
    file = tmp_path / "out" / "records.json"
    records = json.loads(file.read_text())
    records["steps"]["one"]["state"] = "begun"  # as a killed call leaves it
    file.write_text(json.dumps(records))
    first = records["steps"]["three"]
    status, records = day(listed, "--minutes", "9", "--state", str(tmp_path / "out"), out="again")
    assert status == 0 and [s["state"] for s in records["steps"].values()] == ["passed"] * 3
    assert records["steps"]["three"] == first
    assert records["steps"]["two"]["date"] <= records["steps"]["one"]["date"]


@pytest.mark.parametrize("name", ["hardware", "kernels", "commit", "smoke"])
def test_a_state_of_other_code_or_another_machine_is_refused(day, tmp_path, name, capsys):
    day([step("one", writes(1))])
    file = tmp_path / "out" / "records.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: "another"}))
    assert gpu.main(["--out", str(tmp_path / "b"), "--state", str(tmp_path / "out")]) == 2
    assert f"its {name} is 'another'" in capsys.readouterr().err
    assert not (tmp_path / "b" / "records.json").exists()


def test_a_state_that_is_cut_off_is_named(tmp_path, capsys):
    (tmp_path / "records.json").write_text('{"format": 1, "st')
    assert gpu.main(["--out", str(tmp_path / "b"), "--state", str(tmp_path)]) == 2
    assert f"{tmp_path / 'records.json'} must be a records.json" in capsys.readouterr().err


def test_a_chapter_that_fails_is_not_given_the_result_of_an_earlier_run(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    folder = tmp_path / "_build" / "executed"
    folder.mkdir(parents=True)
    told = {"cells": [], "metadata": {"llmbook": {"seconds": 5.0}}}
    (folder / "one.gpu.seed0.0123456789abcdef.ipynb").write_text(json.dumps(told))
    assert gpu._read_chapter("one", "gpu") == {"seconds": 5.0}
    failed = folder / "one.gpu.seed0.failed.ipynb"
    failed.write_text(json.dumps({"cells": [], "metadata": {}}))
    os.utime(failed, (time.time() + 1, time.time() + 1))
    with pytest.raises(KeyError):
        gpu._read_chapter("one", "gpu")


def test_a_step_says_what_the_machine_lacks(day, capsys):
    lacking = step("one", writes(1), modules=("no_such_package",), data=("no.txt",))
    status, records = day([lacking, step("two", writes(2))])
    assert status == 0 and records["steps"]["two"]["state"] == "passed"
    needs = ["the package no_such_package", "no.txt in --data"]
    assert records["steps"]["one"] == {"state": "missing", "needs": needs}
    assert ", ".join(needs) in capsys.readouterr().out


def test_records_are_whole_though_the_call_is_killed(tmp_path):
    code = (
        "import sys; from llmbook.book import gpu\n"
        "first = gpu.Step('one', .1, (sys.executable, '-c', ''), lambda folder: 1)\n"
        "slow = (sys.executable, '-c', 'import time; time.sleep(99)')\n"
        "stuck = gpu.Step('two', .1, slow, None)\n"
        "gpu.steps = lambda smoke=False, nanogpt=None: [first, stuck]\n"
        f"gpu.main(['--out', {str(tmp_path)!r}])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    file = tmp_path / "records.json"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if file.exists() and "two" in json.loads(file.read_text())["steps"]:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    steps = json.loads(file.read_text())["steps"]
    assert steps["one"]["state"] == "passed" and steps["two"]["state"] == "begun"


def test_every_step_has_a_name_of_its_own_and_the_most_valuable_come_first():
    names = [s.name for s in gpu.steps()]
    assert len(set(names)) == len(names)
    assert names[0] == "tests: kernels" and names[1] == "race: attention"
    kinds = [name.split(":")[0] for name in names]
    assert list(dict.fromkeys(kinds)) == ["tests", "race", "train", "chapter"]
    files = [word for word in gpu.steps()[0].command if word.startswith("tests")]
    assert "tests/kernels/test_kernels_on_gpu.py" in files
    assert "tests/recurrent/test_recurrent.py" in files


def test_the_list_tells_steps_minutes_and_what_is_missing(capsys):
    assert gpu.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "tests: kernels" in out and "tinyshakespeare.txt in --data" in out and "minutes" in out


# --- into the book


def records_file(tmp_path, **changes):
    content = gpu.facts("abc") | ON_A_GPU
    content["steps"] = {
        "race: attention": {"state": "passed", "result": {"outcomes": []}, "seconds": 1.0},
        "train: shakespeare": {"state": "timed out"},
    }
    file = tmp_path / "records.json"
    content = {name: it for name, it in (content | changes).items() if it is not ...}
    file.write_text(json.dumps(content))
    return file


def test_imported_results_are_what_the_pages_are_given(tmp_path):
    target = tmp_path / "gpu.json"
    target.write_text(json.dumps({"tests: kernels": {"state": "passed", "kernels": "older"}}))
    assert gpu.take_in(records_file(tmp_path), target) == ["race: attention"]
    found = gpu.recorded(target)
    assert (
        found["race: attention"]["hardware"] == "NVIDIA T4"
        and not found["race: attention"]["stale"]
    )
    assert found["tests: kernels"]["stale"]
    assert "train: shakespeare" not in found


@pytest.mark.parametrize(
    "result, line",
    [
        ({"passed": 90, "failed": [], "skipped": []}, "90 passed, 0 failed"),
        (
            {"outcomes": [{"case": "d64", "peer": "flash", "speed": {"median": 0.914}}]},
            "d64: 0.91 of flash's speed",
        ),
        ({"outcomes": [], "wrong": {"d64": "off"}}, "no race was run; 1 wrong"),
        (
            {"validation_curve": [[100, 2.0], [5000, 1.46971]], "seconds": 181.4},
            "validation loss 1.4697 nats after 5,000 steps, 181 s",
        ),
        ({"seconds": 61.2, "peak_memory_mb": 1234}, "61 s, 1,234 MB"),
        (None, "failed"),
    ],
)
def test_a_result_is_told_in_a_line(result, line):
    assert gpu.told({"state": "failed", "result": result}) == line


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kernels": "0" * 64}, "of other kernels"),
        ({"hardware": "a CPU, 2 cores seen", "capability": None}, "must name a GPU"),
        ({"hardware": None}, "must name a GPU"),
        ({"smoke": True}, "tiny sizes"),
        ({"format": 2}, "format 1"),
        ({"steps": {}}, "no step that ended"),
        ({"versions": ...}, "it lacks versions"),
    ],
)
def test_results_of_other_kernels_or_of_no_gpu_are_refused(tmp_path, changes, message):
    target = tmp_path / "gpu.json"
    with pytest.raises(ValueError, match=message):
        gpu.take_in(records_file(tmp_path, **changes), target)
    assert not target.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "5"])
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    file = tmp_path / "records.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="records.json must be"):
        gpu.take_in(file, tmp_path / "gpu.json")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--minutes", "0"], "--minutes must be above 0"),
        (["--state", "nowhere"], "--state must be a folder"),
        (["--out", __file__], "--out must be a folder: got the file"),
        ([], "--out must name a folder"),
    ],
)
def test_bad_options_are_named(options, message, capsys):
    with pytest.raises(SystemExit):
        gpu.main(options)
    assert message in capsys.readouterr().err


def test_an_unknown_step_is_named_with_those_there_are(tmp_path, capsys):
    assert gpu.main(["--out", str(tmp_path), "--only", "rice"]) == 2
    error = capsys.readouterr().err
    assert "got 'rice'" in error and "race: attention" in error


# --- on a bare machine


@pytest.mark.slow
def test_it_runs_from_a_copy_without_git_on_a_machine_without_the_books_packages(tmp_path):
    """A Python that has torch, pytest and transformers, and none of what executes notebooks."""
    absent = {
        *gpu.NOTEBOOK_PACKAGES,
        "platformdirs",
        "jupyter_book",
        "sphinx",
        "nbval",
        "xdist",
        "pytest_xdist",
    }
    root = tmp_path / "a copy"
    shutil.copytree(
        gpu.ROOT,
        root,
        ignore=shutil.ignore_patterns(
            ".git", ".venv", "_build", "__pycache__", "*.egg-info", "runs"
        ),
    )
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(
        subprocess.run([python, "-c", asked], capture_output=True, text=True).stdout.strip()
    )
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        name = entry.name.split("-")[0].split(".")[0].lower()
        if name not in absent and entry.suffix != ".pth" and "llmbook" not in entry.name:
            (site / entry.name).symlink_to(entry)
    only = ("tests", "race: attention", "race: recurrent", "train", "chapter: attention")
    command = [
        python,
        "-m",
        "llmbook",
        "gpu",
        "--smoke",
        "--out",
        tmp_path / "out",
        "--minutes",
        "9",
    ]
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    options = {"cwd": root, "env": env, "capture_output": True, "text": True}
    done = subprocess.run([*command, "--commit", "abc", "--only", *only], **options)
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((tmp_path / "out" / "records.json").read_text())
    steps = records["steps"]
    assert records["commit"] == "abc" and records["smoke"]
    assert steps["tests: kernels"]["result"]["failed"] == []
    assert steps["race: attention"]["result"]["outcomes"]
    assert steps["train: shakespeare"]["result"]["parameters"] > 0
    assert steps["chapter: attention"]["state"] == "missing"
    assert "the package papermill" in steps["chapter: attention"]["needs"]
