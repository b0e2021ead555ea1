"""The set-up: what importing costs, what is pinned, what the README promises, the commands."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from llmbook import __main__ as command_line
from llmbook.book.root import find_root

ROOT = find_root(Path(__file__).parent)
PINS = (ROOT / "requirements.txt").read_text(encoding="utf-8")


def python(code, **env):
    """Run code in a fresh Python; its output."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_llmbook_loads_nothing_and_its_modules_cost_little_beyond_torch(fresh):
    assert (
        python("import sys, llmbook; print('torch' in sys.modules, 'numpy' in sys.modules)")
        == "False False"
    )
    done = fresh(
        "import torch, time; t = time.process_time();"
        "import llmbook.recurrent, llmbook.data, llmbook.book; print(time.process_time() - t)"
    )
    assert float(done.stdout) < 1.5, done.stderr


def test_importing_needs_no_triton_and_touches_neither_gpu_nor_network_nor_cache(tmp_path, fresh):
    code = (
        "import sys, socket; sys.modules['triton'] = None\n"
        "def refuse(*a, **k): raise SystemExit('network')\n"
        "socket.socket.connect = refuse; import torch; torch.cuda.init = refuse\n"
        "import pkgutil, importlib, llmbook\n"
        "for m in pkgutil.walk_packages(llmbook.__path__, 'llmbook.'):\n"
        "    if not any(w in m.name for w in ('.kernels.', '.sphinx', '__main__')):\n"
        "        importlib.import_module(m.name)\n"
        "print(torch.cuda.is_initialized())"
    )
    done = fresh(code, LLMBOOK_CACHE=str(tmp_path / "cache"))
    assert done.stdout.strip() == "False", done.stderr
    assert not (tmp_path / "cache").exists()


def test_every_requirement_is_pinned_exactly_and_satisfies_the_ranges_of_pyproject():
    from packaging.requirements import Requirement

    pins = {}
    for line in PINS.splitlines():
        if line and not line.startswith(("#", "-e")):
            requirement = Requirement(line)
            assert re.fullmatch(r"==[\w.!]+", str(requirement.specifier)), line
            pins[re.sub(r"[-_.]+", "-", requirement.name).lower()] = str(requirement.specifier)[2:]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    colab = dict(
        re.findall(
            r"^([\w.-]+)==(\S+)",
            (ROOT / "tests/book/colab/packages.txt").read_text(),
            re.MULTILINE,
        )
    )
    extras = project["optional-dependencies"]
    pinned_there = extras["lab"] + extras["oracles"]  # what `.ci/run` adds to them
    for text in ranges:
        requirement = Requirement(text)
        if text in extras["bench"]:  # peers of races, which no test needs
            continue
        if text in pinned_there:
            assert re.fullmatch(r"==[\w.!]+", str(requirement.specifier)), text
            continue
        assert requirement.specifier.contains(pins[requirement.name]), text
        if text in project["dependencies"] and requirement.name in colab:
            assert requirement.specifier.contains(colab[requirement.name]), (
                f"{text}: Colab has {colab[requirement.name]}"
            )
    assert Requirement(project["dependencies"][0]).specifier.contains("2.11.0"), (
        "Colab's torch would be replaced"
    )
    assert "-e ." in PINS and pins["torch"] == "2.13.0"


def pythons():
    """The Pythons that the project names, each by its first release: "3.11.0", …"""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = [text.rpartition(" ")[2] for text in project["classifiers"] if ":: Python ::" in text]
    return project["requires-python"], [f"{version}.0" for version in told]


def test_the_pythons_are_the_same_everywhere():
    from packaging.specifiers import SpecifierSet

    allowed, named = pythons()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = re.search(r"You need Python ([\d., or]+)\.", readme).group(1)
    assert [f"{version}.0" for version in re.findall(r"3\.\d+", told)] == named
    tried = re.search(r"for version in ([\d. ]+); do", (ROOT / ".ci/run").read_text()).group(1)
    assert [re.match(r"3\.\d+", version).group() + ".0" for version in tried.split()] == named
    assert named[0] in SpecifierSet(allowed) and "3.10.99" not in SpecifierSet(allowed)
    assert tried.split()[0] == named[0]  # its first release: systems keep that one for years


def test_every_pin_allows_each_python_and_what_it_needs_there_is_pinned():
    """As the installed packages say; `.ci/run` asks pip for the wheels."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    pins = [Requirement(line) for line in PINS.splitlines() if line and line[0] not in "#-"]
    judged = set()
    for version in pythons()[1]:
        there = {"python_version": version[:4], "python_full_version": version, "extra": ""}
        used = [pin for pin in pins if not pin.marker or pin.marker.evaluate(there)]
        names = {canonicalize_name(pin.name) for pin in used}
        for pin in used:
            try:
                told = metadata.metadata(pin.name)
            except metadata.PackageNotFoundError:  # for another Python than this one
                assert pin.marker, pin.name
                continue
            if told["Version"].partition("+")[0] not in str(pin.specifier):
                continue  # another release is installed here than is pinned
            judged.add(pin.name)
            assert version in SpecifierSet(told.get("Requires-Python") or ""), (pin.name, version)
            for needed in map(Requirement, metadata.requires(pin.name) or ()):
                if not needed.marker or needed.marker.evaluate(there):
                    name = canonicalize_name(needed.name)
                    assert name in names or name.startswith(("nvidia-", "cuda-")), (
                        f"{pin.name} needs {needed.name} on Python {version[:4]}"
                    )
    assert len(judged) > 0.8 * len(pins)


def test_the_readme_holds_the_two_commands_and_the_check_runs_them_from_there():
    commands = re.findall(
        r"^python3 -m venv .*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [c.rsplit("&& ")[-1].split()[0] for c in commands] == ["jupyter-book", "pytest"]
    assert "commands[0]" in (ROOT / ".ci/run").read_text()


def test_the_readme_lists_every_command_and_each_has_help(capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in command_line.COMMANDS:
        assert f"python -m llmbook {name}" in readme
        with pytest.raises(SystemExit) as stop:
            command_line.main([name, "--help"])
        assert stop.value.code == 0 and f"llmbook {name}" in capsys.readouterr().out


def test_an_unknown_command_is_refused_and_none_prints_help(capsys):
    assert command_line.main(["fly"]) == 2 and "unknown command 'fly'" in capsys.readouterr().err
    assert command_line.main(["--help"]) == 0 and "calibrate" in capsys.readouterr().out


def test_the_wheel_carries_everything_that_a_chapter_reads(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["llmbook"]
    kinds = {
        p.suffix
        for p in (ROOT / "llmbook").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert kinds - {".py"} <= {Path(p).suffix for p in patterns}


def test_a_profile_and_a_seed_must_be_known(monkeypatch):
    from llmbook.book.chapter import resolve_profile, seed_everything, start

    monkeypatch.setenv("LLMBOOK_PROFILE", "quick")
    assert resolve_profile("auto") == "quick" and resolve_profile("full") == "full"
    with pytest.raises(ValueError, match="profile must be one of auto, smoke, .*: got 'fast'"):
        start("recurrent", "fast")
    monkeypatch.setenv("LLMBOOK_PROFILE", "fast")
    with pytest.raises(ValueError, match="LLMBOOK_PROFILE must be one of smoke, .*: got 'fast'"):
        resolve_profile("auto")
    with pytest.raises(ValueError, match="chapter must be one of"):
        start("rnn")
    with pytest.raises(ValueError, match="seed must be a whole number from 0 to 2147483647"):
        seed_everything(-1)
    for seed in (1.5, True, "0"):
        with pytest.raises(TypeError, match="seed must be a whole number"):
            seed_everything(seed)


def test_a_size_is_picked_by_profile():
    from llmbook.book.chapter import Run

    def run(profile):
        return Run("recurrent", profile, 5, "cpu", None, "")

    assert [
        run(p).pick(smoke=1, quick=2, gpu=3, full=4) for p in ("smoke", "quick", "gpu", "full")
    ] == [1, 2, 3, 4]
    assert [run(p).pick(quick=2, gpu=3) for p in ("smoke", "quick", "gpu", "full")] == [2, 2, 3, 3]
    assert run("quick").seeds == [5] and run("gpu").seeds == [5, 6, 7]


def test_the_licence_holds_both_texts():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert (
        "Apache License" in text
        and "Attribution 4.0 International" in text
        and "the llmbook authors" in text
    )
