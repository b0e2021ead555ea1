"""The families' made languages: what is asked can be answered, and is recorded."""

import pytest
import torch

from llmbook.experiments.families import toys
from llmbook.experiments.record import recorded


def test_sentences_are_grammatical_and_a_wrong_word_is_seen():
    g = torch.Generator().manual_seed(1)
    rows = [[toys.LEXICON[i] for i in row] for row in toys.sentences(50, g).tolist()]
    assert all(toys.grammatical(row) for row in rows)
    for i, word in ((3, "see"), (3, "sees"), (0, "dog"), (4, "these"), (6, "old")):
        bad = "this small dog sees that old cat".split()
        right = bad[i] == word
        bad[i] = word
        assert toys.grammatical(bad) == right
    assert not toys.grammatical(["this", "small", "dog"])


def test_problems_have_one_right_answer():
    x = torch.tensor([[3, 1, 2, 0, 5], [5, 1, 2, 0, 3]])
    assert toys.solve(toys.REVERSE, x)[0].tolist() == [5, 0, 2, 1, 3]
    assert toys.solve(toys.SORT, x)[0].tolist() == [0, 1, 2, 3, 5]
    assert toys.solve(toys.RISES, x).tolist() == [[toys.YES], [toys.NO]]


@pytest.mark.parametrize("causal", [True, False])
def test_a_decoder_sees_its_past_and_an_encoder_all(causal):
    model, ids = toys.Tiny(9, 8, causal), torch.randint(8, (1, 8))
    other = ids.clone()
    other[0, 5] += 1
    with torch.no_grad():
        moved = (model(ids) - model(other))[0].abs().amax(-1) > 1e-6
    assert moved.tolist() == [not causal or i >= 5 for i in range(8)]


def test_a_pooled_translator_s_memory_is_one_vector():
    model = toys.translator(1, toys.Pooled, layers=1)
    memory, mask = model.encode(torch.randint(10, (3, 7)))
    assert memory.shape == (3, 1, 32) and mask is None


@pytest.mark.parametrize("part", toys.PARTS)
def test_a_part_gives_the_values_that_are_recorded(part):
    found = toys.PARTS[part](1, steps=2)
    held = recorded(toys.OUT)[part]
    assert set(held) == {str(seed) for seed in toys.SEEDS}
    assert all(set(one) == set(found) for one in held.values())
    name = next(iter(found))
    assert toys.over_seeds(part, name) == [held[str(s)][name] for s in toys.SEEDS]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["next", "twice"])
def test_a_recorded_seed_comes_out_again(part):
    for name, value in toys.PARTS[part](1).items():
        assert value == pytest.approx(recorded(toys.OUT)[part]["1"][name], abs=0.05)
