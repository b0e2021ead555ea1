"""Chapters as files: the committed form, the first cell, one address in every place."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import yaml

import llmbook
from llmbook.book.address import normalise, set_address
from llmbook.book.execute import prepared
from llmbook.book.notebook import as_text, committed_form, first_cell, long_lines, tidy
from llmbook.book.root import address, chapters, find_root, read_notebook

ROOT = find_root(Path(__file__).parent)
CHAPTERS = chapters(ROOT)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_is_in_committed_form(path):
    notebook = read_notebook(path)
    assert as_text(committed_form(notebook, address(ROOT))) == path.read_text(encoding="utf-8"), (
        f"run: python -m llmbook tidy {path.stem}"
    )
    assert long_lines(notebook) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_has_one_parameters_cell_and_marks_some_output_for_nbval(path):
    cells = read_notebook(path)["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert ["".join(c["source"]) for c in tagged] == ['profile = "auto"\nseed = 0']
    checked = [c for c in cells if "nbval-check-output" in c["metadata"].get("tags", [])]
    assert checked and all(c["outputs"] for c in checked)


def sample():
    picture = {
        "output_type": "display_data",
        "metadata": {},
        "data": {"image/png": "x", "text/plain": "[figure]"},
    }
    widget = {
        "output_type": "execute_result",
        "execution_count": 3,
        "metadata": {},
        "data": {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "[interactive]"},
    }
    prints = [
        {"output_type": "stream", "name": "stdout", "text": ["a\n"]},
        {"output_type": "stream", "name": "stdout", "text": "b\n"},
    ]
    return {
        "cells": [
            {
                "cell_type": "markdown",
                "id": "t",
                "metadata": {"collapsed": True},
                "source": "# Title",
            },
            {
                "cell_type": "code",
                "id": "x",
                "metadata": {"tags": ["keep"], "papermill": {}},
                "execution_count": 7,
                "source": ["print(1)\n", "\n"],
                "outputs": [*prints, picture, widget],
            },
        ],
        "metadata": {"widgets": {"state": {}}, "papermill": {}},
        "nbformat": 4,
        "nbformat_minor": 4,
    }


def test_the_committed_form_keeps_text_and_drops_pictures_and_widget_state():
    text = as_text(committed_form(sample(), ""))
    for gone in ("image/png", "widget", "papermill", '"execution_count": 7', "collapsed"):
        assert gone not in text
    cells = json.loads(text)["cells"]
    assert [c["execution_count"] for c in cells[1:]] == [1, 2]
    assert cells[2]["outputs"][2]["execution_count"] == 2
    assert [c["id"] for c in cells] == ["t", "colab", "x"]
    assert cells[2]["outputs"][0]["text"] == ["a\n", "b\n"] and len(cells[2]["outputs"]) == 3


def test_the_committed_form_is_stable():
    once = committed_form(sample(), "")
    assert committed_form(copy.deepcopy(once), "") == once


def test_refresh_takes_the_outputs_of_the_executed_copy(tmp_path, monkeypatch):
    (
        (tmp_path / "_toc.yml").write_text("root: x\n"),
        (tmp_path / "_config.yml").write_text("title: x\n"),
    )
    (tmp_path / "requirements.txt").write_text("")
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps(sample()))
    with pytest.raises(FileNotFoundError, match="llmbook run one"):
        tidy(path, refresh=True)
    executed = sample()
    executed["cells"][1]["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": "fresh\n"}
    ]
    (tmp_path / "copy.ipynb").write_text(json.dumps(executed))
    monkeypatch.setattr("llmbook.book.notebook.executed_path", lambda p: tmp_path / "copy.ipynb")
    assert tidy(path, refresh=True) and "fresh" in path.read_text()


@pytest.mark.parametrize("ids", [(None, None), ("a", "a"), ("cell-1", None), ("b", "a")])
def test_refresh_finds_the_outputs_of_cells_without_ids_or_with_one_id_twice(ids):
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    for number, id in enumerate(ids):
        stale = [{"output_type": "stream", "name": "stdout", "text": f"stale {number}\n"}]
        cell = {"cell_type": "code", "source": f"print({number})", "outputs": stale}
        notebook["cells"].append(cell | ({"id": id} if id else {}))
    executed = prepared(notebook, ROOT)
    for cell in executed["cells"]:
        fresh = {"output_type": "stream", "name": "stdout", "text": f"of {cell['source']}\n"}
        cell["outputs"] = [fresh]
    cells = committed_form(notebook, "", executed)["cells"][1:]
    assert ["".join(c["outputs"][0]["text"]) for c in cells] == ["of print(0)\n", "of print(1)\n"]
    assert len({c["id"] for c in cells}) == 2
    with pytest.raises(ValueError, match="not in the executed copy"):
        committed_form(notebook, "", {"cells": executed["cells"][:2]})


def places(root):
    """The address as each place holds it: configuration, README, first cells."""
    config = yaml.safe_load((root / "_config.yml").read_text())
    where = (config.get("repository") or {}).get("url", "")
    cells = [
        "".join(c["source"])
        for path in chapters(root)
        for c in read_notebook(path)["cells"]
        if "colab" in c["metadata"].get("tags", [])
    ]
    assert len(cells) == len(chapters(root))
    return where, cells, (root / "README.md").read_text()


def assert_all_places_agree(root):
    where, cells, readme = places(root)
    assert where == address(root)
    assert set(cells) == {first_cell(where)}
    if where:
        assert f'"llmbook @ git+{where}@v{llmbook.__version__}"' in cells[0]
        assert where.removeprefix("https://") in readme.replace(
            "colab.research.google.com/github/", "github.com/"
        )
    else:
        assert "python -m llmbook address" in cells[0] and "llmbook address https://" in readme


def test_the_address_is_the_same_in_every_place():
    assert_all_places_agree(ROOT)


def test_one_command_writes_the_address_everywhere_and_can_take_it_back(tmp_path):
    for name in ("_config.yml", "_toc.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "chapters", tmp_path / "chapters")
    before = {p: p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    set_address(tmp_path, "")
    start = {p: p.read_text() for p in before}
    set_address(tmp_path, "https://github.com/someone/somewhere.git/")
    assert address(tmp_path) == "https://github.com/someone/somewhere"
    assert_all_places_agree(tmp_path)
    config = yaml.safe_load((tmp_path / "_config.yml").read_text())
    assert (
        config["launch_buttons"]["colab_url"]
        and config["repository"]["branch"] == f"v{llmbook.__version__}"
    )
    set_address(tmp_path, "")
    assert {p: p.read_text() for p in before} == start
    assert_all_places_agree(tmp_path)


@pytest.mark.parametrize(
    "bad", ["github.com/a/b", "https://github.com/a", "https://github.com/a/b; rm", "git@x:y"]
)
def test_a_bad_address_is_refused(bad):
    with pytest.raises(ValueError, match="must read like"):
        normalise(bad)


def test_the_first_cell_does_nothing_outside_colab_and_says_what_is_missing_on_it(monkeypatch):
    import sys

    exec(first_cell(""), {})
    monkeypatch.setitem(sys.modules, "google.colab", object())
    with pytest.raises(RuntimeError, match="llmbook address URL"):
        exec(first_cell(""), {})
