"""Generated tasks: the answer is the right one, the shapes are as said, the seed decides."""

import datetime
import re

import pytest
import torch

from llmbook.data import tasks

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


@pytest.mark.parametrize(
    "call, error, argument",
    [
        (
            lambda: tasks.first_token_recall(0, 5),
            ValueError,
            "batch must be a whole number of at least 1: got 0",
        ),
        (
            lambda: tasks.first_token_recall(3, -5),
            ValueError,
            "length must be a whole number of at least 1: got -5",
        ),
        (lambda: tasks.first_token_recall(3, 5, n_classes=1), ValueError, "n_classes"),
        (
            lambda: tasks.copy_task(3, 5, delay=-1),
            ValueError,
            "delay must be a whole number of at least 0: got -1",
        ),
        (
            lambda: tasks.copy_task(3, 5.5),
            TypeError,
            "length must be a whole number of at least 1: got 5.5",
        ),
        (
            lambda: tasks.adding_problem(3, 1),
            ValueError,
            "length must be a whole number of at least 2: got 1",
        ),
        (
            lambda: tasks.reversal(3, 5, n_symbols=1),
            ValueError,
            "n_symbols must be a whole number of at least 2",
        ),
        (lambda: tasks.reversal(True, 5), TypeError, "batch"),
        (
            lambda: tasks.anbn(3, 4, min_n=5),
            ValueError,
            "min_n must not exceed max_n: got min_n=5",
        ),
        (lambda: tasks.dates(3, first_year=2000, last_year=1999), ValueError, "first_year=2000"),
        (lambda: tasks.dates(3, last_year=10000), ValueError, "last_year=10000"),
        (lambda: tasks.reversal(3, 5, generator="seed"), TypeError, "generator must be a seed"),
    ],
)
def test_unfit_arguments_are_named(call, error, argument):
    with pytest.raises(error, match=argument):
        call()


GENDERS = {stem: g for stem, _, g in (v.partition(":") for v in tasks._NOUNS.values())}


def dictionary():
    """Every English word's kind and what it says, built from the word lists alone."""
    words = {"the": ("det", True), "a": ("det", False), "some": ("det", False), "will": ("will",)}
    for noun, stem in tasks._NOUNS.items():
        words[noun] = ("noun", stem[:-2], stem[-1], False)
        words[tasks._PLURALS.get(noun, noun + "s")] = ("noun", stem[:-2], stem[-1], True)
    words |= {word: ("adjective", stem) for word, stem in tasks._ADJECTIVES.items()}
    for base, (past, stem, _) in tasks._VERBS.items():
        words[base] = ("verb", stem, "present", True)
        words["carries" if base == "carry" else base + "s"] = ("verb", stem, "present", False)
        words[past] = ("verb", stem, "past", None)
    words |= {word: ("place", stem) for word, stem in tasks._PLACES.items()}
    return words | {word: ("link", stem) for word, stem in tasks._LINKS.items()}


def by_rule(english):
    """The translation, found by parsing the English from left to right: a second opinion."""
    words, out, clause = dictionary(), [], []

    def phrase(part, case):
        """The translation of article, adjectives, noun; and whether it is a plural."""
        stem, gender, plural = words[part[-1]][1:]
        mark = {"m": "oi", "f": "ae"}[gender][plural]
        agree = f"-{mark}{case}"
        noun = [stem, "-u" + "s" * plural + ("m" if case else "")]
        front = ["l", agree] if words[part[0]][1] else []
        back = [token for a in part[-2:0:-1] for token in (words[a][1], agree)]
        return front + noun + back, plural

    def close():
        kinds = [words[w][0] for w in clause]
        verb, noun = kinds.index("verb"), kinds.index("noun")
        future = kinds[verb - 1] == "will"
        subject, plural = phrase(clause[: noun + 1], "")
        rest, where = clause[verb + 1 :], []
        if "place" in kinds:
            at = kinds.index("place")
            where = phrase(clause[at + 1 :], "")[0] + [words[clause[at]][1]]
            rest = clause[verb + 1 : at]
        what = phrase(rest, "n")[0] if rest else []
        tense = "future" if future else words[clause[verb]][2]
        ending = {"present": "-ar", "past": "-ir", "future": "-or"}[tense] + "an" * plural
        if tense == "present":
            assert words[clause[verb]][3] == plural, "the English verb does not agree"
        return subject + where + what + [words[clause[verb]][1], ending]

    for word in english.split():
        if words[word][0] == "link":
            out += close() + [words[word][1]]
            clause = []
        else:
            clause.append(word)
    return " ".join(out + close())


def test_translations_are_what_the_rules_say_and_agreement_follows_the_noun():
    rows = tasks.translation(600, 1)
    for english, translated, _ in rows:
        assert translated == by_rule(english)
    assert {w for e, _, _ in rows for w in e.split()} == set(dictionary())
    assert len({e for e, _, _ in tasks.translation(2000, 2)}) > 1900
    assert max(len(e.split()) for e, _, _ in rows) <= 31


def test_the_example_in_the_docstring_is_true():
    english, translated = (
        "the small dogs saw a red bird",
        ("l -i hun -us pet -i av -um ruz -an vid -iran"),
    )
    assert by_rule(english) == translated
    assert english in tasks.translation.__doc__ and translated in tasks.translation.__doc__


def test_alignment_names_the_words_that_decide_each_token():
    words = dictionary()
    stems = {value[1]: value[0] for value in words.values() if len(value) > 1}
    for english, translated, alignment in tasks.translation(200, 3):
        source, tokens = english.split(), translated.split()
        assert len(alignment) == len(tokens)
        for token, places, before in zip(tokens, alignment, ["", *tokens]):
            kinds = [words[source[i]][0] for i in places]
            if not token.startswith("-"):
                assert kinds == ["det" if token == "l" else stems[token]]
                if token != "l":
                    assert words[source[places[0]]][1] == token
            elif before in GENDERS or before == "l" or stems[before] == "adjective":
                assert kinds == ["noun"]
                if before in GENDERS:
                    assert words[source[places[0]]][1] == before
            else:
                assert kinds[0] == "noun" and kinds[1] in ("verb", "will")


def test_translation_takes_a_seed_and_at_most_so_many_clauses():
    assert tasks.translation(20, 5) == tasks.translation(20, 5) != tasks.translation(20, 6)
    generator = torch.Generator().manual_seed(5)
    one, two = tasks.translation(20, generator), tasks.translation(20, generator)
    assert one == tasks.translation(20, 5) != two
    links = {"because", "while", "when"}
    for clauses in (1, 3):
        most = max(
            sum(w in links for w in e.split()) for e, _, _ in tasks.translation(200, 1, clauses)
        )
        assert most == clauses - 1
    with pytest.raises(ValueError, match="clauses must be a whole number of at least 1"):
        tasks.translation(5, clauses=0)
