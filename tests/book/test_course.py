"""The course page: weeks from the chapters' own times, and a folder graded by the command."""

import csv
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from exercises import recurrent
from helpers.built_book import book  # noqa: F401 - a fixture
from helpers.small_book import code_notebook, write_chapter

from llmbook.book import contents
from llmbook.book.root import find_root

ROOT = find_root(Path(__file__).parent)
PAGE = (ROOT / "chapters" / "course.md").read_text(encoding="utf-8")
IMPORTS = "import numpy as np\nfrom llmbook.book.check import check\n"
ADA = (
    inspect.getsource(recurrent.last_states)
    + """
check("recurrent/last", last_states)
check("recurrent/join", lambda first, second: first)
check("recurrent/wavefront", 101)
""",
)
BOB = ("check('recurrent/join', lambda first, second: second)", "average(np.ones(3))")


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """What the page's command says of two hand-ins: the process, and the table that it wrote."""
    there = tmp_path_factory.mktemp("course")
    write_chapter(there, "recurrent", "print(1)")
    (there / "_toc.yml").write_text("root: x\nchapters:\n- file: chapters/recurrent\n")
    (there / "requirements.txt").write_text("")
    (there / "hand-ins").mkdir()
    for name, cells in (("ada", ADA), ("bob", BOB)):
        (there / f"hand-ins/{name}.ipynb").write_text(
            json.dumps(code_notebook(IMPORTS, *cells)), encoding="utf-8"
        )
    command = re.search(r"```bash\n(python -m llmbook grade .*)\n", PAGE).group(1)
    done = subprocess.run(
        [sys.executable, *command.split()[1:]],
        cwd=there,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    return done, there / "grades.csv"


def test_the_command_prints_what_the_page_shows_and_its_status_tells_that_one_stopped(graded):
    done, _ = graded
    shown = re.search(r"```text\n(.*?)\n```", PAGE, re.DOTALL).group(1)
    printed = done.stdout[done.stdout.index("hand-ins/ada.ipynb") :].strip()
    assert done.returncode == 1, done.stderr[-2000:]
    assert printed == shown


def test_the_table_has_a_line_for_each_exercise_and_one_for_the_error(graded):
    _, file = graded
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    assert list(rows[0]) == re.search(r"`(notebook,[\w,]+)`", PAGE).group(1).split(",")
    states = {(Path(row["notebook"]).stem, row["exercise"]): row["state"] for row in rows}
    assert states["ada", "recurrent/last"] == "right"
    assert states["ada", "recurrent/join"] == states["bob", "recurrent/join"] == "not yet"
    assert states["bob", "recurrent/last"] == "unanswered"
    assert "NameError" in rows[-1]["hint"]


def test_the_page_has_every_chapter_once_in_twelve_weeks_and_the_short_route_in_two_days(book):
    page = (book / "chapters/course.html").read_text(encoding="utf-8")
    weeks, days = re.findall(r'<table class="[^"]*course.*?</table>', page, re.DOTALL)
    listed = contents.entries(contents.parts(ROOT))
    assert re.findall(r'href="(\w+)\.html"', weeks) == [entry.name for entry in listed]
    short = [entry.name for entry in listed if contents.WEEKEND in entry.routes]
    assert re.findall(r'href="(\w+)\.html"', days) == short
    assert weeks.count("<tr") == 12 + 2 and days.count("<tr") == 2 + 2
    assert contents.in_words(contents.total(listed, "reading")) in weeks
