"""Calibration: what a chapter's trained claims measure over several seeds, recorded.

`python -m llmbook calibrate CHAPTER` executes the chapter once per seed, again only where the last
execution of that seed used something that changed (`--list` says which, and why), and writes
`llmbook/book/recorded/<chapter>.json`: the values of every claim that has bounds, with hardware,
versions, seeds, command, date and commit. A record whose values came out again stays as it is: the
chapter reads it, and would be stale at once. One that names a changed commit ("-dirty") is written
again from a clean one.
"""

import argparse
import datetime
import json
from pathlib import Path

from llmbook import provenance
from llmbook.book.chapter import RUN_MIME
from llmbook.book.claims import CLAIM_MIME, is_record, parse_bound
from llmbook.book.copies import job_of
from llmbook.book.execute import ExecutionFailed, execute_jobs
from llmbook.book.root import chapters, find_chapter, find_root, outputs_with, read_notebook
from llmbook.book.run import listed
from llmbook.data.folders import write_json

LEAST_SEEDS = 5


def margin_problem(values, bound):
    """Why a bound is too near to recorded values, or "" when it is not.

    A bound lies outside the recorded spread by at least the spread's width: for `">= t"`,
    min(values) - t >= max(values) - min(values).
    """
    relation, limit = parse_bound(bound)
    width = max(values) - min(values)
    room = min(values) - limit if relation in (">=", ">") else limit - max(values)
    if room < width or (relation in (">", "<") and room <= 0):
        return (
            f"bound {bound} is {room:.4g} from the recorded values {values}, "
            f"whose spread is {width:.4g}"
        )
    return ""


def collect(executed):
    """{claim id: {name: [values over the copies]}} and {claim id: bounds}, of bounded claims."""
    values, bounds = {}, {}
    for path in executed:
        for record in outputs_with(read_notebook(path), CLAIM_MIME):
            if record["bounds"]:
                bounds[record["id"]] = record["bounds"]
                row = values.setdefault(record["id"], {})
                for name, value in record["measured"]:
                    values_here = value if isinstance(value, list) else [value]
                    if is_record(name):  # the same in each copy
                        row[name] = values_here
                    else:
                        row.setdefault(name, []).extend(values_here)
    return values, bounds


def calibrate(notebook, seeds, profile="quick"):
    """Execute a chapter once per seed, write the record where a value changed.

    Returns its path, whether it was written, and the margin problems.
    """
    if len(set(seeds)) < LEAST_SEEDS:
        raise ValueError(f"seeds must be at least {LEAST_SEEDS} different ones: got {seeds}")
    root, notebook = find_root(Path(notebook).parent), Path(notebook)
    commit = provenance.commit(root)
    jobs = [job_of(notebook, profile, seed) for seed in seeds]
    executed = execute_jobs(jobs)
    values, bounds = collect(executed)
    run = outputs_with(read_notebook(executed[0]), RUN_MIME)[0]
    record = {
        "_run": {
            "hardware": run["device"],
            "versions": run["versions"],
            "profile": profile,
            "seeds": list(seeds),
            "command": provenance.command_line(
                "calibrate", notebook.stem, "--profile", profile, "--seeds", *seeds
            ),
            "date": datetime.date.today().isoformat(),
            "commit": commit,
        },
        **values,
    }
    target = record_of(root, notebook)
    before = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    told = before.pop("_run", {})
    same = before == values and all(told.get(k) == record["_run"][k] for k in ("seeds", "profile"))
    # From a clean commit it may be repeated by anyone: worth a chapter's being executed again.
    same = same and (provenance.is_clean(told["commit"]) or not provenance.is_clean(commit))
    if not same:
        write_json(target, record)
    problems = [
        f"{id}, {name}: {problem}"
        for id, named in bounds.items()
        for name, bound in named.items()
        if (problem := margin_problem(values[id][name], bound))
    ]
    return target, not same, problems


def record_of(root, notebook):
    """Where a chapter's spread is recorded."""
    return root / "llmbook" / "book" / "recorded" / f"{notebook.stem}.json"


def calibrated():
    """The chapters that have a record."""
    return [path for path in chapters() if record_of(find_root(), path).is_file()]


def main(argv=None):
    """`python -m llmbook calibrate`: record the spread; exit 1 when a bound is too near to it."""
    parser = argparse.ArgumentParser(
        prog="python -m llmbook calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "chapter", nargs="*", help="chapters' names (default: all that have a record)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=list(range(1, LEAST_SEEDS + 1)),
        help=f"at least {LEAST_SEEDS}, which run side by side (default: 1 to {LEAST_SEEDS})",
    )
    parser.add_argument("--profile", default="quick", choices=["smoke", "quick", "gpu", "full"])
    parser.add_argument(
        "--list", action="store_true", help="execute nothing: say which seeds would run, and why"
    )
    args = parser.parse_args(argv)
    status = 0
    try:
        notebooks = [find_chapter(name) for name in args.chapter] or calibrated()
        if args.list:
            for seed in args.seeds:
                print(f"seed {seed}:\n{listed(notebooks, args.profile, seed)}")
            return 0
        for notebook in notebooks:
            target, written, problems = calibrate(notebook, args.seeds, args.profile)
            print(f"recorded in {target}" if written else f"{target} came out again")
            for line in problems or ["every bound lies outside the spread by at least its width"]:
                print(f"  {line}")
            status = 1 if problems else status
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    except ExecutionFailed as error:
        print(error)
        return 1
    return status
