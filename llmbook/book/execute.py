"""Execution of chapters through papermill, side by side: one for each core, with one thread.

Each (notebook, profile, seed) has one executed copy in `_build/executed/`, and is executed again
only when something changed of what it was made of (`copies.py`). The pages, the Claims and Status
pages, the browser tests, calibration and grading all read the copies.
"""

import contextlib
import datetime
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

from llmbook.book import usage, worker
from llmbook.book.chapter import PROFILES, RUN_MIME
from llmbook.book.copies import (
    Tree,
    copies,
    failed_path,
    hash_of,
    job_of,
    last_run,
    made_of,
    valid_copy,
)
from llmbook.book.root import joined, outputs_with, read_notebook, with_ids
from llmbook.checks import one_of, whole
from llmbook.data import resolve_folders

CELL_TIMEOUT = {"smoke": 300, "quick": 600, "gpu": 7200, "full": 86400}  # seconds
TICK_S = 0.2  # between two looks at what runs: memory is measured so often
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1"
)
_HIDDEN = ("llmbook-usage-begin", "llmbook-usage-end")  # ids of the two cells around a chapter


class ExecutionFailed(RuntimeError):
    """One or more chapters did not run to the end; the message names them and the first error.

    `failures` holds the error of each, by its job.
    """

    def __init__(self, message, failures):
        super().__init__(message)
        self.failures = failures


def ensure_executed(notebooks, profile="quick", seed=0, *, force=False, at_once=None):
    """Executed copies of the notebooks, made where they are missing; progress is printed.

    Every notebook is tried. Raises ExecutionFailed afterwards when one or more failed.
    """
    one_of("profile", profile, PROFILES)
    jobs = [job_of(notebook, profile, seed) for notebook in notebooks]
    return execute_jobs(jobs, force=force, at_once=at_once)


def executed_path(notebook, profile="quick", seed=0):
    """The valid executed copy of a notebook, or a path where there is none. Executes nothing."""
    job = job_of(notebook, profile, seed)
    return valid_copy(job) or job.folder / f"{job.name}.none.ipynb"


def execute_jobs(jobs, *, force=False, at_once=None):
    """The executed copy of each job, in order; see `ensure_executed`."""
    if at_once is not None:
        whole("at_once", at_once, least=1)
    resolve_folders()  # a chapter runs in its own folder; LLMBOOK_DATA may be relative to this one
    with _Session(jobs, force, at_once or how_many(jobs)) as session:
        done, failures = session.run()
    if failures:
        first = str(next(iter(failures.values()))).strip().splitlines()
        names = ", ".join(_short(job, jobs) for job in failures)
        raise ExecutionFailed(
            f"{len(failures)} of {len(session.jobs)} chapters failed: {names}. "
            f"The first error: {first[-1] if first else 'unknown'}. "
            f"What ran before it is in _build/executed/*.failed.ipynb",
            failures,
        )
    return [done[job] for job in jobs]


def how_many(jobs):
    """How many of them run at a time: one for each core, and one where they share a GPU.

    `LLMBOOK_JOBS` replaces the number of cores.
    """
    if _on_gpu(jobs):
        return 1
    if given := os.environ.get("LLMBOOK_JOBS", "").strip():
        if not given.isdigit() or int(given) < 1:
            raise ValueError(f"LLMBOOK_JOBS must be a whole number of at least 1: got {given!r}")
        return int(given)
    with contextlib.suppress(AttributeError):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _on_gpu(jobs):
    return any(job.profile in ("gpu", "full") for job in jobs)


class _Session:
    """Jobs on their way: which wait, which run on which worker, which are done."""

    def __init__(self, jobs, force, at_once):
        import psutil

        self.jobs, self.force = list(dict.fromkeys(jobs)), force
        self.past = {job: expected(job) for job in self.jobs}
        # The longest first: what is left at the end is short, and all cores are busy until then.
        self.waiting = sorted(self.jobs, key=lambda job: -self.past[job]["cpu_seconds"])
        env = os.environ | ({} if _on_gpu(jobs) else ONE_THREAD)
        self.workers = [_Worker(psutil, env) for _ in range(min(at_once, len(self.jobs)))]
        self.done, self.failures, self.begun, self._said = {}, {}, 0, set()
        self._available = lambda: psutil.virtual_memory().available / 1e6

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for each in self.workers:
            each.stop()

    def run(self):
        """Execute what has no valid copy; ({job: copy}, {job: error})."""
        if not self.force:
            self._take_what_is_there()
        self.to_run = len(self.waiting)
        while self.waiting or self._running():
            self._start_what_may_start()
            for each in self._running():
                if (error := each.ended()) is not None:
                    self._end(each, error)
            time.sleep(TICK_S)
        return self.done, self.failures

    def _running(self):
        return [each for each in self.workers if each.job]

    def _take_what_is_there(self):
        trees = {}
        for job in self.jobs:
            if copy := valid_copy(job, trees.setdefault(job.root, Tree(job.root))):
                self.done[job] = copy
                self.waiting.remove(job)

    def _start_what_may_start(self):
        for job in list(self.waiting):
            idle = next((each for each in self.workers if not each.job), None)
            if idle is None or (self._running() and not self._fits(job)):
                return
            lock = _lock(job)
            if lock is None:  # another process is at this chapter: take it up again later
                if job not in self._said:
                    print(f"{job}: another process is at it", flush=True)
                self._said.add(job)
                continue
            self.waiting.remove(job)
            tree = Tree(job.root)
            if (copy := valid_copy(job, tree)) and not self.force:
                self.done[job] = copy
                lock.release()
                continue
            self.begun += 1
            idle.start(job, tree, lock, f"[{self.begun}/{self.to_run}] {job}")
            print(f"{idle.says}: executing", flush=True)

    def _fits(self, job):
        """Whether there is memory for one more, once those that run have come to their peak."""
        growth = sum(
            max(0, self.past[e.job]["peak_memory_mb"] - e.now_mb) for e in self._running()
        )
        return self._available() - growth > 1.2 * self.past[job]["peak_memory_mb"]

    def _end(self, each, error):
        job, says = each.job, each.says
        try:
            if error:
                raise RuntimeError(error)
            self.done[job] = each.finish()
        except Exception as failure:
            self.failures[job] = failure
            each.keep_failed()
            print(f"{says}: FAILED\n{failure}", flush=True)
        else:
            told = read_notebook(self.done[job])["metadata"]["llmbook"]
            print(f"{says}: {told['seconds']:.0f} s, {told['peak_memory_mb']} MB", end="")
            print(self._what_is_left(each), flush=True)
        each.free()

    def _what_is_left(self, ended):
        running = [e.job.notebook.stem for e in self._running() if e is not ended]
        parts = [f"running: {', '.join(running)}"] if running else []
        parts += [f"{len(self.waiting)} wait"] if self.waiting else []
        return f" ({'; '.join(parts)})" if parts else ""


def _lock(job):
    """The job's lock, held, or None where another process holds it (dead ones hold none)."""
    import filelock

    job.folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(job.folder / f"{job.name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return None
    return lock


class _Worker:
    """One process of `worker.py`, and the job that it is at."""

    def __init__(self, psutil, env):
        self._psutil, self._env = psutil, env
        self._process, self.job = None, None

    def start(self, job, tree, lock, says):
        """Give it a job; the process is started where there is none."""
        self.job, self._tree, self._lock, self.says = job, tree, lock, says
        self._begin, self.now_mb, self.peak_mb, self._cpu = time.monotonic(), 0.0, 0.0, {}
        for left in job.folder.glob(f"{job.name}.*.part.ipynb"):  # by a run that was killed
            left.unlink()
        self._part = job.folder / f"{job.name}.{os.getpid()}.part.ipynb"
        if self._process is None or self._process.poll() is not None:
            self._launch()
        try:
            tree.look_at_everything(job.notebook)
            _write(self._part, prepared(read_notebook(job.notebook), job.root))
            order = {
                "notebook": str(self._part),
                "parameters": {"profile": job.profile, "seed": job.seed},
                "folder": str(job.notebook.parent),
                "timeout": CELL_TIMEOUT[job.profile],
            }
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            self._answers.put(json.dumps({"error": str(error)}))

    def _launch(self):
        self._process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=self._env,
            start_new_session=True,  # an interrupt comes to us, and we end it
        )
        self._answers = queue.SimpleQueue()
        listening = threading.Thread(
            target=_listen, args=(self._process.stdout, self._answers), daemon=True
        )
        listening.start()

    def ended(self):
        """The error with which the job ended, "" for none, or None while it runs."""
        self._measure()
        try:
            return json.loads(self._answers.get_nowait()).get("error", "")
        except queue.Empty:
            return None

    def _measure(self):
        """Note the memory and the processor time of the worker's process and all below it."""
        total = 0
        with contextlib.suppress(self._psutil.Error):
            for process in self._psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(self._psutil.Error):
                    total += process.memory_info().rss
                    times = process.cpu_times()
                    self._cpu[process.pid] = times.user + times.system
        self.now_mb = total / 1e6
        self.peak_mb = max(self.peak_mb, self.now_mb)

    def finish(self):
        """Write into the copy what it was made of and how it ran, and put it into its place."""
        job, notebook = self.job, read_notebook(self._part)
        used = (outputs_with(notebook, usage.MIME) or [None])[-1]
        made = made_of(used, self._tree)
        notebook["cells"] = [c for c in notebook["cells"] if c.get("id") not in _HIDDEN]
        for cell in notebook["cells"]:
            if "outputs" in cell:
                cell["outputs"] = joined(cell["outputs"])
            if "injected-parameters" in cell["metadata"].get("tags", []):
                cell["metadata"]["tags"].append("remove-cell")
        run = (outputs_with(notebook, RUN_MIME) or [{}])[0]
        notebook["metadata"]["llmbook"] = {
            "profile": job.profile,
            "seconds": round(time.monotonic() - self._begin, 1),
            "cpu_seconds": round(sum(self._cpu.values()), 1),
            "peak_memory_mb": round(self.peak_mb),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "device": run.get("device", ""),
            "threads": run.get("threads"),
            "versions": run.get("versions", {}),
            "unseen": used["unseen"] if used else ["nothing was recorded"],
            "made_of": made,
        }
        _write(self._part, notebook)
        target = job.folder / f"{job.name}.{hash_of(made)}.ipynb"
        self._part.replace(target)
        for old in [failed_path(job), *(copy for copy in copies(job) if copy != target)]:
            old.unlink(missing_ok=True)
        return target

    def keep_failed(self):
        """Keep what ran before an error, beside the copies."""
        if self._part.exists():
            self._part.replace(failed_path(self.job))

    def free(self):
        """Let go of the job: the worker may have another."""
        self._lock.release()
        self.job = None

    def stop(self):
        """End the process; a job that it is still at is left undone."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()
        if self.job:
            self._part.unlink(missing_ok=True)
            self.free()


def _listen(stream, answers):
    for line in stream:
        answers.put(line)
    answers.put(json.dumps({"error": "its process ended, as when memory runs out"}))


def expected(job):
    """What the job will cost: as last time, or as its budget says, or a guess."""
    past = last_run(job)
    seconds = past.get("seconds") or budget(job.root).get(job.notebook.stem, 60)
    cost = {"cpu_seconds": seconds, "peak_memory_mb": 1500}
    return cost | {name: past[name] for name in cost if past.get(name)}


def budget(root):
    """{chapter: seconds of one core that it may take at `quick`}, from `chapters/budget.json`."""
    file = root / "chapters" / "budget.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def prepared(notebook, root):
    """The notebook with a cell before it and one after it that record what it uses of the book."""
    recorder = Path(usage.__file__).read_text(encoding="utf-8")
    begin = _code_cell(
        _HIDDEN[0],
        f"_llmbook_usage = {{}}\nexec({recorder!r}, _llmbook_usage)\n"
        f"_llmbook_usage = _llmbook_usage['Usage']({str(root)!r})",
    )
    end = _code_cell(_HIDDEN[1], "_llmbook_usage.publish()")
    named = with_ids(notebook)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {
        "cells": [begin, *named["cells"], end],
        "metadata": {**named.get("metadata", {}), "kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _code_cell(id, source):
    empty = {"metadata": {}, "execution_count": None, "outputs": []}
    return {"cell_type": "code", "id": id, "source": source, **empty}


def _write(path, notebook):
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False), encoding="utf-8")


def _short(job, jobs):
    seeds = len({other.seed for other in jobs}) > 1
    return f"{job.notebook.stem} (seed {job.seed})" if seeds else job.notebook.stem
