"""RLHF's experiment: the true reward by hand, labellers who are the ratings, what ships."""

import statistics

import pytest
import torch

from llmbook.alignment.reward import pairwise_accuracy
from llmbook.alignment.rollouts import Rollouts, roll_out
from llmbook.experiments import rlhf as lab
from llmbook.losses import IGNORED
from llmbook.seeds import generator


def rollouts_of(texts, n):
    """Rollouts whose answers are these texts, each ended."""
    answers = [[*lab.tokenizer().encode(text), lab.END] for text in texts]
    width = max(map(len, answers))
    targets = torch.full((len(texts), width), IGNORED)
    for row, answer in enumerate(answers):
        targets[row, : len(answer)] = torch.tensor(answer)
    ids = torch.ones(len(texts), width, dtype=torch.int64)
    ended = torch.ones(len(texts), dtype=torch.bool)
    return Rollouts(ids, ids.bool(), targets, torch.zeros(len(texts), width), ended, n)


def test_every_word_has_the_ratings_of_ten_people():
    table = lab.ratings()
    assert len(table) == 387
    assert all(len(r) == 10 and all(-4 <= x <= 4 for x in r) for r in table.values())
    assert statistics.fmean(table["error"]) < 0 < statistics.fmean(table["safe"])


def test_the_true_reward_by_hand():
    safe, error = (statistics.fmean(lab.ratings()[word]) for word in ("safe", "error"))
    reward = lab.true_reward
    assert reward("Return the file name.", True) == 0
    assert reward("Return a safe file name.", True) == pytest.approx(safe)
    assert reward("Return a safe, safe file name.", True) == pytest.approx(safe - 1)  # repeated
    assert reward("Return an error of the file.", True) == pytest.approx(error)
    assert reward("Return the fligle name.", True) == -1  # no word of the documentation
    assert reward("Return the file name", False) == -3  # doesn't end
    assert reward("Safe", True) == pytest.approx(safe - 3)  # says nothing
    many = "Return the successful positive safe useful special helpful thing"
    assert reward(many, True) == 5


def test_a_labeller_ranks_the_higher_utility_first_and_equal_answers_as_a_tie():
    texts = ["Return a safe file name.", "Return the file name.", "Return this file name.", "No"]
    ranks = lab.labelled(rollouts_of(texts, 4), generator(0, "test"))
    assert ranks == [[0, 1, 1, 2]]


def test_labellers_disagree_as_the_ratings_do():
    """One word before the other as often as one of ten ratings is above another."""
    texts = ["Return the created name.", "Return the accepted name."]
    a, b = (lab.ratings()[word] for word in ("created", "accepted"))
    first = second = 0
    for seed in range(400):
        (ranks,) = lab.labelled(rollouts_of(texts, 2), generator(seed, "dice"))
        first, second = first + (ranks[0] < ranks[1]), second + (ranks[0] > ranks[1])
    want = sum(x > y for x in a for y in b) / sum(x != y for x in a for y in b)
    assert first and second
    assert first / (first + second) == pytest.approx(want, abs=0.09)


def test_demonstrations_are_short_and_no_name_is_on_both_sides():
    train, held_out = lab.demonstrations(), lab.demonstrations("validation")
    assert len(train) > 800 and len(held_out) > 40
    assert max(len(p) for p, _ in train) <= lab.LONGEST_PROMPT
    assert max(len(a) for _, a in train) < lab.LONGEST_ANSWER
    assert not {tuple(p) for p, _ in train} & {tuple(p) for p, _ in held_out}


def test_a_demonstration_s_loss_is_on_the_answer_and_its_end_alone():
    ids, targets = lab.sft_batch(0, rows=4)
    for row in range(4):
        counted = targets[row][targets[row] != IGNORED].tolist()
        text = lab.tokenizer().decode(counted[:-1])
        assert counted[-1] == lab.END and text.startswith(" ")
        begin = int((targets[row] != IGNORED).nonzero()[0])
        assert lab.tokenizer().decode(ids[row, : begin + 1].tolist()).endswith(":")


def test_what_ships_is_small_and_is_a_model_that_answers_and_one_that_judges():
    assert sum(f.stat().st_size for f in lab.WEIGHTS.iterdir()) < 2_000_000
    rollouts = roll_out(lab.sft_model(), lab.held_out()[:16], 1, max_new_tokens=32)
    assert rollouts.ended.float().mean() > 0.5
    rows = lab.distinct(lab.comparisons(lab.sft_model(), 24, seed=3, split="validation"))
    accuracy, rewards = lab.accuracy(lab.reward_model(), rows)
    assert accuracy == pairwise_accuracy(rewards, torch.tensor([r for *_, r in rows]))
    assert accuracy > 0.55


def test_best_of_one_is_the_policy_itself():
    found = lab.best_of(1, lab.reward_model(), prompts=lab.held_out()[:8])
    assert found["kl"] == 0 and found["true"] == found["oracle"]


def test_the_record_has_every_reward_model_and_begins_from_what_ships():
    runs = lab.recorded_runs()
    for part, key, _ in lab.points():
        if part != "policy" and part != "best":
            assert key in runs[part], (part, key)
    found = lab.accuracy(lab.reward_model(), lab.compared("validation"))[0]
    assert found == pytest.approx(runs["start"]["weights"]["accuracy"], abs=0.05)


@pytest.mark.slow
def test_a_recorded_reward_model_is_the_one_that_is_trained_here():
    found = lab.reward_run("sft", 1)
    recorded = lab.recorded_runs()["reward"]["sft/1"]
    assert found["new"] == pytest.approx(recorded["new"], abs=0.08)
