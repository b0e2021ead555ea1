"""Generated tasks: the answer is the right one, the shapes are as said, the seed decides."""

import datetime
import re

import pytest
import torch

from llmbook import tasks

CALLS = {
    "first_token_recall": lambda g: tasks.first_token_recall(5, 7, generator=g),
    "copy_task": lambda g: tasks.copy_task(5, 3, delay=4, generator=g),
    "adding_problem": lambda g: tasks.adding_problem(5, 7, generator=g),
    "reversal": lambda g: tasks.reversal(5, 7, generator=g),
    "anbn": lambda g: tasks.anbn(5, 7, generator=g),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_seed_gives_the_same_batch_and_a_generator_moves_on(name):
    call = CALLS[name]
    for first, again, other in zip(call(3), call(3), call(4)):
        assert torch.equal(first, again)
        assert first.shape == other.shape
    assert not all(torch.equal(a, b) for a, b in zip(call(3), call(4)))
    generator = torch.Generator().manual_seed(3)
    one, two = call(generator), call(generator)
    assert all(torch.equal(a, b) for a, b in zip(one, call(3)))
    assert not all(torch.equal(a, b) for a, b in zip(one, two))


def test_first_token_is_a_class_and_distractors_never_are():
    inputs, targets = tasks.first_token_recall(500, 9, n_classes=3, generator=1)
    assert inputs.shape == (500, 9) and targets.shape == (500,)
    assert torch.equal(inputs[:, 0], targets)
    assert set(targets.tolist()) == {0, 1, 2}
    assert set(inputs[:, 1:].flatten().tolist()) == {3, 4, 5}


def test_copy_targets_repeat_the_symbols_after_the_marker():
    inputs, targets = tasks.copy_task(300, 3, delay=5, n_symbols=4, generator=1)
    assert inputs.shape == targets.shape == (300, 12)
    assert torch.equal(targets[:, -3:], inputs[:, :3])
    assert (targets[:, :-3] == 0).all()
    assert (inputs[:, 3:8] == 0).all() and (inputs[:, 8] == 1).all() and (inputs[:, 9:] == 0).all()
    assert set(inputs[:, :3].flatten().tolist()) == {2, 3, 4, 5}


@pytest.mark.parametrize("length", [2, 3, 7, 50])
def test_adding_problem_sums_one_marked_number_of_each_half(length):
    inputs, targets = tasks.adding_problem(4000, length, generator=1)
    numbers, marks = inputs.unbind(-1)
    half = length // 2
    assert inputs.shape == (4000, length, 2) and targets.shape == (4000,)
    assert (marks[:, :half].sum(1) == 1).all() and (marks[:, half:].sum(1) == 1).all()
    torch.testing.assert_close((numbers * marks).sum(1), targets)
    assert (marks.sum(0) > 0).all(), "a position is never marked"
    assert abs(((targets - 1) ** 2).mean().item() - 1 / 6) < 0.02


def test_reversal_is_backwards():
    inputs, targets = tasks.reversal(200, 5, n_symbols=3, generator=1)
    for row, backwards in zip(inputs.tolist(), targets.tolist()):
        assert row[::-1] == backwards
    assert set(inputs.flatten().tolist()) == {0, 1, 2}


def test_anbn_rows_are_balanced_and_their_targets_are_the_next_tokens():
    inputs, targets = tasks.anbn(400, 6, min_n=2, generator=1)
    assert inputs.shape == targets.shape == (400, 13)
    seen = set()
    for row, following in zip(inputs.tolist(), targets.tolist()):
        n = row.count(1)
        seen.add(n)
        whole = [0] + [1] * n + [2] * n + [0]
        assert row[: 2 * n + 1] == whole[:-1] and following[: 2 * n + 1] == whole[1:]
        assert set(row[2 * n + 1 :]) <= {0} and set(following[2 * n + 1 :]) <= {tasks.IGNORED}
    assert seen == {2, 3, 4, 5, 6}
    assert (targets[inputs == 2] != 1).all()


def test_dates_have_one_reading_and_every_form_occurs():
    pairs = tasks.dates(4000, generator=1)
    assert pairs == tasks.dates(4000, generator=1) != tasks.dates(4000, generator=2)
    shapes = set()
    for human, iso in pairs:
        date = datetime.date.fromisoformat(iso)
        assert read(human) == date, human
        letters = "".join("9" if c.isdigit() else "a" if c.isalpha() else c for c in human)
        shapes.add(letters.replace("99", "9").replace("99", "9"))
        assert human.isascii() and len(human) <= 36 and len(iso) == 10
    assert len(shapes) > 20
    assert 0.2 < sum(human == human.lower() for human, _ in pairs) / len(pairs)
    ordinals = {"".join(m) for h, _ in pairs for m in re.findall(r"(\d+)(st|nd|rd|th)\b", h)}
    irregular = {"1st", "2nd", "3rd", "21st", "22nd", "23rd", "31st"}
    assert ordinals == irregular | {f"{d}th" for d in range(4, 31) if d not in (21, 22, 23)}
    years = [int(iso[:4]) for _, iso in pairs]
    assert min(years) < 1910 and max(years) > 2090


def read(human):
    """A date from any of the forms, from its numbers and names; the weekday must be right."""
    text = human.lower().replace(",", " ")
    for ending in ("st", "nd", "rd", "th"):
        text = re.sub(rf"(\d){ending}\b", r"\1", text)
    months = "jan feb mar apr may jun jul aug sep oct nov dec".split()
    days = "mon tue wed thu fri sat sun".split()
    words = text.replace("-", " ").split()
    if len(words) == 1:
        for mark, order in ((".", "dmy"), ("/", "mdy")):
            if mark in text:
                parts = text.split(mark)
                order = "ymd" if len(parts[0]) == 4 else order
                found = dict(zip(order, map(int, parts)))
                return datetime.date(found["y"], found["m"], found["d"])
    words = [word for word in words if word not in ("the", "of")]
    month = next(word for word in words if word[:3] in months)
    numbers = [int(word) for word in words if word.isdigit()]
    date = datetime.date(max(numbers), months.index(month[:3]) + 1, min(numbers))
    weekday = [word for word in words if not word.isdigit() and word != month]
    assert not weekday or days[date.weekday()] == weekday[0][:3], human
    return date


@pytest.mark.parametrize("call, error, argument", [
    (lambda: tasks.first_token_recall(0, 5), ValueError, "batch must be at least 1: got 0"),
    (lambda: tasks.first_token_recall(3, -5), ValueError, "length must be at least 1: got -5"),
    (lambda: tasks.first_token_recall(3, 5, n_classes=1), ValueError, "n_classes"),
    (lambda: tasks.copy_task(3, 5, delay=-1), ValueError, "delay must be at least 0: got -1"),
    (lambda: tasks.copy_task(3, 5.5), TypeError, "length must be a whole number: got 5.5"),
    (lambda: tasks.adding_problem(3, 1), ValueError, "length must be at least 2: got 1"),
    (lambda: tasks.reversal(3, 5, n_symbols=1), ValueError, "n_symbols must be at least 2"),
    (lambda: tasks.reversal(True, 5), TypeError, "batch"),
    (lambda: tasks.anbn(3, 4, min_n=5), ValueError, "min_n must not exceed max_n: got min_n=5"),
    (lambda: tasks.dates(3, first_year=2000, last_year=1999), ValueError, "first_year=2000"),
    (lambda: tasks.dates(3, last_year=10000), ValueError, "last_year=10000"),
    (lambda: tasks.reversal(3, 5, generator="seed"), TypeError, "generator must be a seed"),
])  # fmt: skip
def test_unfit_arguments_are_named(call, error, argument):
    with pytest.raises(error, match=argument):
        call()
