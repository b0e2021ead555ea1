"""Instructions with an answer that can be checked."""

import re

import pytest

from llmbook.data import verifiable as v


def test_there_are_16_seen_kinds_and_six_each_unseen_and_graded():
    assert (len(v.SEEN), len(v.UNSEEN), len(v.GRADED)) == (16, 6, 6)
    assert set(v.KINDS) == {*v.SEEN, *v.UNSEEN, *v.GRADED}


@pytest.mark.parametrize("kind", v.KINDS)
def test_a_kind_gives_short_ascii_questions_whose_answer_it_accepts_and_no_other(kind):
    for example in v.examples(kind, 200):
        assert example.prompt.isascii() and len(example.prompt) <= 70, example
        assert example.check(example.answer) and example.check(f" {example.answer}\n")
        assert example.well_formed(example.answer), example
        assert not example.check(example.answer + "x") and not example.check("")
        assert [m["content"] for m in example.messages] == [example.prompt, example.answer]


@pytest.mark.parametrize("kind", v.KINDS)
def test_the_same_seed_gives_the_same_examples_and_another_seed_others(kind):
    assert v.examples(kind, 30, seed=3) == v.examples(kind, 30, seed=3)
    assert v.examples(kind, 30, seed=3) != v.examples(kind, 30, seed=4)


@pytest.mark.parametrize("kind", v.KINDS)
def test_no_input_is_on_both_sides_whatever_the_seeds(kind):
    def inputs(side, seed, n):
        found = v.examples(kind, n, side=side, seed=seed)
        return {
            re.sub(r"^.*?: ", "", e.prompt) if "{}" not in _first(kind) else _asked(e)
            for e in found
        }

    trained = inputs("train", 0, 500) | inputs("train", 7, 500)
    assert not trained & inputs("held-out", 1, 64)


def _first(kind):
    return v.KINDS[kind].wordings[0]


def _asked(example):
    """The argument and the input, whatever the wording."""
    for words in v.KINDS[example.kind].wordings:
        found = re.fullmatch(re.escape(words).replace(r"\{\}", "(.*)"), example.instruction)
        if found:
            return found[1], example.input
    raise AssertionError(example)


def test_held_out_inputs_are_all_different():
    asked = v.examples("sum", 64, side="held-out")
    assert len({e.input for e in asked}) == 64


BY_HAND = {
    "first-word": lambda e: e.input.split()[0],
    "last-word-quotes": lambda e: '"' + e.input.split()[-1] + '"',
    "backwards": lambda e: "".join(reversed(e.input)),
    "swap-quotes": lambda e: '"{1} {0}"'.format(*e.input.split()),
    "count": lambda e: str(e.input.count(" ") + 1),
    "lookup": lambda e: re.search(rf"\b{_asked(e)[0]}=(\d)", e.input)[1],
    "without": lambda e: " ".join(w for w in e.input.split() if w != _asked(e)[0]),
    "sum": lambda e: str(eval(e.input)),
    "add": lambda e: str(eval(e.input)),
    "largest": lambda e: max(e.input.split()),
    "tally": lambda e: str(e.input.count(_asked(e)[0])),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_answers_are_right(kind):
    for example in v.examples(kind, 100):
        assert example.answer == BY_HAND[kind](example), example


@pytest.mark.parametrize("level", range(1, v.LEVELS + 1))
def test_hops_follow_as_many_arrows_as_the_level_says(level):
    for example in v.examples("hops", 50, level=level):
        arrows = dict(arrow.split(">") for arrow in example.input.split())
        at, hops = _asked(example)[0].split()
        assert int(hops) == level
        for _ in range(level):
            at = arrows[at]
        assert example.answer == at


@pytest.mark.parametrize("kind", v.GRADED)
def test_a_higher_level_has_a_longer_input_and_training_draws_the_low_ones(kind):
    lengths = [len(v.examples(kind, 1, level=n)[0].input) for n in range(1, v.LEVELS + 1)]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]
    assert {e.level for e in v.examples(kind, 60)} == set(range(1, v.TRAINED_LEVELS + 1))


def test_the_last_wording_is_never_drawn_in_training():
    for kind in v.KINDS.values():
        if "{}" not in kind.wordings[3]:
            drawn = {e.instruction for e in v.examples(kind.name, 100)}
            assert drawn == set(kind.wordings[:3])
            asked = v.examples(kind.name, 5, side="held-out", wording=3)
            assert {e.instruction for e in asked} == {kind.wordings[3]}


def test_a_wording_changes_nothing_else():
    plain, other = (v.examples("swap", 20, side="held-out", wording=w) for w in (0, 3))
    assert [e.input for e in plain] == [e.input for e in other]


def test_a_mixture_has_as_many_of_each_kind():
    found = [e.kind for e in v.mixture(("swap", "sum", "count"), 301)]
    assert sorted(map(found.count, ("swap", "sum", "count"))) == [100, 100, 101]
    assert found[:101] != ["swap"] * 101


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (dict(kind="juggle", n=1), ValueError, "kind must be one of"),
        (dict(kind="swap", n=0), ValueError, "n must be"),
        (dict(kind="swap", n=1, side="test"), ValueError, "side must be"),
        (dict(kind="swap", n=1, level=2), ValueError, "level must be None for swap"),
        (dict(kind="sort", n=1, level=6), ValueError, "level must be"),
        (dict(kind="swap", n=1, wording=4), ValueError, "wording must be"),
        (dict(kind="swap", n="3"), TypeError, "n must be"),
        (dict(kind="sum", n=5000, side="held-out"), ValueError, "n must be at most"),
    ],
)
def test_bad_input_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        v.examples(**arguments)
    with pytest.raises(ValueError, match="kinds must name"):
        v.mixture((), 3)
