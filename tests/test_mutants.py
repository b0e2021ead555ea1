"""The mutation pass: its changes are single, seeded and real, and its choice of tests is right."""

import ast

from helpers.mutants import changes, chosen, mutants

SOURCE = '''"""A module: 1 < 2."""

import functools

SIZE = 3


def clip(x, low=0, high=1.5):
    """Between 0 and 1."""
    if not low <= high:
        raise ValueError(f"low must be at most {high + 1}: got {low}")
    x = max(x, low) if x < low else x  # é, of two bytes
    return round(min(x, high), ndigits=SIZE + 1)


@functools.cache
def table():
    return [i * 2 for i in range(4) if i and i != 2]
'''


def test_each_mutant_is_one_change_of_the_code_and_a_seed_gives_the_same_ones():
    drawn = mutants("a.py", SOURCE, 20, 0)
    assert drawn == mutants("a.py", SOURCE, 20, 0) != mutants("a.py", SOURCE, 20, 1)
    assert len({row["line"] for row in drawn}) == len(drawn) == 7  # every line with code to change
    for row in drawn:
        assert ast.dump(ast.parse(row["source"])) != ast.dump(ast.parse(SOURCE))
        old, new = (text.splitlines() for text in (SOURCE, row["source"]))
        assert [n for n, pair in enumerate(zip(old, new), 1) if pair[0] != pair[1]] == [
            row["line"]
        ]


def test_the_function_around_a_change_is_known_but_for_what_is_cached():
    spans = {row["line"]: row["span"] for row in mutants("a.py", SOURCE, 20, 0)}
    assert spans == {5: None, 18: None} | dict.fromkeys((8, 10, 11, 12, 13), (8, 13))


def test_what_a_change_may_be():
    def of(text):
        node = ast.parse(text).body[0]
        node = node.value if isinstance(node, ast.Expr) and "(" not in text else node
        return [ast.unparse(other) for other in changes(node)]

    assert of("a < b") == ["a <= b"] and of("a is b") == ["a is not b"]
    assert of("a + b") == ["a - b"] and of("a or b") == ["a and b"]
    assert of("not a") == ["a"] and of("2.5") == ["5.0"] and of("0.0") == ["1.0"]
    assert of("True") == ["False"] and of("7") == ["8"] and of("'text'") == []
    assert of("f(a)") == of("a += 1") == of("raise a") == ["pass"]
    call = ast.parse("f(a, b=1, c=2)").body[0].value
    assert [ast.unparse(other) for other in changes(call)] == ["f(a, c=2)", "f(a, b=1)"]


def test_tests_that_run_the_changed_function_are_chosen_the_quick_ones_first():
    tests = {
        "t.py::slow": {"seconds": 9, "ran": {"a.py": [8]}},
        "t.py::quick[1]": {"seconds": 1, "ran": {"a.py": [8]}},
        "t.py::quick[2]": {"seconds": 1.1, "ran": {"a.py": [8, 16]}},
        "t.py::quick[3]": {"seconds": 1.2, "ran": {"a.py": [8]}},
        "t.py::other": {"seconds": 1, "ran": {"a.py": [16]}},
        "t.py::elsewhere": {"seconds": 1, "ran": {"b.py": [8]}},
    }
    first, left = chosen(tests, {"path": "a.py", "span": (8, 13)})
    assert first == ["t.py::quick[1]", "t.py::quick[2]"]
    assert left == ["t.py::quick[3]", "t.py::slow"]
    first, left = chosen(tests, {"path": "a.py", "span": None})
    assert {*first, *left} == {*tests} - {"t.py::elsewhere"}
