"""Grading: execute a student's copy of a chapter and list which exercises are right."""

import argparse
import json

from llmbook.book.chapter import PROFILES
from llmbook.book.check import CHECK_MIME, exercises
from llmbook.book.execute import ExecutionFailed, ensure_executed
from llmbook.book.root import find_chapter, outputs_with, read_notebook


def grade(notebook, profile="quick"):
    """{exercise id: state} for a notebook, from its executed copy; the last check of an id counts.

    Exercises of the chapter that the notebook never checks are "unanswered".
    """
    executed = read_notebook(ensure_executed([notebook], profile)[0])
    found = {record["id"]: record["state"] for record in outputs_with(executed, CHECK_MIME)}
    chapter_names = {id.split("/")[0] for id in found} or {notebook.stem}
    for name in chapter_names:
        for item in exercises(name):
            found.setdefault(item.id, "unanswered")
    return found


def main(argv=None):
    """`python -m llmbook grade NOTEBOOK`: a table of exercises; exit 1 when the notebook fails to run."""
    parser = argparse.ArgumentParser(prog="python -m llmbook grade", description=__doc__)
    parser.add_argument(
        "notebook",
        help="a chapter's name or the path of a student's copy inside the book's folder",
    )
    parser.add_argument("--profile", default="smoke", choices=PROFILES, help="default: smoke")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    try:
        found = grade(find_chapter(args.notebook), args.profile)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    except ExecutionFailed as error:
        print(error)
        return 1
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        for id, state in found.items():
            print(f"{state:12}{id}")
        print(f"{sum(s == 'right' for s in found.values())} of {len(found)} right")
    return 0
