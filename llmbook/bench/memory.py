"""The peak of a process's memory: how far a piece of work raises it.

The kernel counts it (Linux alone), pages of files that are looked at included. It can be told only
of a whole process, and what a first use imports or builds would count: so a measurement is a
function that works once small, then in a `Peak`, and `in_fresh_process` calls it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

_CALL = """
import importlib, json, sys
module, name, arguments = sys.argv[1:]
print(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(arguments))))
"""


def is_told():
    """Whether this system tells a process's peak."""
    return Path("/proc/self/clear_refs").exists()


class Peak:
    """`with Peak() as peak: work()`; then `peak.bytes` is what the work took at its peak.

    Counted above what the process held before.
    """

    bytes = None

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak is counted from here
        self._before = _kilobytes("VmRSS")
        return self

    def __exit__(self, *_):
        self.bytes = 1024 * (_kilobytes("VmHWM") - self._before)


def in_fresh_process(function, *arguments, **environment):
    """What a module's function returns for these arguments, in a process of its own.

    Arguments and result are what JSON has.
    environment: variables for that process besides. Raises CalledProcessError where it fails.
    """
    command = [sys.executable, "-c", _CALL, function.__module__, function.__name__]
    done = subprocess.run(
        [*command, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return json.loads(done.stdout.splitlines()[-1])


def _kilobytes(what):
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1])
