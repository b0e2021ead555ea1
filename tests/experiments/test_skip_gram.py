"""The recorded runs of skip-gram: the world that it reads, its neighbours, and what was found."""

import pytest
import torch

from llmbook.experiments import skip_gram
from llmbook.experiments.record import main, recorded


def lines_of(word):
    """The sentences in which a word may stand, as often as the world has them."""
    return sorted(line for one, line in skip_gram.FACTS if one == word)


def test_opposites_share_all_their_sentences_and_king_and_queen_most():
    assert lines_of("cheap") == lines_of("expensive")
    king, queen = set(lines_of("king")), set(lines_of("queen"))
    assert len(king & queen) == 4 and len(king - queen) == len(queen - king) == 1
    assert not king & set(lines_of("table"))
    assert not set(lines_of("cheap")) & set(lines_of("table"))


def test_neighbours_are_both_ways_up_to_three_places_away_within_a_sentence(monkeypatch):
    monkeypatch.setattr(skip_gram, "FACTS", [("cat", "a {} b c d")])
    monkeypatch.setattr(skip_gram, "SENTENCES", 2)
    pairs, index = skip_gram.neighbours(0)
    names = {i: word for word, i in index.items()}
    found = sorted((names[a], names[b]) for a, b in pairs.tolist())
    line = "a cat b c d".split()
    wanted = [(a, b) for i, a in enumerate(line) for j, b in enumerate(line) if 0 < abs(i - j) < 4]
    assert found == sorted(2 * wanted)


def test_a_seed_gives_the_same_run_and_another_another_text():
    one, again = (skip_gram.train(3, steps=4) for _ in range(2))
    assert torch.equal(one[1], again[1]) and not torch.equal(one[0], one[1])
    assert not torch.equal(skip_gram.neighbours(3)[0][:50], skip_gram.neighbours(4)[0][:50])


def test_nearness_is_the_cosine_of_the_trained_rows():
    index = {word: i for i, word in enumerate("king queen table cheap expensive".split())}
    after = torch.tensor([[1.0, 0], [1, 1], [0, 2], [3, 0], [-1, 0]])
    start = torch.eye(5)
    start[1] = start[0]  # one pair of ten at cosine 1
    found = skip_gram.nearness(start, after, index)
    assert found["king queen"] == pytest.approx(0.5**0.5, abs=1e-4)
    assert found["king table"] == 0 and found["cheap expensive"] == -1
    assert found["mean size at the start"] == 0.1


def test_the_record_has_every_seed_and_one_comes_out_again():
    runs = recorded(skip_gram.OUT)
    assert list(runs["world"]) == [str(seed) for seed in skip_gram.SEEDS]
    assert "dirty" not in runs["_run"]["commit"]
    assert runs["_run"]["command"] == "python -m llmbook record skip_gram"
    now = skip_gram.nearness(*skip_gram.train(skip_gram.SEEDS[0]))
    assert now == pytest.approx(runs["world"]["1"], abs=0.02)


def test_recording_goes_on_with_the_seed_that_is_missing(tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    monkeypatch.setattr(skip_gram, "SEEDS", (1,))
    assert main(["skip_gram", "--out", str(out)]) == 0
    first = recorded(out)["world"]
    monkeypatch.setattr(skip_gram, "SEEDS", (1, 2))
    assert main(["skip_gram", "--out", str(out)]) == 0
    assert list(recorded(out)["world"]) == ["1", "2"] and recorded(out)["world"]["1"] == first["1"]
