"""Grading: which exercises of a student's notebook are right, with hints, wherever it lies."""

import csv
import json
from pathlib import Path

import pytest
from helpers.small_book import code_notebook, write_chapter

from llmbook.book import grade
from llmbook.book.check import exercises
from llmbook.book.root import find_root

ROOT = find_root(Path(__file__).parent)
TRIES = """
from llmbook.book.check import check
check("recurrent/last", lambda *a: None)
check("recurrent/last", 3.5)
_ = check("recurrent/join", ...)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three students' notebooks: bob's breaks, cyd's is none. The book lies elsewhere."""
    book, students = tmp_path_factory.mktemp("book"), tmp_path_factory.mktemp("Schüler и др")
    write_chapter(book, "recurrent", "print(1)")
    (book / "_toc.yml").write_text("root: x\nchapters:\n- file: chapters/recurrent\n")
    (book / "requirements.txt").write_text("")
    (students / "ada.ipynb").write_text(json.dumps(code_notebook(TRIES)))
    (students / "bob.ipynb").write_text(json.dumps(code_notebook(TRIES, "1 / 0", "late = 1")))
    (students / "cyd.ipynb").write_text("not a notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(book)
        patch.setenv("PYTHONPATH", str(ROOT))
        yield students


def test_a_folder_gives_a_table_with_hints_and_an_exit_status(folder, tmp_path, capsys):
    status = grade.main([str(folder), "--csv", str(tmp_path / "table.csv")])
    said = capsys.readouterr().out
    assert status == 1  # bob's stops, cyd's is none
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    ada = [row for row in rows if row["notebook"].endswith("ada.ipynb")]
    states = {row["exercise"]: row["state"] for row in ada}
    assert set(states) == {item.id for item in exercises("recurrent")}
    assert states.pop("recurrent/last") == "not yet" and set(states.values()) == {"unanswered"}
    hint = next(row["hint"] for row in ada if row["exercise"] == "recurrent/last")
    assert "function is expected" in hint and hint in said  # of the last check, not the first
    bob = [row for row in rows if row["notebook"].endswith("bob.ipynb")]
    assert bob[0]["state"] == "not yet" and "ZeroDivisionError" in bob[-1]["hint"]
    assert "is not a notebook" in rows[-1]["hint"] and "cyd.ipynb" in rows[-1]["notebook"]
    assert f"0 of {len(ada)} right: ada.ipynb" in said and "bob.ipynb, stopped" in said


def test_a_notebook_that_runs_to_its_end_exits_0_and_strictly_only_when_all_is_right(
    folder, capsys
):
    assert grade.main([str(folder / "ada.ipynb"), "--json"]) == 0
    printed = capsys.readouterr().out
    rows = json.loads(printed[printed.index("[\n") :])
    assert rows[0]["exercise"] == "recurrent/last" and rows[0]["state"] == "not yet"
    assert grade.main([str(folder / "ada.ipynb"), "--strict"]) == 1


def test_two_notebooks_of_one_name_are_two(folder, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/ada.ipynb").write_text(
        json.dumps(code_notebook(TRIES.replace("3.5", "...")))
    )
    one, two = grade.grade([folder / "ada.ipynb", tmp_path / "more/ada.ipynb"])
    assert one.answers["recurrent/last"][0] == "not yet"
    assert two.answers["recurrent/last"][0] == "unanswered"


def test_nothing_to_grade_is_an_error_that_says_so(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for path, words in ((tmp_path / "empty", "no notebooks"), ("nowhere", "one of recurrent")):
        with pytest.raises(SystemExit) as stop:
            grade.main([str(path)])
        assert stop.value.code == 2 and words in capsys.readouterr().err
