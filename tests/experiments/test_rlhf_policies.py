"""RLHF's third step: each method moves the policy, none its reference; what is measured of it."""

import pytest
import torch

from llmbook.experiments.rlhf import limits, measured, policies, rewards, runs, world
from llmbook.seeds import generator


@pytest.fixture(scope="module")
def proxy():
    return rewards.reward_model()


@pytest.fixture(scope="module")
def rows():
    return rewards.distinct(rewards.comparisons(rewards.sft_model(), 12, seed=7))


def moved(policy):
    """The largest change of a weight from the SFT model's."""
    before = dict(rewards.sft_model().named_parameters())
    return max((p - before[n]).abs().max().item() for n, p in policy.named_parameters())


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("dpo", {"chosen", "rejected", "accuracy"}),
        ("online", {"chosen", "rejected", "reward", "true"}),
        ("grpo", {"reward", "true", "kl_answer", "length", "entropy"}),
        ("ppo", {"reward", "true", "kl", "clipped", "explained", "value_loss"}),
    ],
)
def test_a_step_of_each_method_moves_the_policy_and_tells_of_itself(method, told, proxy, rows):
    make = {
        "dpo": lambda: policies.dpo(rows, 1, 2),
        "online": lambda: policies.online_dpo(proxy, 1, 1),
        "grpo": lambda: policies.grpo(proxy, 1, 1),
        "ppo": lambda: policies.ppo(proxy, 1, 1),
    }[method]
    policy, history = make()
    assert moved(policy) > 0 and moved(rewards.sft_model()) == 0
    assert told <= set(policies.curves(history))
    again, _ = make()
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), again.parameters()))


def test_curves_are_means_over_stretches():
    class History:
        noted = {"kl": [(0, 1.0), (1, 3.0), (2, 5.0), (3, 7.0), (4, 100.0)]}

    assert policies.curves(History, 2) == {"kl": [2.0, 6.0]}


def test_pairs_are_the_best_and_the_worst_of_a_name():
    assert policies.pairs_of([([1], [[2], [3], [4]], [1, 2, 0])]) == [([1], [4], [3])]


def test_the_fine_tuned_model_is_no_nat_from_itself_and_wins_half(proxy):
    prompts = measured.held_out()[:6]
    found, true = measured.measure(rewards.sft_model(), proxy, 3, prompts=prompts, n=4)
    assert abs(found["kl"]) < 1e-4 and true.shape == (6, 4)
    again, _ = measured.measure(rewards.sft_model(), proxy, 3, true, prompts=prompts, n=4)
    assert again["true"] == found["true"]
    assert again["wins"] == 0.5  # its own answers against themselves
    assert found["entropy_token"] == pytest.approx(found["entropy"] / found["length"], abs=1e-3)
    base = runs.make_policy("base", 1)[0]
    assert measured.measure(base, proxy, 3, prompts=prompts, n=4)[0]["kl"] > 5


def test_answers_in_parts_are_as_many_as_asked_for():
    parts = measured.answers_to(measured.held_out()[:5], rewards.sft_model(), 256, 1, room=1)
    assert [len(part.targets) for part in parts] == [512, 512, 256]


def test_a_prefilled_answer_begins_as_told_and_its_beginning_is_judged():
    prompts = measured.held_out()[:2]
    found = measured.prefilled(rewards.sft_model(), 1, " Raise an error", prompts, n=4)
    assert found["negative"] == 1.0  # "error" is one of the words
    assert all(text.startswith(" Raise an error") for text in found["examples"])
    plain = measured.prefilled(rewards.sft_model(), 1, " Return the name", prompts, n=4)
    assert plain["negative"] < 1 and plain["true"] > found["true"]


def test_labellers_who_like_length_prefer_the_longer_of_equals():
    class Rollouts:
        answers = [
            world.tokenizer().encode(t) for t in ("Set the name.", "Set the name of a file.")
        ]
        ended, n = torch.ones(2, dtype=torch.bool), 2

    assert world.labelled(Rollouts, generator(0, "a")) == [[0, 0]]
    assert world.labelled(Rollouts, generator(0, "a"), 0.3) == [[1, 0]]


def test_the_second_round_asks_about_other_names():
    model = rewards.sft_model()
    first = rewards.comparisons(model, 4, k=2, seed=5)
    second = rewards.comparisons(model, 4, k=2, seed=5, skip=4)
    names = [{tuple(row[0]) for row in rows} for rows in (first, second)]
    assert len(names[0] | names[1]) == 8


def test_the_two_kinds_of_rounds_spend_the_same(monkeypatch, proxy):
    spent = {"names": 0, "steps": 0}

    def comparisons(model, n, **how):
        spent["names"] += n
        return []

    def grpo(proxy, seed, steps, **how):
        spent["steps"] += steps
        return rewards.sft_model(), None

    monkeypatch.setattr(limits, "comparisons", comparisons)
    monkeypatch.setattr(limits, "learned", lambda rows, seed: proxy)
    monkeypatch.setattr(limits, "grpo", grpo)
    monkeypatch.setattr(limits, "told", lambda *a: {})
    found = []
    for rounds in (limits.one_round, limits.two_rounds):
        spent.update(names=0, steps=0)
        rounds(1)
        found.append(dict(spent))
    assert found[0] == found[1] == {"names": limits.NAMES, "steps": 2 * limits.ROUND}


def test_a_recorded_run_tells_how_far_it_is(monkeypatch, capsys, rows):
    monkeypatch.setattr(policies, "steps_of", lambda method: 1)
    monkeypatch.setattr(runs, "compared", lambda: rows)
    for method in runs.METHODS[2:]:
        runs.make_policy(method, 1)
        assert "/1  loss" in (told := capsys.readouterr().out) or "/2  loss" in told, method


def test_the_record_can_be_made_in_parts():
    parts = [part for part, _, _ in runs.points()]
    assert set(parts) == set(runs.PARTS)
    assert len({(part, key) for part, key, _ in runs.points()}) == len(parts)
