"""RLHF's experiment: the true reward by hand, labellers who are the ratings, what ships."""

import itertools
import math
import statistics

import pytest
import torch

from llmbook.alignment.reward import pairwise_accuracy
from llmbook.alignment.rollouts import Rollouts, roll_out
from llmbook.experiments.rlhf import measured, policies, rewards, runs, world
from llmbook.losses import IGNORED
from llmbook.seeds import generator


def rollouts_of(texts, n):
    """Rollouts whose answers are these texts, each ended."""
    answers = [[*world.tokenizer().encode(text), world.END] for text in texts]
    width = max(map(len, answers))
    targets = torch.full((len(texts), width), IGNORED)
    for row, answer in enumerate(answers):
        targets[row, : len(answer)] = torch.tensor(answer)
    ids = torch.ones(len(texts), width, dtype=torch.int64)
    ended = torch.ones(len(texts), dtype=torch.bool)
    return Rollouts(ids, ids.bool(), targets, torch.zeros(len(texts), width), ended, n)


def test_every_word_has_the_ratings_of_ten_people():
    table = world.ratings()
    assert len(table) == 387
    assert all(len(r) == 10 and all(-4 <= x <= 4 for x in r) for r in table.values())
    assert statistics.fmean(table["error"]) < 0 < statistics.fmean(table["safe"])


def test_the_true_reward_by_hand():
    safe, error = (statistics.fmean(world.ratings()[word]) for word in ("safe", "error"))
    reward = world.true_reward
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
    ranks = world.labelled(rollouts_of(texts, 4), generator(0, "test"))
    assert ranks == [[0, 1, 1, 2]]


def test_labellers_disagree_as_the_ratings_do():
    """One word before the other as often as one of ten ratings is above another."""
    texts = ["Return the created name.", "Return the accepted name."]
    a, b = (world.ratings()[word] for word in ("created", "accepted"))
    first = second = 0
    for seed in range(400):
        (ranks,) = world.labelled(rollouts_of(texts, 2), generator(seed, "dice"))
        first, second = first + (ranks[0] < ranks[1]), second + (ranks[0] > ranks[1])
    want = sum(x > y for x in a for y in b) / sum(x != y for x in a for y in b)
    assert first and second
    assert first / (first + second) == pytest.approx(want, abs=0.09)


def test_demonstrations_are_short_and_no_name_is_on_both_sides():
    train, held_out = world.demonstrations(), world.demonstrations("validation")
    assert len(train) > 800 and len(held_out) > 40
    assert max(len(p) for p, _ in train) <= world.LONGEST_PROMPT
    assert max(len(a) for _, a in train) < world.LONGEST_ANSWER
    assert not {tuple(p) for p, _ in train} & {tuple(p) for p, _ in held_out}


def test_a_demonstration_s_loss_is_on_the_answer_and_its_end_alone():
    ids, targets = rewards.sft_batch(0, rows=4)
    for row in range(4):
        counted = targets[row][targets[row] != IGNORED].tolist()
        text = world.tokenizer().decode(counted[:-1])
        assert counted[-1] == world.END and text.startswith(" ")
        begin = int((targets[row] != IGNORED).nonzero()[0])
        assert world.tokenizer().decode(ids[row, : begin + 1].tolist()).endswith(":")


def test_what_ships_is_small_and_is_a_model_that_answers_and_one_that_judges():
    assert sum(f.stat().st_size for f in rewards.WEIGHTS.iterdir()) < 2_000_000
    rollouts = roll_out(rewards.sft_model(), measured.held_out()[:16], 1, max_new_tokens=32)
    assert rollouts.ended.float().mean() > 0.5
    rows = rewards.distinct(
        rewards.comparisons(rewards.sft_model(), 24, seed=3, split="validation")
    )
    accuracy, scores = rewards.accuracy(rewards.reward_model(), rows)
    assert accuracy == pairwise_accuracy(scores, torch.tensor([r for *_, r in rows]))
    assert accuracy > 0.55


def test_best_of_one_is_the_policy_itself():
    found = measured.best_of(rewards.reward_model(), prompts=measured.held_out()[:4], n=4)
    assert found["kl"][0] == 0 and found["true"][0] == found["oracle"][0]
    assert found["proxy"] == sorted(found["proxy"]) and found["oracle"] == sorted(found["oracle"])


def test_the_best_of_k_by_places_is_the_mean_over_all_choices_of_k():
    values = torch.tensor([0.0, 1.0, 5.0, 7.0, 8.0]).double()
    for k in (1, 2, 3, 5):
        every = [max(choice) for choice in itertools.combinations(values.tolist(), k)]
        assert float(values @ measured.chances(5, k)) == pytest.approx(statistics.fmean(every))


def test_wins_count_pairs_of_answers_to_one_prompt_and_ties_are_half():
    ours, theirs = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[2.0], [0.0]])
    assert measured.wins(ours, theirs) == (0 + 1 + 0.5 + 0.5) / 4


def test_every_method_gets_the_same_number_of_passes():
    for method, cost in policies.COST.items():
        spent = policies.steps_of(method) * policies.ROWS * cost
        assert spent == pytest.approx(policies.PASSES, rel=0.05)


def test_the_record_has_every_run_and_begins_from_what_ships():
    recorded = runs.recorded_runs()
    held = {(part, key) for part, found in recorded.items() if part != "_run" for key in found}
    assert held == {(part, key) for part, key, _ in runs.points()}
    found = rewards.accuracy(rewards.reward_model(), rewards.compared("validation"))[0]
    assert found == pytest.approx(recorded["start"]["weights"]["accuracy"], abs=0.05)


@pytest.mark.parametrize("method", runs.METHODS[2:])
def test_each_method_beats_the_fine_tuned_model_in_four_of_five_recorded_seeds(method):
    true = {m: runs.over_seeds("policy", m, "true") for m in ("sft", method)}
    assert len(true["sft"]) == len(true[method]) == 5
    assert sum(b > a for a, b in zip(true["sft"], true[method], strict=True)) >= 4


@pytest.fixture
def fresh_weights(tmp_path, monkeypatch):
    """Where the chain's models are written and read: an empty folder, no comparisons kept."""
    monkeypatch.setattr(rewards, "WEIGHTS", tmp_path / "rlhf")
    rewards.compared.cache_clear()
    yield tmp_path / "rlhf"
    rewards.compared.cache_clear()


@pytest.mark.slow
def test_the_chain_from_the_base_model_to_policies(fresh_weights):
    """Step 1, step 2, a few updates of step 3, each from what the one before has just made."""
    found = rewards.start_run()
    assert found["loss"][-1] < 0.7 * found["loss"][0]
    assert found["accuracy"] > 0.6
    assert {f.name for f in fresh_weights.iterdir()} == {"sft.safetensors", "reward.safetensors"}

    def true(policy):
        return measured.measure(policy, proxy, 1)[0]["true"]

    proxy, tuned = rewards.reward_model(), rewards.sft_model()
    worth = true(tuned)
    assert worth > true(runs.make_policy("base", 1)[0]) + 1
    made = {
        "ppo": policies.ppo(proxy, 1, 3),
        "dpo": policies.dpo(rewards.compared(), 1, 8),
        "grpo": policies.grpo(proxy, 1, 6),
    }
    for method, (policy, history) in made.items():
        assert all(math.isfinite(loss) for loss in history.losses), method
        assert true(policy) > worth - 0.5, method  # a few updates: moved, and not broken
        same = zip(policy.parameters(), tuned.parameters(), strict=True)
        assert not all(torch.equal(a, b) for a, b in same), method


@pytest.mark.slow
def test_a_recorded_reward_model_is_the_one_that_is_trained_here():
    found = rewards.reward_run("sft", 1)
    recorded = runs.recorded_runs()["reward"]["sft/1"]
    assert found["new"] == pytest.approx(recorded["new"], abs=0.08)


@pytest.mark.slow
def test_a_recorded_policy_is_the_one_that_is_trained_here():
    found = runs.beta_run(0.5, 1)
    recorded = runs.recorded_runs()["beta"]["0.5/1"]
    assert found["true"] == pytest.approx(recorded["true"], abs=0.4)
    assert found["kl"] == pytest.approx(recorded["kl"], abs=1.0)
