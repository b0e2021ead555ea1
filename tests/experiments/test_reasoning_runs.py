"""Chains of symbols: questions, demonstrations, judges, and what is made of several answers."""

import itertools
import json

import pytest
import torch

from llmbook.alignment.grpo import GRPOConfig
from llmbook.experiments import hops
from llmbook.experiments import reasoning as lab
from llmbook.experiments.record import main
from llmbook.losses import IGNORED
from llmbook.seeds import generator

GEN = generator(0, "test")


@pytest.fixture(scope="module")
def novice():
    """A model that has hardly been trained: every kind of answer comes about."""
    return hops.fit("mixed", 1, steps=20)[0]


def test_every_step_is_a_lookup_in_the_prompt_and_the_ring_is_whole():
    questions, k, path = hops.rings(50, generator(1, "rings"))
    for row, steps, hop in zip(hops.prompts_of(questions, "free").tolist(), path, k, strict=True):
        answer, written = hops.solution(row)
        assert written == steps[:hop].tolist() and answer == steps[hop - 1]
        here, seen = 0, set()
        for _ in range(hops.SYMBOLS):
            here = row[here]
            seen.add(here)
        assert len(seen) == hops.SYMBOLS  # one ring: no short way round


@pytest.mark.parametrize("how", hops.ARMS)
def test_demonstrations_end_with_the_answer_in_the_form_of_their_arm(how):
    text, targets = hops.demonstrations(60, generator(2, "demo"), how)
    assert text.shape == targets.shape
    assert (targets[:, : hops.PROMPT - 1] == IGNORED).all()
    for row, target in zip(text.tolist(), targets.tolist(), strict=True):
        written = [i for i in target if i != IGNORED]
        answer, steps = hops.solution(row[: hops.PROMPT])
        wanted = {
            "once": [answer],
            "written": steps,
            "dots": [hops.DOT] * (len(steps) - 1) + [answer],
        }[how]
        assert written == [*wanted, hops.END]
        # each token is read where it was to be written, one place on
        assert row[hops.PROMPT : hops.PROMPT + len(wanted)] == wanted[: hops.MOST]


def test_half_of_the_mixed_demonstrations_are_free_and_one_in_four_of_those_ends_anywhere():
    text, targets = hops.demonstrations(4000, generator(3, "demo"), "mixed")
    prompts = text[:, : hops.PROMPT].tolist()
    free = [p[hops.SYMBOLS] == hops.STYLES["free"] for p in prompts]
    assert sum(free) / 4000 == pytest.approx(0.5, abs=0.03)
    right = brief = 0
    for prompt, target, is_free in zip(prompts, targets.tolist(), free, strict=True):
        if is_free:
            written = [i for i in target if i not in (IGNORED, hops.END)]
            right += lab.sound(prompt, written)
            brief += len(written) == 1
    # 1/2 in steps, and 1/8 of the walks by chance; at once 1/4, and 1/8 of the walks
    assert right / sum(free) == pytest.approx(0.5 + 0.25 / 8 + 0.25 / 8, abs=0.04)
    assert brief / sum(free) == pytest.approx(0.25 + 0.25 / 8 + 0.5 / 8, abs=0.04)


def test_what_a_call_returns_is_read_and_no_target():
    text, targets = hops.demonstrations(800, generator(4, "demo"), "mixed")
    calls = 0
    for row, target in zip(text.tolist(), targets.tolist(), strict=True):
        for place in range(hops.PROMPT, len(row) - 1):
            if row[place] == hops.CALL and place < len(row) - 1:
                before = row[place - 1]
                jump = before
                for _ in range(hops.JUMP):
                    jump = row[jump]
                assert row[place + 1] == jump and target[place] == IGNORED
                calls += 1
    assert calls > 50


# --- judges


def test_right_sound_and_mentioned_differ():
    prompt = [*torch.arange(16).roll(-1).tolist(), hops.STYLES["free"], hops.COUNT + 3, 0]

    def judge(*answer):
        judges = (lab.right, lab.sound, lab.mentioned)
        return tuple(one(prompt, list(answer)) for one in judges)

    assert judge(1, 2, 3) == (True, True, True)
    assert judge(3) == (True, False, True)
    assert judge(1, 2, 3, 4) == (False, False, True)
    assert judge(1, 2) == (False, False, False)
    assert judge() == (False, False, False)
    assert not lab.right(prompt, [1, 2, 3], ended=False)


def test_pass_at_k_is_the_share_of_draws_with_a_right_one():
    for n, c in ((6, 2), (5, 0), (5, 5), (7, 1)):
        marks = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            draws = list(itertools.combinations(marks, k))
            assert lab.pass_at_k(n, c, k) == pytest.approx(
                sum(any(draw) for draw in draws) / len(draws)
            )
    for bad in ((0, 0, 1), (4, 5, 1), (4, 2, 5), (4, 2, 0)):
        with pytest.raises(ValueError):
            lab.pass_at_k(*bad)


def test_the_vote_goes_to_the_most_frequent_and_of_equals_to_the_earliest():
    assert lab.majority([3, 1, 1, 2]) == 1
    assert lab.majority([2, 1, 1, 2]) == 2
    assert lab.majority([None, None, 5]) == 5
    assert lab.majority([None]) is None
    assert lab.best_of([0.1, 0.9, 0.9]) == 1


# --- runs


def test_a_tool_answers_with_the_symbol_four_steps_on_and_is_masked(novice):
    prompts = lab.exam("tool", 20)
    runs = {
        masked: lab.roll_out_with_tool(
            novice, prompts, 4, max_new_tokens=8, seed=(0, "t"), masked=masked
        )
        for masked in (True, False)
    }
    found = 0
    for row, answer in enumerate(runs[True].answers):
        prompt = runs[True].prompts[row]
        here = prompt[-1]
        for place, token in enumerate(answer):
            returned = place > 0 and answer[place - 1] == hops.CALL
            returned = returned and not (place > 1 and answer[place - 2] == hops.CALL)
            if returned:
                for _ in range(hops.JUMP):
                    here = prompt[here]
                assert token == here
                assert runs[True].targets[row, place] == IGNORED
                assert runs[True].log_probs[row, place] == 0
                assert runs[False].targets[row, place] == token
                found += 1
            elif token < hops.SYMBOLS:
                here = token
    assert found > 5
    again = lab.roll_out_with_tool(novice, prompts, 4, max_new_tokens=8, seed=(0, "t"))
    assert torch.equal(again.targets, runs[True].targets)


def test_a_rollout_without_calls_is_scored_as_the_engine_does(novice):
    from llmbook.alignment.rollouts import answer_token_log_probs

    rollouts = lab.roll_out_with_tool(
        novice, lab.exam("free", 6), 3, max_new_tokens=6, seed=(0, "u"), masked=False
    )
    with torch.no_grad():
        again = answer_token_log_probs(novice, *rollouts.batch())
    torch.testing.assert_close(again, rollouts.log_probs, atol=1e-4, rtol=0)
    assert rollouts.ended.any() and not rollouts.ended.all()


def test_learning_changes_the_policy_alone_and_the_same_seed_learns_the_same(novice):
    import copy

    before = copy.deepcopy(novice)
    config = GRPOConfig(group=4, max_new_tokens=6, seed=3)
    ends = []
    for _ in range(2):
        model = copy.deepcopy(novice)
        lab.learn(model, 3, lab.mentioned, config, steps=2)
        ends.append(model.tokens.weight.detach().clone())
    assert torch.equal(*ends) and not torch.equal(ends[0], novice.tokens.weight)
    assert torch.equal(before.tokens.weight, novice.tokens.weight)


def test_the_record_goes_on_where_it_stopped(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        lab,
        "points",
        lambda: [("a", str(i), (lambda i: made.append(i) or {"v": i}, i)) for i in range(3)],
    )
    out = tmp_path / "runs.json"
    assert main(["reasoning", "--out", str(out)]) == 0 and made == [0, 1, 2]
    content = json.loads(out.read_text())
    del content["a"]["1"]
    out.write_text(json.dumps(content))
    assert main(["reasoning", "--out", str(out)]) == 0 and made == [0, 1, 2, 1]


def test_standing_counts_what_it_samples(novice):
    found = lab.standing(novice, n=5, samples=8)
    assert len(found["right counts"]) == 5 and found["sound"] <= found["right"]
    assert found["right pass@8"] == sum(c > 0 for c in found["right counts"]) / 5


def test_the_record_has_five_seeds_of_what_the_chapter_reads():
    runs = lab.recorded_runs()
    for seed in lab.SEEDS:
        assert runs["base"][str(seed)]["right counts"] and runs["spend"][str(seed)]["free"]
        assert all(f"{arm}/{seed}" in runs["written"] for arm in hops.ARMS)
        for key in ("exact/0", "sloppy/0", "sloppy/0.1"):
            found = runs["grpo"][f"{key}/grpo/{seed}"]
            assert len(found["curves"]["reward"]) == lab.RL_STEPS
            assert found["after"]["right"] == pytest.approx(
                sum(found["after"]["right counts"]) / (lab.EXAM * lab.SAMPLES)
            )
    assert set(runs["samples"]) == set(lab.REWARDS)
