"""Exercises: every solution passes its own check, and every named mistake is rejected by it."""

import importlib
import inspect
import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from llmbook.book.check import NotYet, agree, call, check, exercise, exercises
from llmbook.book.root import chapters, find_root

ROOT = find_root(Path(__file__).parent)
CHAPTERS = chapters(ROOT)
MISSING_OR_CRASHING = {
    "dots": ...,
    "None": None,
    "a string": "nonsense",
    "a number": 3.5,
    "returns dots": lambda *a, **k: ...,
    "returns None": lambda *a, **k: None,
    "crashes": lambda *a, **k: 1 / 0,
    "takes nothing": lambda: 0,
}
ALL = [(path, item) for path in CHAPTERS for item in exercises(path.stem)]


def answers(chapter):
    """The module with a chapter's solutions and wrong answers."""
    return importlib.import_module(f"exercises.{chapter}")


def source(function):
    """A function's source as a chapter shows it."""
    return textwrap.dedent(inspect.getsource(function)).strip()


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_has_at_least_four_exercises_and_two_are_code(path):
    items = exercises(path.stem)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    assert len(items) >= 4
    assert all(code.count(f'check("{item.id}"') == 1 for item in items)
    assert sum(f"def {item.id.split('/')[1]}(" in code for item in items) >= 2


@pytest.mark.parametrize("path, item", ALL, ids=lambda v: getattr(v, "id", None))
def test_the_solution_passes_and_is_the_one_that_the_chapter_shows(path, item):
    solution = answers(path.stem).SOLUTIONS[item.id.split("/")[1]]
    result = check(item.id, solution)
    assert result, result
    text = "\n".join(
        "".join(c["source"])
        for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "markdown"
    )
    shown = source(solution) if callable(solution) else repr(solution)
    assert shown in text
    assert text.count("<summary>Solution</summary>") == len(exercises(path.stem))


@pytest.mark.parametrize("path, item", ALL, ids=lambda v: getattr(v, "id", None))
def test_at_least_five_named_wrong_answers_are_rejected_with_advice(path, item):
    wrong = answers(path.stem).WRONG[item.id.split("/")[1]]
    assert len(wrong) >= 5
    bodies = {
        inspect.getsource(answer) if callable(answer) else repr(answer)
        for answer in wrong.values()
    }
    assert len(bodies) == len(wrong)
    for name, answer in wrong.items():
        result = check(item.id, answer)
        assert not result, f"{item.id} accepts {name}"
        assert result.state == "not yet", f"{item.id}, {name}: {result}"
        assert len(result.message) > 15 and "It stopped with AttributeError" not in result.message


@pytest.mark.parametrize("path, item", ALL, ids=lambda v: getattr(v, "id", None))
@pytest.mark.parametrize("answer", MISSING_OR_CRASHING.values(), ids=MISSING_OR_CRASHING)
def test_missing_and_crashing_answers_never_raise(path, item, answer):
    assert not check(item.id, answer)


@exercise("sample/double", title="Double it", difficulty=1, minutes=1)
def sample(answer):
    agree(
        call(answer, torch.tensor([1.0, 2.0, 3.0])),
        torch.tensor([2.0, 4.0, 6.0]),
        "Multiply by two.",
    )


def test_a_result_is_true_only_when_right():
    assert check("sample/double", lambda x: 2 * x)
    wrong = check("sample/double", lambda x: x + 2)
    assert not wrong and wrong.message == "Multiply by two."
    assert "(2,)" in check("sample/double", lambda x: 2 * x[:2]).message
    assert check("sample/double", lambda x: None).state == "unanswered"
    assert (
        "changes what it is given"
        in check("sample/double", lambda x: (x.mul_(2), None)[1]).message
    )
    assert "ZeroDivisionError" in check("sample/double", lambda x: 1 / 0).message


def test_an_unknown_exercise_raises_and_suggests():
    with pytest.raises(ValueError, match="did you mean 'sample/double'"):
        check("sample/doubel", 1)
    with pytest.raises(ValueError, match="unknown exercise"):
        check("no_such_chapter/x", 1)


def test_an_answer_cannot_change_the_check_or_the_random_state():
    given = torch.zeros(2)
    torch.manual_seed(3), np.random.seed(3)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()

    def spoil(x):
        torch.rand(5), np.random.rand(5)
        x += 1
        return x

    assert torch.equal(call(spoil, given), torch.ones(2)) and torch.equal(given, torch.zeros(2))
    check("sample/double", spoil)
    torch.manual_seed(3), np.random.seed(3)
    check("sample/double", spoil)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_registering_an_exercise_twice_or_badly_is_refused():
    for kwargs in (
        {"id": "sample/double"},
        {"id": "noslash"},
        {"id": "a/b", "difficulty": 4},
        {"id": "a/b", "minutes": 0},
    ):
        with pytest.raises(ValueError, match="expected"):
            exercise(**{"title": "t", "difficulty": 1, "minutes": 1, **kwargs})


def test_agree_refuses_what_is_no_number():
    with pytest.raises(NotYet, match="number, array or tensor"):
        agree("text", torch.zeros(1), "advice")
