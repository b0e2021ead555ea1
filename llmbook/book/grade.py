"""Grading: execute students' copies of chapters and list which exercises are right.

`python -m llmbook grade PATH…` takes a chapter's name, notebooks wherever they lie, or folders of
them; they run side by side. A notebook that stops with an error is graded by what ran before it.
"""

import argparse
import csv
import dataclasses
import io
import json
import re
from pathlib import Path

from llmbook.book.chapter import PROFILES
from llmbook.book.check import CHECK_MIME, exercises
from llmbook.book.copies import failed_path, job_of, valid_copy
from llmbook.book.execute import ExecutionFailed, execute_jobs
from llmbook.book.root import find_chapter, outputs_with, read_notebook

FIELDS = ("notebook", "exercise", "state", "hint")
_CHECKED = re.compile(r"""\bcheck\(\s*["'](\w+)/\w+["']""")


@dataclasses.dataclass(frozen=True)
class Grade:
    """One notebook: {exercise id: (state, hint)}, and the error with which it stopped, or ""."""

    notebook: Path
    answers: dict
    error: str = ""

    @property
    def right(self):
        """How many exercises are right."""
        return sum(state == "right" for state, _ in self.answers.values())


def grade(notebooks, profile="smoke"):
    """A `Grade` for each notebook. The last check of an exercise counts.

    Exercises of the chapter that the notebook never checked are "unanswered".
    """
    jobs = [job_of(notebook, profile) for notebook in notebooks]
    try:
        execute_jobs(jobs)
    except ExecutionFailed as error:
        failures = {job.notebook: str(why).strip() for job, why in error.failures.items()}
    else:
        failures = {}
    return [_grade(job, failures.get(job.notebook, "")) for job in jobs]


def _grade(job, error):
    copy = failed_path(job) if error else valid_copy(job)
    try:
        executed = read_notebook(copy)
    except (OSError, ValueError):  # it never began
        return Grade(job.notebook, {}, _last_line(error))
    found = {
        record["id"]: (record["state"], "" if record["state"] == "right" else record["message"])
        for record in outputs_with(executed, CHECK_MIME)
    }
    asked = _CHECKED.findall("\n".join("".join(cell["source"]) for cell in executed["cells"]))
    for chapter in dict.fromkeys(asked or [job.notebook.stem]):
        for item in exercises(chapter):
            found.setdefault(item.id, ("unanswered", ""))
    return Grade(job.notebook, found, _last_line(error))


def _last_line(error):
    return error.splitlines()[-1] if error else ""


def find_notebooks(path):
    """The notebooks that a word on the command line means: a chapter, a file, or a folder's."""
    given = Path(path)
    if given.is_dir():
        found = sorted(given.glob("*.ipynb"))
        if not found:
            raise ValueError(f"{path} holds no notebooks")
        return found
    return [given] if given.suffix == ".ipynb" and given.is_file() else [find_chapter(path)]


def _named(path):
    """A notebook's path as a teacher reads it: from the folder that the command ran in."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def rows(grades):
    """One dict of `FIELDS` for each exercise of each notebook, and for each error."""
    for each in grades:
        for id, (state, hint) in each.answers.items():
            yield dict(zip(FIELDS, (_named(each.notebook), id, state, hint), strict=True))
        if each.error:
            values = (_named(each.notebook), "", "stopped with an error", each.error)
            yield dict(zip(FIELDS, values, strict=True))


def as_csv(grades):
    """The rows as CSV, with a line of headings."""
    text = io.StringIO()
    table = csv.DictWriter(text, FIELDS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows(grades))
    return text.getvalue()


def as_text(grades):
    """What a teacher reads: each notebook's exercises with their hints, then a line for each."""
    lines = []
    for each in grades:
        lines += ["", _named(each.notebook)] if len(grades) > 1 else []
        for id, (state, hint) in each.answers.items():
            lines.append(f"{state:12}{id}" + (f": {hint}" if hint else ""))
        if each.error:
            lines.append(f"it stopped with an error: {each.error}")
    lines.append("")
    for each in grades:
        stopped = ", stopped with an error" if each.error else ""
        lines.append(f"{each.right} of {len(each.answers)} right: {each.notebook.name}{stopped}")
    return "\n".join(lines).lstrip("\n")


def main(argv=None):
    """`python -m llmbook grade`: exit 1 when a notebook does not run to its end."""
    parser = argparse.ArgumentParser(
        prog="python -m llmbook grade",
        description=__doc__,
        epilog="Exit status: 0 when every notebook ran to its end (with --strict: and every "
        "exercise is right), 1 when not, 2 when there is nothing to grade.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "path", nargs="+", help="a chapter's name, a notebook, or a folder of them"
    )
    parser.add_argument("--profile", default="smoke", choices=PROFILES, help="default: smoke")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--csv", metavar="FILE", help="also write the table as CSV")
    parser.add_argument("--strict", action="store_true", help="exit 1 unless everything is right")
    args = parser.parse_args(argv)
    try:
        notebooks = [notebook for path in args.path for notebook in find_notebooks(path)]
        grades = grade(notebooks, args.profile)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    if args.csv:
        Path(args.csv).write_text(as_csv(grades), encoding="utf-8")
    print("\n" + (json.dumps(list(rows(grades)), indent=1) if args.json else as_text(grades)))
    wrong = args.strict and any(each.right < len(each.answers) for each in grades)
    return 1 if wrong or any(each.error for each in grades) else 0
