"""A last cell for every chapter that nbval runs: its answers, right and wrong, in its own names.

A solution that needs an import which its notebook lacks works where it is written, in
tests/exercises, and fails for every reader. So its functions are rebuilt here with the notebook's
names for globals, after all of its cells have run; nothing of this stands in a file.
"""

from collections import defaultdict

import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from llmbook.book.root import find_root

CELL = """
import importlib, sys, types
from llmbook.book.check import check
sys.path.insert(0, {tests!r})
_answers = importlib.import_module("exercises.{chapter}")


def _here(answer):
    if not isinstance(answer, types.FunctionType):
        return answer
    parts = answer.__code__, globals(), answer.__name__, answer.__defaults__, answer.__closure__
    out = types.FunctionType(*parts)
    out.__kwdefaults__ = answer.__kwdefaults__
    return out


for _name, _value in vars(_answers).items():
    if isinstance(_value, types.FunctionType) and _value.__module__ == _answers.__name__:
        globals()[_name] = _here(_value)
_failed = []
for _name, _answer in _answers.SOLUTIONS.items():
    _result = check("{chapter}/" + _name, _here(_answer))
    if not _result:
        _failed.append((_name, "the solution", str(_result)))
for _name, _wrong in _answers.WRONG.items():
    for _what, _answer in _wrong.items():
        _result = check("{chapter}/" + _name, _here(_answer))
        if _result.state != "not yet" or "NameError" in _result.message:
            _failed.append((_name, _what, str(_result)))
if _failed:
    raise AssertionError("in this notebook: " + repr(_failed))
"""


class Chapter(IPyNbFile):
    """A notebook's cells, and the one more."""

    def collect(self):
        """nbval's cells, then ours, whose output is not compared."""
        cells = list(super().collect())
        root = find_root(self.path.parent)
        source = CELL.format(tests=str(root / "tests"), chapter=self.path.stem)
        cell = nbformat.v4.new_code_cell(source)
        options = defaultdict(bool)  # no tag, nothing is compared
        more = {"cell_num": len(cells), "cell": cell, "options": options}
        return [*cells, IPyNbCell.from_parent(self, name="Cell with the answers", **more)]


class Answers:
    """A pytest plugin: where nbval takes a chapter, a `Chapter` takes its place."""

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(self, file_path, parent):
        """What every plugin makes of a file."""
        found = yield
        chapter = file_path.parent.name == "chapters"
        return [
            Chapter.from_parent(parent, path=file_path)
            if chapter and type(one) is IPyNbFile
            else one
            for one in found
        ]
