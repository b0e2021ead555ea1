"""Execution of chapters through papermill: one executed copy per (notebook, package, profile).

The copies live in `_build/executed/`, each under a hash of what it was made from, so a change in
the notebook, in `llmbook/` or in `requirements.txt` makes a new one. The pages, the Claims and Status
pages, the browser tests, calibration and grading all read them.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import threading
import time
from pathlib import Path

from llmbook.book.chapter import PROFILES, RUN_MIME
from llmbook.book.root import chapters, find_chapter, find_root, outputs_with, read_notebook
from llmbook.data import resolve_folders

CELL_TIMEOUT = {"smoke": 300, "quick": 600, "gpu": 7200, "full": 86400}  # seconds


class ExecutionFailed(RuntimeError):
    """One or more chapters did not run to the end; the message names them and the first error."""


def _digest(notebook, profile, seed):
    """Hash of what an execution depends on; outputs of the notebook do not count."""
    root = find_root(notebook.parent)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    made_of = hashlib.sha256(
        json.dumps(
            [
                profile,
                seed,
                [
                    [cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])]
                    for cell in cells
                ],
            ]
        ).encode()
    )
    files = [root / "requirements.txt", *sorted((root / "llmbook").rglob("*"))]
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc":
            made_of.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return made_of.hexdigest()[:16]


def executed_path(notebook, profile="quick", seed=0):
    """Where the executed copy of a notebook lies, or would lie: nothing is executed."""
    notebook = Path(notebook).resolve()
    folder = find_root(notebook.parent) / "_build" / "executed"
    return (
        folder / f"{notebook.stem}.{profile}.seed{seed}.{_digest(notebook, profile, seed)}.ipynb"
    )


class _PeakMemory(threading.Thread):
    """Samples the memory of this process's children, five times a second: their largest sum in MB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.megabytes, self._over = 0.0, threading.Event()

    def run(self):
        import psutil

        me = psutil.Process()
        while not self._over.wait(0.2):
            total = 0
            for child in me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += child.memory_info().rss
            self.megabytes = max(self.megabytes, total / 1e6)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.join()


def _finish(path, profile, seconds, megabytes):
    """Write into the executed copy what the Status page tells, and hide papermill's own cell."""
    notebook = read_notebook(path)
    for cell in notebook["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["metadata"]["tags"].append("remove-cell")
    run = (outputs_with(notebook, RUN_MIME) or [{}])[0]
    notebook["metadata"]["llmbook"] = {
        "profile": profile,
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(megabytes),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": run.get("device", ""),
        "threads": run.get("threads"),
        "versions": run.get("versions", {}),
    }
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False), encoding="utf-8")


def _execute_one(notebook, profile, seed):
    """Execute one notebook into its place; a failed one is kept beside it as `.failed.ipynb`."""
    import papermill

    target = executed_path(notebook, profile, seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_suffix(f".{os.getpid()}.part.ipynb")
    mine = f"{notebook.stem}.{profile}.seed{seed}"
    failed = target.parent / f"{mine}.failed.ipynb"
    for left in target.parent.glob(
        f"{mine}.*.part.ipynb"
    ):  # by a run that was killed: the lock is ours
        left.unlink()
    begin = time.monotonic()
    try:
        with _PeakMemory() as memory:
            papermill.execute_notebook(
                str(notebook),
                str(work),
                parameters={"profile": profile, "seed": seed},
                cwd=str(notebook.parent),
                kernel_name="python3",
                progress_bar=False,
                execution_timeout=CELL_TIMEOUT[profile],
                log_output=False,
            )
        _finish(work, profile, time.monotonic() - begin, memory.megabytes)
    except BaseException:
        if work.exists():
            work.replace(failed)
        raise
    failed.unlink(missing_ok=True)
    for old in target.parent.glob(f"{mine}.*.ipynb"):
        if old not in (target, work):
            old.unlink(missing_ok=True)
    work.replace(target)
    return target


def ensure_executed(notebooks, profile="quick", seed=0, *, force=False):
    """Executed copies of the notebooks, made where they are missing; progress is printed.

    Every notebook is tried. Raises ExecutionFailed afterwards when one or more failed.
    """
    import filelock

    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}: got {profile!r}")
    resolve_folders()  # a chapter runs in its own folder, and LLMBOOK_DATA may be relative to this one
    notebooks = [Path(n).resolve() for n in notebooks]
    done, failures = [], {}
    for number, notebook in enumerate(notebooks, 1):
        target = executed_path(notebook, profile, seed)
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(target.parent / f"{notebook.stem}.{profile}.lock"):
            if target.is_file() and not force:
                done.append(target)
                continue
            say = f"[{number}/{len(notebooks)}] {notebook.stem}, profile {profile}, seed {seed}"
            print(f"{say}: executing", flush=True)
            try:
                done.append(_execute_one(notebook, profile, seed))
            except Exception as error:
                failures[notebook.stem] = error
                print(f"{say}: FAILED\n{error}", flush=True)
                continue
        told = read_notebook(target)["metadata"]["llmbook"]
        print(f"{say}: {told['seconds']:.0f} s, {told['peak_memory_mb']} MB", flush=True)
    if failures:
        first = str(next(iter(failures.values()))).strip().splitlines()
        raise ExecutionFailed(
            f"{len(failures)} of {len(notebooks)} chapters failed: {', '.join(failures)}. "
            f"The first error: {first[-1] if first else 'unknown'}. "
            f"What ran before it is in _build/executed/*.failed.ipynb"
        )
    return done


def summary(paths):
    """A table of executed copies: chapter, profile, seconds, peak memory."""
    lines = [f"{'chapter':24}{'profile':>9}{'seconds':>9}{'peak MB':>9}  device"]
    total = 0.0
    for path in paths:
        told = read_notebook(path)["metadata"]["llmbook"]
        total += told["seconds"]
        lines.append(
            f"{Path(path).name.split('.')[0]:24}{told['profile']:>9}{told['seconds']:>9.0f}"
            f"{told['peak_memory_mb']:>9}  {told['device']}"
        )
    return "\n".join([*lines, f"{'all':24}{'':>9}{total:>9.0f}"])


def main(argv=None):
    """`python -m llmbook run`: execute chapters, tell time and memory, exit 1 when one fails."""
    parser = argparse.ArgumentParser(
        prog="python -m llmbook run",
        description="Execute chapters through papermill. What has been executed already is not run again.",
    )
    parser.add_argument(
        "chapter", nargs="*", help="chapter names or notebook paths (default: all)"
    )
    parser.add_argument(
        "--profile",
        default="quick",
        choices=PROFILES,
        help="smoke: seconds, to check an environment; quick: two CPU cores, about a minute; "
        "gpu: a few minutes on a T4 or better; full: a large GPU (default: quick)",
    )
    parser.add_argument("--seed", type=int, default=0, help="the chapter's seed (default: 0)")
    parser.add_argument("--force", action="store_true", help="execute again what is already there")
    args = parser.parse_args(argv)
    try:
        notebooks = [find_chapter(name) for name in args.chapter] or chapters()
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    try:
        ensure_executed(notebooks, args.profile, args.seed, force=args.force)
    except ExecutionFailed as error:
        print(f"\n{error}")
        return 1
    finally:
        there = [
            p for n in notebooks if (p := executed_path(n, args.profile, args.seed)).is_file()
        ]
        print("\n" + summary(there))
    return 0
