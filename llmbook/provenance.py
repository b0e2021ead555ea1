"""What a recorded result says of itself: hardware, versions, threads, date, commit, command."""

import datetime
import functools
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import torch

import llmbook

PACKAGE = Path(llmbook.__file__).parent


def machine(device="cpu"):
    """{"hardware", "versions", "threads", "date", "commit"} of this process, JSON-able.

    versions: a table, see `versions`. date: now, in UTC, to the second. Ask before anything that
    is written changes the checkout: the commit tells whether it was clean.
    """
    now = datetime.datetime.now(datetime.UTC)
    return {
        "hardware": hardware(device),
        "versions": versions(device),
        "threads": torch.get_num_threads(),
        "date": now.isoformat(timespec="seconds"),
        "commit": commit(),
    }


def hardware(device="cpu"):
    """The GPU's name, or the processor's and how many cores are seen."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def versions(device="cpu"):
    """{"llmbook": …, "python": …, "torch": …, "numpy": …}; CUDA's and cuDNN's on a GPU."""
    import numpy

    found = {
        "llmbook": llmbook.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }
    if torch.device(device).type == "cuda":
        found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    return found


def in_words(versions):
    """Versions in one line: `llmbook 0.1.0, python 3.12.3, torch 2.13.0`."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def commit(folder=PACKAGE):
    """The commit that a folder belongs to, 40 digits; "-dirty" behind it when the tree differs.

    It differs when a tracked file anywhere was changed, or when the folder has a file that is
    neither tracked nor ignored. "unknown" without git, or outside of a checkout.
    """
    head = _git(folder, "rev-parse", "HEAD")
    tracked = _git(folder, "ls-files", ".")
    if not head or not tracked:  # a package installed into some other project's checkout
        return "unknown"
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    added = _git(folder, "ls-files", "--others", "--exclude-standard", ".")
    return f"{head}-dirty" if changed or added else head


def is_clean(commit):
    """Can what was recorded there be repeated: a commit that is known, with nothing changed?"""
    return commit != "unknown" and not commit.endswith("-dirty")


def command_line(*words):
    """`python -m llmbook …` as a shell takes it."""
    return shlex.join(["python", "-m", "llmbook", *map(str, words)])


def _git(folder, *words):
    """What git answers, without the line's end; None where it can't."""
    git = shutil.which("git")
    if git is None:
        return None
    answer = subprocess.run(
        [git, "-C", str(folder), *words], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() if answer.returncode == 0 else None


@functools.cache
def _cpu_name():
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {os.cpu_count()} cores seen"
