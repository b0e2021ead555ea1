"""`python -m llmbook run`: execute chapters, or say which would be executed and why."""

import argparse
from pathlib import Path

from llmbook.book.chapter import PROFILES
from llmbook.book.copies import Tree, job_of, valid_copy, why_stale
from llmbook.book.execute import ExecutionFailed, budget, ensure_executed
from llmbook.book.root import chapters, find_chapter, find_root, read_notebook


def summary(paths):
    """A table of executed copies: seconds by the clock, of a core beside its budget, memory."""
    heads = ("seconds", "of a core", "budget", "peak MB")
    lines = [f"{'chapter':26}{'profile':>9}" + "".join(f"{h:>11}" for h in heads) + "  device"]
    sums = [0.0, 0.0, 0.0]
    allowed = budget(find_root())
    for path in map(Path, paths):
        told, name = read_notebook(path)["metadata"]["llmbook"], path.name.split(".")[0]
        row = [told["seconds"], told["cpu_seconds"], allowed.get(name, 0)]
        sums = [a + b for a, b in zip(sums, row, strict=True)]
        lines.append(
            f"{name:26}{told['profile']:>9}"
            + "".join(f"{value:>11.0f}" for value in row)
            + f"{told['peak_memory_mb']:>11}  {told['device']}"
        )
    return "\n".join([*lines, f"{'all':26}{'':>9}" + "".join(f"{s:>11.0f}" for s in sums)])


def listed(notebooks, profile, seed):
    """Which notebooks would be executed, and why: one line each."""
    lines, trees = [], {}
    for job in [job_of(notebook, profile, seed) for notebook in notebooks]:
        tree = trees.setdefault(job.root, Tree(job.root))
        why = why_stale(job, tree)
        lines.append(f"{job.notebook.stem:26}{f'would run: {why}' if why else 'up to date'}")
    return "\n".join(lines)


def main(argv=None):
    """`python -m llmbook run`: execute chapters, tell time and memory, exit 1 when one fails."""
    parser = argparse.ArgumentParser(
        prog="python -m llmbook run",
        description="Execute chapters through papermill, side by side. A chapter runs again only "
        "when something changed of what its last execution used.",
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
    parser.add_argument(
        "--list", action="store_true", help="execute nothing: say which would run, and why"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        help="how many run at a time (default: LLMBOOK_JOBS, or one for each core; one on a GPU)",
    )
    args = parser.parse_args(argv)
    try:
        notebooks = [find_chapter(name) for name in args.chapter] or chapters()
        if args.list:
            print(listed(notebooks, args.profile, args.seed))
            return 0
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    status = 0
    try:
        ensure_executed(notebooks, args.profile, args.seed, force=args.force, at_once=args.jobs)
    except ExecutionFailed as error:
        print(f"\n{error}")
        status = 1
    except ValueError as error:
        parser.error(str(error))
    there = [valid_copy(job_of(n, args.profile, args.seed)) for n in notebooks]
    print("\n" + summary([path for path in there if path]))
    return status
