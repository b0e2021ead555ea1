"""How long two checkouts of the book take to build, in one run: from nothing, and after an edit.

    python tests/helpers/paired_builds.py OLD NEW [--edit llmbook/figures/tiles.py]

In each folder the README's first command is timed without the installing, then an edit of one file
(a comment at its end, taken back afterwards) until the pages are built again. Seconds by the clock
and of processors are shown, and the ratios old / new. Both use the Python that runs this, and each
its own package. Give it a quiet machine: nothing else should use the cores.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from llmbook.book.pdf import BUILD

OPTIONS = ("build", "-W", "-n", "--keep-going", ".")


def timed_build(root):
    """(seconds by the clock, seconds of processors) of one build; its output where it fails."""
    begin, used = time.monotonic(), _used()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, *OPTIONS],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{root}: the build failed\n{done.stdout[-3000:]}")
    return time.monotonic() - begin, _used() - used


def _used():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def measure(root, edit):
    """{what was built: its times}, from nothing and after the edit; the web files stay."""
    for part in ("executed", "html", ".doctrees", "jupyter_execute"):
        shutil.rmtree(root / "_build" / part, ignore_errors=True)
    times = {"from nothing": timed_build(root), "nothing changed": timed_build(root)}
    file = root / edit
    before = file.read_bytes()
    try:
        file.write_bytes(before + b"\n# edited\n")
        times[f"{edit} edited"] = timed_build(root)
    finally:
        file.write_bytes(before)
    return times


def main():
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--edit", default="llmbook/figures/tiles.py")
    args = parser.parse_args()
    old, new = (measure(root.resolve(), args.edit) for root in (args.old, args.new))
    print(f"{'':36}{'old':>20}{'new':>20}{'old / new':>12}")
    for what in old:
        clock = f"{old[what][0] / new[what][0]:.2f}"
        shown = [f"{wall:.0f} s, {cpu:.0f} s cpu" for wall, cpu in (old[what], new[what])]
        print(f"{what:36}" + "".join(f"{one:>20}" for one in shown) + f"{clock:>12}")


if __name__ == "__main__":
    main()
