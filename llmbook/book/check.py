"""Exercises: a reader's answer is checked at once, and told what to look at when it is wrong.

Each chapter's checks live in `llmbook/book/exercises/<chapter>.py`, one function per exercise
under `@exercise(...)`. A check runs the answer on inputs of its own; `NotYet` carries advice.
"""

import copy
import dataclasses
import difflib
import html
import importlib.util
import traceback

import numpy as np
import torch

from llmbook.book.display import publish
from llmbook.checks import one_of

CHECK_MIME = "application/vnd.llmbook.check+json"
DIFFICULTY = {1: "warm-up", 2: "takes thought", 3: "a real problem"}
KINDS = {
    "code": "write a function",
    "predict": "say what will happen",
    "figure": "read a figure",
    "experiment": "change an experiment",
}
_registry = {}


class NotYet(Exception):
    """The answer is not right yet; the message says what to look at."""


@dataclasses.dataclass(frozen=True)
class Exercise:
    """One exercise: its id `chapter/name`, and the function that checks an answer."""

    id: str
    title: str
    difficulty: int
    minutes: int
    run: object
    kind: str = "code"


def exercise(id, *, title, difficulty, minutes, kind="code"):
    """Register the check function below it as the exercise `id` (`"chapter/name"`)."""
    one_of("kind", kind, KINDS)
    if difficulty not in DIFFICULTY or minutes <= 0 or id.count("/") != 1 or id in _registry:
        raise ValueError(
            f"exercise {id!r}: an unused id 'chapter/name', difficulty 1 to 3 and minutes > 0 "
            f"are expected: got difficulty={difficulty}, minutes={minutes}"
        )

    def register(function):
        _registry[id] = Exercise(id, title, difficulty, minutes, function, kind)
        return function

    return register


def exercises(chapter):
    """The exercises of one chapter, in order; empty when it has none."""
    name = f"llmbook.book.exercises.{chapter}"
    if chapter.isidentifier() and importlib.util.find_spec(name):
        importlib.import_module(name)
    return [e for e in _registry.values() if e.id.split("/")[0] == chapter]


class CheckResult:
    """What `check` found: true only when the answer is right."""

    def __init__(self, id, state, message):
        self.id, self.state, self.message = id, state, message

    def __bool__(self):
        return self.state == "right"

    def __repr__(self):
        return f"{self.id}: {self.state}. {self.message}"

    def _ipython_display_(self):
        """Nothing: `check` has already shown it."""


def call(answer, *args, **kwargs):
    """Run a reader's function on copies of the arguments, and refuse an empty result.

    Raises NotYet when there is no function, or when it returns nothing.
    """
    if not callable(answer):
        raise NotYet(f"A function is expected here, and this is {type(answer).__name__}.")
    given = copy.deepcopy((args, kwargs))
    got = answer(*given[0], **given[1])
    if (got is None or got is ...) and not _same(given, (args, kwargs)):
        raise NotYet(
            "The function changes what it is given and returns nothing: return the result."
        )
    if got is None or got is ...:
        raise NotYet("The function returns nothing yet.")
    return got


def _same(a, b):
    """Do arrays in nested lists, tuples and dictionaries have the same numbers?"""
    if isinstance(a, dict):
        return _same(list(a.values()), list(b.values()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, (np.ndarray, torch.Tensor)):
        return bool((a == b).all()) or bool((a != a).any())
    return True


def agree(got, want, advice, tolerance=1e-6):
    """Raise NotYet(advice) unless `got` equals `want` in shape and, within tolerance, value."""
    try:
        got = torch.as_tensor(got).detach().to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise NotYet(
            f"A number, array or tensor is expected, and this is {type(got).__name__}."
        ) from error
    want = torch.as_tensor(want).detach().to(torch.float64)
    if got.shape != want.shape:
        raise NotYet(
            f"The shape is {tuple(got.shape)}, and {tuple(want.shape)} is expected. {advice}"
        )
    if not torch.allclose(got, want, rtol=tolerance, atol=tolerance):
        raise NotYet(advice)


def chosen(answer, options):
    """The option that an answer names, upper and lower case alike; NotYet when it names none."""
    if isinstance(answer, str):
        found = [option for option in options if option.lower() == answer.strip().lower()]
        if found:
            return found[0]
    raise NotYet(f"Answer with one of {', '.join(map(repr, options))}: this is {answer!r}.")


def number(answer):
    """An answer as a number; NotYet when it is none."""
    if isinstance(answer, (bool, str)) or not hasattr(answer, "__float__"):
        raise NotYet(f"A number is expected here, and this is {type(answer).__name__}.")
    return float(answer)


def _judge(item, answer):
    """(state, message) for an answer; the reader's random state is left as it was."""
    if answer is None or answer is ...:
        return "unanswered", "Nothing here yet: replace the dots with your answer."
    numpy_state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            praise = item.run(answer)
        return "right", praise or "Right."
    except NotYet as advice:
        state = "unanswered" if "returns nothing yet" in str(advice) else "not yet"
        return state, str(advice)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return (
            "not yet",
            f"It stopped with {type(error).__name__}: {error} (line {last.lineno}: {last.line})",
        )
    finally:
        np.random.set_state(numpy_state)


def check(id, answer):
    """Say whether an answer is right, and what to look at when it is not.

    Never raises for an answer, whatever it does; an unknown id raises ValueError. The result is
    true only when the answer is right.
    """
    chapter = str(id).split("/")[0]
    known = {e.id: e for e in exercises(chapter)}
    if id not in known:
        near = difflib.get_close_matches(str(id), known or _registry, n=1)
        raise ValueError(
            f"unknown exercise {id!r}"
            + (
                f": did you mean {near[0]!r}?"
                if near
                else f"; this chapter has {sorted(known) or 'none'}"
            )
        )
    state, message = _judge(known[id], answer)
    result = CheckResult(id, state, message)
    told = message.removeprefix("Right").lstrip(" .:") if state == "right" else message
    told = told[:1].upper() + told[1:]  # the mark has said "right" already
    mark = {"right": "✓ right", "not yet": "✗ not yet", "unanswered": "· unanswered"}[state]
    box = (
        f'<div class="exercise-result exercise-{state.replace(" ", "-")}" role="status">'
        f"<strong>{mark}</strong> {html.escape(told)}</div>"
    )
    publish(
        f"{mark}: {told}" if told else mark,
        box,
        {CHECK_MIME: {"id": id, "state": state, "message": message}},
    )
    return result
