"""Calibration: what a chapter's trained claims measure over several seeds, recorded.

`python -m llmbook calibrate CHAPTER` executes the chapter once per seed and writes
`llmbook/book/recorded/<chapter>.json`: the values of every claim that has bounds, with hardware,
versions, seeds, command, date and commit.
"""

import argparse
import datetime
from pathlib import Path

from llmbook import provenance
from llmbook.book.chapter import RUN_MIME
from llmbook.book.claims import CLAIM_MIME, is_record, parse_bound
from llmbook.book.copies import job_of
from llmbook.book.execute import ExecutionFailed, execute_jobs
from llmbook.book.root import find_chapter, find_root, outputs_with, read_notebook
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
    """Execute a chapter once per seed, write the record; its path, and the margin problems."""
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
    target = root / "llmbook" / "book" / "recorded" / f"{notebook.stem}.json"
    write_json(target, record)
    problems = [
        f"{id}, {name}: {problem}"
        for id, named in bounds.items()
        for name, bound in named.items()
        if (problem := margin_problem(values[id][name], bound))
    ]
    return target, problems


def main(argv=None):
    """`python -m llmbook calibrate`: record the spread; exit 1 when a bound is too near to it."""
    parser = argparse.ArgumentParser(
        prog="python -m llmbook calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("chapter", help="a chapter's name")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=list(range(1, LEAST_SEEDS + 1)),
        help=f"at least {LEAST_SEEDS}, which run side by side (default: 1 to {LEAST_SEEDS})",
    )
    parser.add_argument("--profile", default="quick", choices=["smoke", "quick", "gpu", "full"])
    args = parser.parse_args(argv)
    try:
        target, problems = calibrate(find_chapter(args.chapter), args.seeds, args.profile)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    except ExecutionFailed as error:
        print(error)
        return 1
    print(f"recorded in {target}")
    print(
        "\n".join(problems) or "every bound lies outside the recorded spread by at least its width"
    )
    return 1 if problems else 0
