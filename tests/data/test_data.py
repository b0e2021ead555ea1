"""The offline corpus: sides that never change, and nothing on both of them."""

import hashlib
import json
import sys

import pytest
import torch

from llmbook import data
from llmbook.data import corpus, docstrings
from llmbook.tokenization.characters import PRINTABLE

PARAGRAPH = 60


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LLMBOOK_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def whole(cache):
    """The real corpus of this machine, read once for this module: a few CPU-seconds."""
    return data.documentation("all")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A machine whose standard library is three files: `small(name)` reads its documentation."""
    library = tmp_path / "library"
    (library / "pack" / "test").mkdir(parents=True)
    (library / "pack" / "test" / "unseen.py").write_text('"""' + "A test module. " * 9 + '"""')
    (library / "pack" / "__init__.py").write_text(
        "raise SystemExit('imported!')\n"
        "class Thing:\n"
        '    """A thing with a long description that is worth a document of its own, and '
        'then more."""\n'
        "    def turn(self, by, *, slowly: bool = False, **more):\n"
        '        """Turn the thing by an angle.\n\n        '
        'Shared paragraph, long enough to count: it says that angles are in radians."""\n'
        "if True:\n"
        "    def turn_all(things):\n"
        '        """Turn all of the things.\n\n        '
        "Shared paragraph, long enough to count: it says that angles are in radians.\n\n        "
        'It has something to add, in so many words that it remains a document.\n        """\n'
    )
    (library / "broken.py").write_text("def (:\n")
    latin = "# coding: latin-1\n'''Café: " + "good coffee. " * 9 + "'''"
    (library / "latin.py").write_bytes(latin.encode("latin-1"))
    monkeypatch.setattr(docstrings, "standard_library", lambda: library)
    monkeypatch.setattr(docstrings, "topics", lambda: [])
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "cache"))
    return lambda split="all", size="quick": data.documentation(split, size)


def paragraphs(documents):
    keys = (" ".join(p.lower().split()) for d in documents for p in d.text.split("\n\n"))
    return [key for key in keys if len(key) >= PARAGRAPH]


def cache_files(folder):
    return sorted((folder / "corpus").iterdir())


# The corpus


def test_a_name_decides_the_side_and_the_order(whole):
    train, validation = data.documentation("train"), data.documentation("validation")
    names = [document.name for document in whole]
    assert names == sorted(set(names))
    assert [d.name for d in train] == [n for n in names if _remainder(n) != 0]
    assert [d.name for d in validation] == [n for n in names if _remainder(n) == 0]
    assert 0.03 < len(validation) / len(whole) < 0.07
    assert train.sha256 != validation.sha256 != whole.sha256
    # The hash that every machine computes, worked out once.
    assert data.split_of("json.dumps") == "train"
    assert data.split_of("uuid.UUID") == "validation"


def _remainder(name):
    return int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") % 20


def test_no_paragraph_is_in_two_documents(whole):
    found = paragraphs(whole)
    assert len(found) > 2000
    train = set(paragraphs(data.documentation("train")))
    assert not train & set(paragraphs(data.documentation("validation")))
    assert len(set(document.text for document in whole)) == len(whole)


def test_the_text_is_clean(whole):
    assert set(whole.text) <= set(PRINTABLE)
    for document in whole:
        assert len(document.text) >= 80
        assert document.text == document.text.strip("\n").rstrip()
        assert "\n\n\n" not in document.text and " \n" not in document.text


def test_the_quick_corpus_is_python_s_topics_and_docstrings(whole):
    text = {document.name: document for document in whole}
    assert "Serialize `obj` to a JSON formatted `str`" in text["json.dumps"].text
    assert text["json.dumps"].signature.startswith("(obj, *, skipkeys=False")
    assert text["pydoc_data.topics.pass"].text.startswith('The "pass" statement\n')
    standard = sum(len(d.text) for d in whole if not d.name.startswith("pydoc_data.topics"))
    assert 700_000 < standard <= 2_000_000
    assert 900_000 < whole.characters == sum(map(len, (d.text for d in whole)))
    assert list(whole.versions) == ["python"]


def test_a_corpus_says_what_it_is(whole):
    card = json.loads(json.dumps(whole.card()))
    assert card["sha256"] == whole.sha256 and card["characters"] == whole.characters
    assert card["versions"] == {"python": sys.version.split()[0]}
    documents = [data.Document("a", "text"), data.Document("b", "more")]
    first = data.Corpus(documents, {})
    assert first.text == "text\n\nmore" and first.characters == 8 and first[1].name == "b"
    for other in (
        [data.Document("a", "text"), data.Document("c", "more")],
        [data.Document("a", "text"), data.Document("b", "mere")],
        [data.Document("a", "textb"), data.Document("", "more")],
    ):
        assert data.Corpus(other, {}).sha256 != first.sha256


def test_a_second_call_reads_the_cache(whole, monkeypatch):
    def unexpected(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(corpus, "_read", unexpected)
    again = data.documentation("all")
    assert again.sha256 == whole.sha256 and again.documents == whole.documents


def test_sources_are_read_and_never_run(small):
    documents = {document.name: document for document in small()}
    assert sorted(documents) == ["latin", "pack.Thing", "pack.Thing.turn", "pack.turn_all"]
    assert documents["pack.Thing.turn"].signature == "(by, *, slowly: bool=False, **more)"
    assert documents["pack.Thing.turn"].summary == "Turn the thing by an angle."
    assert "radians" in documents["pack.Thing.turn"].text
    assert "radians" not in documents["pack.turn_all"].text
    assert "something to add" in documents["pack.turn_all"].text
    assert documents["latin"].text.startswith("Cafe: good coffee.")


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "head"])
def test_a_damaged_cache_file_is_said_and_rebuilt(small, tmp_path, damage):
    before = small()
    [path] = cache_files(tmp_path / "cache")
    good = path.read_bytes()
    bad = {
        "flipped": good.replace(b"coffee", b"toffee", 1),
        "cut": good[:-40],
        "empty": b"",
        "head": b"{}" + good[good.index(b"\n") :],
    }[damage]
    path.write_bytes(bad)
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged .*expected"):
        again = small()
    assert again.sha256 == before.sha256
    assert path.read_bytes() == good and cache_files(tmp_path / "cache") == [path]


def test_a_cache_that_cannot_be_written_costs_time_and_no_more(small, tmp_path):
    good = small().sha256
    [path] = cache_files(tmp_path / "cache")
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way")
    with pytest.warns(UserWarning) as said:
        assert small().sha256 == good
    assert "can't be read" in str(said[0].message) and "LLMBOOK_CACHE" in str(said[1].message)


def test_a_write_that_fails_leaves_what_was_there(small, tmp_path, monkeypatch):
    small()
    [path] = cache_files(tmp_path / "cache")
    good = path.read_bytes()

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(KeyboardInterrupt):
        corpus._store(path, [data.Document("a", "text")])
    assert path.read_bytes() == good and cache_files(tmp_path / "cache") == [path]


def test_other_versions_have_their_own_cache_file(small, tmp_path, monkeypatch):
    small()
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    assert small().versions == {"python": "3.99.0"}
    assert len(cache_files(tmp_path / "cache")) == 2
    paths = [corpus._cache_path("full", {"python": "3.99", "torch": v}) for v in ("2.1", "2.2")]
    assert paths[0] != paths[1]


def test_full_adds_libraries_with_their_versions(small, monkeypatch, capsys):
    monkeypatch.setattr(corpus, "_LIBRARIES", {"quick": (), "full": ("pooch", "absent_one")})
    monkeypatch.setattr(corpus, "_REQUIRED", ())
    full, quick = small(size="full"), small()
    names = {document.name for document in full}
    assert {document.name for document in quick} < names and "pooch.core.retrieve" in names
    assert list(full.versions) == ["python", "pooch"]
    progress = capsys.readouterr().err
    assert "reading documentation: pooch" in progress and "\r" not in progress
    monkeypatch.setattr(corpus, "_REQUIRED", ("absent_one",))
    with pytest.raises(ValueError, match="absent_one: install it first"):
        small(size="full")


def test_the_budget_is_kept_and_chosen_by_name(monkeypatch):
    monkeypatch.setattr(corpus, "_QUICK_BUDGET", 1000)
    entries = [(f"m.f{i}", "", "x" * 30) for i in range(100)]
    chosen = corpus._within_budget(entries)
    assert len(chosen) == 33
    assert sorted(corpus._within_budget(entries[::-1])) == sorted(chosen) != sorted(entries)[:33]
    # A version that lacks a few entries has nearly the same ones.
    fewer = set(corpus._within_budget(entries[10:]))
    assert len(fewer & set(chosen)) >= 28


def test_the_quick_corpus_keeps_the_budget(small, monkeypatch):
    monkeypatch.setattr(corpus, "_LIBRARIES", {"quick": (), "full": ()})
    monkeypatch.setattr(corpus, "_QUICK_BUDGET", 200)
    assert 0 < small().characters <= 200 < small(size="full").characters


@pytest.mark.parametrize(
    "raw, cleaned",
    [
        ("Title\n*****\n\nText", "Title\n\nText"),
        ("Parameters\n----------\nx : int", "Parameters\nx : int"),
        ("a\n\n\n\nb  \n\tc", "a\n\nb\n    c"),
        (
            ":class:`~torch.Tensor`, :func:`this <that>`, ``code``",
            "`torch.Tensor`, `this`, `code`",
        ),
        ("it’s “so” — 1 ≤ 2… é\x0c∮", 'it\'s "so" - 1 <= 2... e'),
        ("a\r\nb", "a\nb"),
    ],
)
def test_cleaning(raw, cleaned):
    assert docstrings.clean(raw) == cleaned


def test_emphasis_goes_and_stars_of_code_stay():
    raw = "*This* is **bold**: f(*args, **kwargs), a*b*c, 2 ** 3 * 4"
    assert docstrings.clean(raw, emphasis=True) == (
        "This is bold: f(*args, **kwargs), a*b*c, 2 ** 3 * 4"
    )


def test_questions_have_their_documented_answers_once(whole):
    train, validation = data.question_answers("train"), data.question_answers("validation")
    everything = {pair.name: pair for pair in data.question_answers("all")}
    assert len(everything) == len(train) + len(validation) > 1000
    pair = everything["json.loads"]
    assert pair.question.startswith("What does json.loads(s, *, cls=None")
    assert pair.answer.startswith("Deserialize `s`")
    answers = [pair.answer.lower().rstrip(".") for pair in everything.values()]
    assert len(set(answers)) == len(answers)
    assert all(data.split_of(pair.name) == "validation" for pair in validation)
    for pair in everything.values():
        assert "\n" not in pair.answer and 0 < len(pair.answer) <= 200
        assert not any(part.startswith("_") for part in pair.name.split("."))


@pytest.mark.parametrize("function", [data.documentation, data.question_answers])
def test_unknown_splits_and_sizes_are_named(function):
    with pytest.raises(ValueError, match="split must be one of train, .*all: got 'test'"):
        function("test")
    with pytest.raises(ValueError, match="size must be one of smoke, quick, full: got 'huge'"):
        function("train", "huge")


# Batches


def test_targets_are_the_next_tokens_and_every_start_occurs():
    ids = torch.arange(20)
    stream = data.batches(ids, 40, 5, generator=1)
    starts = set()
    for _ in range(20):
        inputs, targets = next(stream)
        assert inputs.shape == targets.shape == (40, 5) and inputs.dtype == torch.int64
        assert torch.equal(targets, inputs + 1)
        assert torch.equal(inputs, inputs[:, :1] + torch.arange(5))
        starts |= set(inputs[:, 0].tolist())
    assert starts == set(range(15))


def test_a_seed_gives_the_same_batches():
    ids = torch.arange(1000)
    seeds = 1, torch.Generator().manual_seed(1), 2
    one, two, other = (data.batches(ids, 4, 7, generator=seed) for seed in seeds)
    for _ in range(3):
        a, b, c = next(one)[0], next(two)[0], next(other)[0]
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_shortest_text_makes_one_window():
    inputs, targets = next(data.batches(torch.arange(4), 2, 3))
    assert inputs.tolist() == [[0, 1, 2]] * 2 and targets.tolist() == [[1, 2, 3]] * 2


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (("text", 2, 3), TypeError, "ids must be a tensor, int64"),
        ((torch.zeros(9), 2, 3), TypeError, "float32"),
        ((torch.zeros(9, 1, dtype=torch.int64), 2, 3), ValueError, r"\(9, 1\)"),
        ((torch.arange(3), 2, 3), ValueError, "4 tokens or more: got 3"),
        ((torch.arange(9), 0, 3), ValueError, "batch must be a whole number of at least 1: got 0"),
        (
            (torch.arange(9), 2, -3),
            ValueError,
            "length must be a whole number of at least 1: got -3",
        ),
        ((torch.arange(9), 2, 3, None), TypeError, "generator"),
    ],
)
def test_unfit_batches_are_refused_at_the_call(arguments, error, words):
    with pytest.raises(error, match=words):
        data.batches(*arguments)
