"""How long two checkouts of the book take to build, in one run: from nothing, and after an edit.

    python tests/helpers/paired_builds.py OLD NEW [--edit llmbook/figures/tiles.py] [--chapters …]

In each folder the README's first command is timed without the installing, then an edit of one file
(a comment at its end, taken back afterwards) until the pages are built again. Seconds by the clock
and of processors are shown, and the ratios old / new. Both use the Python that runs this, and each
its own package. Give it a quiet machine: nothing else should use the cores.

A book that has grown takes longer for that reason alone. `--chapters` keeps the named notebooks
only, in each folder those that it has (`_toc.yml` is cut meanwhile): give what teaches the same in
both. Links to pages that were cut are dead then, so warnings do not count in either.
"""

import argparse
import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from llmbook.book.pdf import BUILD

STRICT = ("-W", "-n", "--keep-going")


def timed_build(root, options):
    """(seconds by the clock, seconds of processors) of one build; its output where it fails."""
    begin, used = time.monotonic(), _used()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, "build", *options, "."],
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


@contextlib.contextmanager
def changed(file, change):
    """The file with `change` made to its bytes, for the length of the block."""
    before = file.read_bytes()
    try:
        file.write_bytes(change(before))
        yield
    finally:
        file.write_bytes(before)


def only(root, chapters):
    """A table of contents without the notebooks that are not named, and what it keeps of them."""
    kept = []

    def cut(toc):
        lines = []
        for line in toc.decode().splitlines(keepends=True):
            name = re.match(r"\s*- file: (\S+)", line)
            if name and (root / f"{name.group(1)}.ipynb").is_file() and chapters:
                if name.group(1).rpartition("/")[2] not in chapters:
                    continue
                kept.append(name.group(1).rpartition("/")[2])
            lines.append(line)
        # a part that has lost all its chapters goes, too
        text = re.sub(
            r"  - caption: .*\n(    \w+: .*\n)*    chapters:\n(?!      )", "", "".join(lines)
        )
        return text.encode()

    return cut, kept


def measure(root, edit, chapters=()):
    """{what was built: its times}, from nothing and after the edit; the web files stay."""
    for part in ("executed", "html", ".doctrees", "jupyter_execute"):
        shutil.rmtree(root / "_build" / part, ignore_errors=True)
    cut, kept = only(root, chapters)
    options = () if chapters else STRICT
    with changed(root / "_toc.yml", cut):
        if chapters:
            print(f"{root}: {', '.join(kept)}", flush=True)
        times = {
            "from nothing": timed_build(root, options),
            "nothing changed": timed_build(root, options),
        }
        with changed(root / edit, lambda before: before + b"\n# edited\n"):
            times[f"{edit} edited"] = timed_build(root, options)
    return times


def main():
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--edit", default="llmbook/figures/tiles.py")
    parser.add_argument("--chapters", nargs="+", default=[], metavar="NAME")
    args = parser.parse_args()
    old, new = (measure(root.resolve(), args.edit, args.chapters) for root in (args.old, args.new))
    print(f"{'':36}{'old':>20}{'new':>20}{'old / new':>12}")
    for what in old:
        clock = f"{old[what][0] / new[what][0]:.2f}"
        shown = [f"{wall:.0f} s, {cpu:.0f} s cpu" for wall, cpu in (old[what], new[what])]
        print(f"{what:36}" + "".join(f"{one:>20}" for one in shown) + f"{clock:>12}")


if __name__ == "__main__":
    main()
