"""A GPU's day: everything that only a GPU can show, in one command, within minutes.

    python -m llmbook gpu --out FOLDER [--minutes 8] [--state FOLDER] [--data FOLDER] …
    python -m llmbook gpu --list         the steps, their minutes, what is missing
    python -m llmbook gpu --import FILE  the results, into the book

The machine may be bare: no network, no git, packages missing. The most valuable steps come first:
the kernels' tests, the races, a training with a published loss, the chapters. No step begins that
does not fit the minutes that are left. After each step OUT/records.json is written whole; a second
call with `--state` goes on where that file ends. `--import` checks such a file and puts it into
what the book's pages show.
"""

import argparse
import dataclasses
import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from llmbook import provenance
from llmbook.book.root import chapters
from llmbook.data.folders import write_atomically

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "llmbook" / "book" / "recorded" / "gpu.json"
FORMAT = 1
DONE = ("passed", "failed")  # a step that timed out or broke off is tried again, after the others
NOTEBOOK_PACKAGES = ("papermill", "ipykernel", "nbclient", "anywidget", "pooch", "psutil")
KEPT = 4000  # characters of a step's output that a record keeps
MARGIN = 10  # seconds at the end that no step may use


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing to run: its name, the minutes it takes, what it needs, and the command.

    reads(folder) → what a record keeps of the files that the command left in `folder`.
    """

    name: str
    minutes: float
    command: tuple
    reads: object
    modules: tuple = ()
    data: tuple = ()
    files: tuple = ()
    env: tuple = ()

    def missing(self, folder):
        """What this machine lacks for the step: a list of phrases, empty when it can run."""
        lacking = [f"the package {m}" for m in self.modules if not importlib.util.find_spec(m)]
        lacking += [
            f"{name} in --data"
            for name in self.data
            if folder is None or not (folder / name).is_file()
        ]
        return lacking + [f"the file {name}" for name in self.files if not (ROOT / name).exists()]


# --- the steps


def steps(smoke=False, nanogpt=None):
    """Every step, the most valuable first. smoke: tiny sizes, on whatever device there is."""
    from llmbook.bench import RACES

    llmbook = (sys.executable, "-m", "llmbook")
    size = ("--quick", "--repeats", "1") if smoke else ()
    listed = [_kernel_tests()]
    for race, minutes in _MINUTES.items():
        if race in RACES:
            peer = ("--nanogpt", nanogpt) if race == "training" and nanogpt else ()
            command = (*llmbook, "bench", race, *size, *peer, "--json", "{out}/race.json")
            needs = _PEERS.get(race, ())
            listed.append(Step(f"race: {race}", minutes, command, _read_race, modules=needs))
    preset = "smoke" if smoke else "shakespeare"
    listed.append(
        Step(
            "train: shakespeare",
            4,
            (*llmbook, "train", "--preset", preset, "--out", "{out}/run", "--quiet"),
            _read_card,
            data=() if smoke else ("tinyshakespeare.txt",),
        )
    )
    return [*listed, *_chapters(llmbook, smoke)]


_MINUTES = {
    "attention": 3,
    "recurrent": 1,
    "models": 2,
    "moe": 2,
    "scan": 2,
    "decoding": 2,
    "training": 2,
    "sft": 1,
    "alignment": 2,
}
_PEERS = {
    "sft": ("trl", "datasets"),
    "alignment": ("trl", "datasets"),
}  # races that can't be run without


def _kernel_tests():
    """The tests that need a GPU: those files of tests/ that hold the mark."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    files = [str(f.relative_to(ROOT)) for f in found if "pytest.mark.gpu" in f.read_text("utf-8")]
    options = ("-q", "-m", "gpu", "-o", "addopts=--strict-markers", "-p", "no:cacheprovider")
    command = (sys.executable, "-m", "pytest", *options, "--junitxml", "{out}/tests.xml", *files)
    return Step("tests: kernels", 4, command, _read_tests, modules=("pytest",), files=("tests",))


def _chapters(llmbook, smoke):
    """A step for each chapter at profile `gpu`, then each under a T4's rules."""
    notebooks = chapters(ROOT) if (ROOT / "_toc.yml").is_file() else []
    profile = "smoke" if smoke else "gpu"
    for rules, env in (("", ()), (" (T4 rules)", (("LLMBOOK_DEVICE_PROFILE", "t4"),))):
        for notebook in notebooks:
            yield Step(
                f"chapter: {notebook.stem}{rules}",
                4,
                (*llmbook, "run", notebook.stem, "--profile", profile, "--force"),
                lambda folder, name=notebook.stem: _read_chapter(name, profile),
                modules=NOTEBOOK_PACKAGES,
                env=env,
            )


def _read_tests(folder):
    cases = list(ElementTree.parse(folder / "tests.xml").iter("testcase"))
    bad = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [c for c in cases if c.find("skipped") is not None]
    return {
        "passed": len(cases) - len(bad) - len(skipped),
        "failed": [f"{c.get('classname')}.{c.get('name')}" for c in bad],
        "skipped": sorted({c.find("skipped").get("message", "") for c in skipped}),
    }


def _read_race(folder):
    return json.loads((folder / "race.json").read_text("utf-8"))


def _read_card(folder):
    return json.loads((folder / "run" / "model" / "card.json").read_text("utf-8"))


def _read_chapter(name, profile):
    copies = (ROOT / "_build" / "executed").glob(f"{name}.{profile}.*.ipynb")
    newest = max(copies, key=lambda copy: copy.stat().st_mtime)  # of a run that failed, perhaps
    return json.loads(newest.read_text("utf-8"))["metadata"]["llmbook"]  # which has none of these


# --- one call


def run(options):
    """Run what fits the minutes; returns the records, which OUT/records.json holds as well.

    Raises ValueError for a state that belongs to other code, or to another machine.
    """
    begin = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    records = facts(options.commit, options.smoke)
    if options.state is not None and (options.state / "records.json").is_file():
        earlier = read(options.state / "records.json")
        for name in ("smoke", "hardware", "commit", "kernels"):
            if earlier[name] != records[name]:
                raise ValueError(
                    f"--state must hold records of this code and machine: its {name} is "
                    f"{earlier[name]!r}, here it is {records[name]!r}"
                )
        records["steps"] = earlier["steps"]
    write(options.out, records)
    with tempfile.TemporaryDirectory() as temporary:
        env = _environment(options, Path(temporary))
        for step in ordered(chosen(options), records["steps"]):
            left = 60 * options.minutes - (time.monotonic() - begin) - MARGIN
            lacking = step.missing(options.data)
            if lacking:
                records["steps"][step.name] = {"state": "missing", "needs": lacking}
                print(f"{step.name}: not run, it needs {', '.join(lacking)}")
            elif left < 60 * step.minutes:
                print(f"{step.name}: not begun, {left:.0f} s left of {60 * step.minutes:.0f}")
                continue
            else:
                records["steps"][step.name] = {"state": "begun"}
                write(options.out, records)
                print(f"{step.name}: begun, {left:.0f} s left", flush=True)
                done = perform(step, Path(temporary), env, left)
                records["steps"][step.name] = done
                print(f"{step.name}: {done['state']}, {done['seconds']:.0f} s", flush=True)
            write(options.out, records)
    return records


def chosen(options):
    """The steps that `--only` names, or all. Raises ValueError for a name that no step has."""
    listed = steps(options.smoke, options.nanogpt)
    if not options.only:
        return listed
    for name in options.only:
        if not any(step.name.startswith(name) for step in listed):
            names = ", ".join(step.name for step in listed)
            raise ValueError(f"--only must begin a step's name, one of {names}: got {name!r}")
    return [step for step in listed if step.name.startswith(tuple(options.only))]


def ordered(listed, seen):
    """The steps still to do: those never begun, then those that broke off."""
    state = {step.name: seen.get(step.name, {}).get("state") for step in listed}
    open_ = [step for step in listed if state[step.name] not in DONE]
    return sorted(open_, key=lambda step: state[step.name] in ("begun", "timed out"))


def perform(step, temporary, env, seconds):
    """Run one step for at most `seconds`; returns its record. Never raises for what it does."""
    out = Path(tempfile.mkdtemp(dir=temporary))
    command = [str(word).replace("{out}", str(out)) for word in step.command]
    shown = [str(word).replace("{out}", "OUT") for word in step.command]
    shown[0] = "python"
    record = {
        "command": shlex.join(shown),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    begin, log = time.monotonic(), out / "log.txt"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**env, **dict(step.env)},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=seconds)
            record["state"] = "passed" if status == 0 else "failed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children too: kernels, workers
            process.wait()
            record["state"] = "timed out"
    record["seconds"] = round(time.monotonic() - begin, 1)
    record["output"] = log.read_text("utf-8", errors="replace")[-KEPT:]
    try:
        record["result"] = step.reads(out)
    except (OSError, ValueError, KeyError, ElementTree.ParseError) as error:
        if record["state"] == "passed":
            record["state"] = "failed"
        record["result"] = None
        record["unread"] = f"{type(error).__name__}: {error}"
    return record


def facts(commit=None, smoke=False):
    """What a record says of itself: hardware, versions, commit, and which kernels it is of."""
    import torch

    gpu = torch.cuda.is_available()
    versions = provenance.versions("cuda" if gpu else "cpu")
    for name in ("triton", "transformers"):
        if importlib.util.find_spec(name):
            versions[name] = importlib.metadata.version(name)
    return {
        "format": FORMAT,
        "smoke": smoke,
        "hardware": provenance.hardware("cuda" if gpu else "cpu"),
        "capability": list(torch.cuda.get_device_capability(0)) if gpu else None,
        "versions": versions,
        "commit": commit or provenance.commit(),
        "kernels": kernels(),
        "steps": {},
    }


def kernels(root=ROOT):
    """sha256 over the sources of the kernels: results of others are not these kernels' results."""
    digest = hashlib.sha256()
    for file in sorted((root / "llmbook" / "kernels").glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def write(folder, records):
    """records.json, whole at any moment."""
    content = (json.dumps(records, indent=1, ensure_ascii=False) + "\n").encode()
    write_atomically(folder / "records.json", content)


def read(file):
    """The content of a records.json. Raises ValueError for what is none."""
    try:
        records = json.loads(Path(file).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} must be a records.json: {error}") from error
    if not isinstance(records, dict) or records.get("format") != FORMAT:
        raise ValueError(f"{file} must be of format {FORMAT}, as `llmbook gpu` writes it")
    names = ("smoke", "hardware", "capability", "versions", "commit", "kernels", "steps")
    if lacking := [name for name in names if name not in records]:
        raise ValueError(f"{file} must be a whole records.json: it lacks {', '.join(lacking)}")
    return records


def _environment(options, temporary):
    """The environment of every step: the wheels' packages, the data, a cache of its own."""
    paths = [str(ROOT)]
    if options.wheels is not None:
        wheels = sorted(str(wheel) for wheel in options.wheels.glob("*.whl"))
        if not wheels:
            raise ValueError(f"--wheels must hold .whl files: there is none in {options.wheels}")
        site = temporary / "site"
        install = ("install", "-q", "--no-index", "--no-deps", "--target", str(site), *wheels)
        subprocess.run([sys.executable, "-m", "pip", *install], check=True)
        sys.path.insert(1, str(site))
        importlib.invalidate_caches()
        paths.append(str(site))
        print(f"{len(wheels)} wheels installed in a temporary folder")
    old = os.environ.get("PYTHONPATH")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *([old] if old else [])])}
    env |= {"LLMBOOK_CACHE": str(temporary / "cache"), "PYTHONUNBUFFERED": "1"}
    if options.data is not None:
        env["LLMBOOK_DATA"] = str(options.data.resolve())
    return env


# --- into the book


def take_in(file, target=RECORDED):
    """Put the results of a records.json into what the pages show; returns the steps' names.

    Raises ValueError for a file of another format, of tiny sizes, of other kernels than these, or
    that names no GPU. Steps that did not end are left out; what the book has of others stays.
    """
    records = read(file)
    if records["smoke"]:
        raise ValueError(f"{file} holds a trial at tiny sizes: its numbers are no results")
    if not records["capability"] or not records["hardware"]:
        raise ValueError(f"{file} must name a GPU: its hardware is {records['hardware']!r}")
    if records["kernels"] != kernels():
        raise ValueError(f"{file} is of other kernels than these: run `llmbook gpu` on this code")
    about = {n: records[n] for n in ("hardware", "capability", "versions", "commit", "kernels")}
    ended = {n: s | about for n, s in records["steps"].items() if s["state"] in DONE}
    if not ended:
        raise ValueError(f"{file} holds no step that ended")
    before = json.loads(target.read_text("utf-8")) if target.is_file() else {}
    content = (json.dumps(before | ended, indent=1, ensure_ascii=False) + "\n").encode()
    write_atomically(target, content)
    return list(ended)


def recorded(target=RECORDED):
    """What the book has of GPUs: {step: record}; records of older kernels say so in "stale"."""
    if not target.is_file():
        return {}
    now = kernels()
    found = json.loads(target.read_text("utf-8"))
    return {name: r | {"stale": r["kernels"] != now} for name, r in found.items()}


def told(record):
    """A step's result in a line, for a page: what was counted, or how fast against whom."""
    result = record.get("result") or {}
    if "passed" in result:
        return f"{result['passed']} passed, {len(result['failed'])} failed"
    if "outcomes" in result:
        wrong = f"; {len(result['wrong'])} wrong" if result.get("wrong") else ""
        speeds = "; ".join(
            f"{one['case']}: {one['speed']['median']:.2f} of {one['peer']}'s speed"
            for one in result["outcomes"]
        )
        return (speeds or "no race was run") + wrong
    if "validation_curve" in result:
        steps, loss = result["validation_curve"][-1]
        return f"validation loss {loss:.4f} nats after {steps:,} steps, {result['seconds']:.0f} s"
    if "peak_memory_mb" in result:
        return f"{result['seconds']:.0f} s, {result['peak_memory_mb']:,} MB"
    return record["state"]


# --- the command line


def parser():
    """The options."""
    out = argparse.ArgumentParser(
        prog="python -m llmbook gpu",
        description="Run what only a GPU can show: tests, races, a training, the chapters.",
        epilog="Carry to a bare machine: the checkout without .git (llmbook, tests, chapters, "
        "_config.yml, _toc.yml, requirements.txt, pyproject.toml: about 22 MB), a folder with "
        "tinyshakespeare.txt (1 MB), and for the chapters a folder of wheels "
        f"({', '.join(NOTEBOOK_PACKAGES)} and what they need).",
    )
    add = out.add_argument
    add("--out", type=Path, metavar="FOLDER", help="where records.json is written")
    add("--minutes", type=float, default=8, help="time for this call (default: 8)")
    add("--state", type=Path, metavar="FOLDER", help="go on from the records.json in there")
    add("--data", type=Path, metavar="FOLDER", help="data sets (tinyshakespeare.txt)")
    add("--wheels", type=Path, metavar="FOLDER", help="packages that the machine lacks, as .whl")
    add("--only", nargs="+", metavar="NAME", help="steps whose names begin so (default: all)")
    add("--nanogpt", metavar="FOLDER", help="a checkout of nanoGPT, to race the training against")
    add("--commit", metavar="HASH", help="the code's commit, where there is no .git")
    add("--smoke", action="store_true", help="tiny sizes, any device: does the command work?")
    add("--list", action="store_true", help="the steps, their minutes, what is missing; runs none")
    add(
        "--import", dest="take", type=Path, metavar="FILE", help="put a records.json into the book"
    )
    return out


def main(argv=None):
    """0 when every step that was run passed, 1 when one did not, 2 for bad input."""
    options = parser().parse_args(argv)
    if not options.minutes > 0:
        parser().error(f"--minutes must be above 0: got {options.minutes}")
    for name in ("state", "data", "wheels"):
        folder = getattr(options, name)
        if folder is not None and not folder.is_dir():
            parser().error(f"--{name} must be a folder: got {folder}")
    if options.out is not None and options.out.is_file():
        parser().error(f"--out must be a folder: got the file {options.out}")
    try:
        if options.take is not None:
            print("\n".join(take_in(options.take)))
            return 0
        if options.list:
            print(table(chosen(options), options.data))
            return 0
        if options.out is None:
            parser().error("--out must name a folder for records.json")
        records = run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    states = [step["state"] for step in records["steps"].values()]
    print(f"{options.out / 'records.json'}: " + ", ".join(states_told(states)))
    return 1 if set(states) & {"failed", "timed out"} else 0


def states_told(states):
    """How many steps are in which state, as words."""
    return [f"{states.count(s)} {s}" for s in dict.fromkeys(states)] or ["no step was run"]


def table(listed, data):
    """The steps as a table: minutes, and what this machine lacks."""
    rows = [f"{'minutes':>7}  {'step':40} needs"]
    for step in listed:
        lacking = ", ".join(step.missing(data))
        rows.append(f"{step.minutes:7.0f}  {step.name:40} {lacking or 'nothing more'}")
    total = sum(step.minutes for step in listed if not step.missing(data))
    return "\n".join([*rows, f"{total:7.0f}  minutes for what can run here"])


if __name__ == "__main__":
    sys.exit(main())
