"""Chains of symbols: questions, demonstrations, judges, and what is made of several answers."""

import itertools
import json

import pytest
import torch

from llmbook.alignment.collapse import Collapsed
from llmbook.alignment.grpo import FORMS, GRPOConfig
from llmbook.alignment.rollouts import Rollouts
from llmbook.data import verifiable
from llmbook.evaluation import questions
from llmbook.experiments import hops
from llmbook.experiments.reasoning import chains as lab
from llmbook.experiments.reasoning import chat, judges, runs, tool
from llmbook.experiments.record import main
from llmbook.losses import IGNORED
from llmbook.models.pretrained import SHIPPED
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
            assert judges.pass_at_k(n, c, k) == pytest.approx(
                sum(any(draw) for draw in draws) / len(draws)
            )
    for bad in ((0, 0, 1), (4, 5, 1), (4, 2, 5), (4, 2, 0)):
        with pytest.raises(ValueError):
            judges.pass_at_k(*bad)


def test_the_vote_goes_to_the_most_frequent_and_of_equals_to_the_earliest():
    assert judges.majority([3, 1, 1, 2]) == 1
    assert judges.majority([2, 1, 1, 2]) == 2
    assert judges.majority([None, None, 5]) == 5
    assert judges.majority([None]) is None
    assert judges.best_of([0.1, 0.9, 0.9]) == 1


# --- runs


def test_a_tool_answers_with_the_symbol_four_steps_on_and_is_masked(novice):
    prompts = lab.exam("tool", 20)
    rolled = {
        masked: tool.roll_out_with_tool(
            novice, prompts, 4, max_new_tokens=8, seed=(0, "t"), masked=masked
        )
        for masked in (True, False)
    }
    found = 0
    for row, answer in enumerate(rolled[True].answers):
        prompt = rolled[True].prompts[row]
        here = prompt[-1]
        for place, token in enumerate(answer):
            returned = place > 0 and answer[place - 1] == hops.CALL
            returned = returned and not (place > 1 and answer[place - 2] == hops.CALL)
            if returned:
                for _ in range(hops.JUMP):
                    here = prompt[here]
                assert token == here
                assert rolled[True].targets[row, place] == IGNORED
                assert rolled[True].log_probs[row, place] == 0
                assert rolled[False].targets[row, place] == token
                found += 1
            elif token < hops.SYMBOLS:
                here = token
    assert found > 5
    again = tool.roll_out_with_tool(novice, prompts, 4, max_new_tokens=8, seed=(0, "t"))
    assert torch.equal(again.targets, rolled[True].targets)


def test_a_rollout_without_calls_is_scored_as_the_engine_does(novice):
    from llmbook.alignment.rollouts import answer_token_log_probs

    rollouts = tool.roll_out_with_tool(
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
        lab.train_policy(model, 3, lab.mentioned, config, steps=2)
        ends.append(model.tokens.weight.detach().clone())
    assert torch.equal(*ends) and not torch.equal(ends[0], novice.tokens.weight)
    assert torch.equal(before.tokens.weight, novice.tokens.weight)


def test_the_record_goes_on_where_it_stopped(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        runs,
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


def test_what_is_recorded_of_a_run_agrees_with_itself():
    recorded = runs.recorded_runs()
    for seed in lab.SEEDS:
        for key in ("exact/0", "exact/0.1", "sloppy/0", "sloppy/0.1"):
            found = recorded["grpo"][f"{key}/{seed}"]
            assert len(found["curves"]["reward"]) == lab.RL_STEPS
            assert found["after"]["right"] == pytest.approx(
                sum(found["after"]["right counts"]) / (lab.EXAM * lab.SAMPLES)
            )


# --- from small-chat


def test_shuffled_rewards_are_as_many_in_each_group_and_say_nothing_of_the_answers():
    rewards = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0] * 100
    dealt = torch.tensor(chat.dealt_anew(rewards, 4, generator(1, "dealt")))
    given = torch.tensor(rewards)
    assert torch.equal(dealt.view(-1, 4).sum(-1), given.view(-1, 4).sum(-1))
    # within groups of one or three right of four, the link is gone
    inside = (dealt - dealt.view(-1, 4).mean(-1).repeat_interleave(4)) * (given - 0.5)
    assert abs(inside.mean()) < 0.03


def test_each_step_asks_new_questions_of_the_levels_fixed_before():
    shown = chat.lessons(3, steps=5)
    assert [len(step) for step in shown] == [chat.EACH * len(chat.TASKS)] * 5
    assert {(e.kind, e.level) for step in shown for e in step} == set(chat.TASKS)
    assert shown[0] != shown[1] and shown != chat.lessons(4, steps=5)
    exam = [e for kind, level in chat.TASKS for e in questions((kind,), chat.EXAM, level=level)]
    assert not {e.prompt for e in exam} & {e.prompt for step in shown for e in step}


def test_levels_are_the_first_at_which_the_card_has_small_chat_under_40_percent():
    card = json.loads((SHIPPED / "small-chat" / "card.json").read_text())
    levels, first = card["quality"]["graded, by level"], {}
    for level, by_kind in sorted(levels.items()):
        for kind, share in by_kind.items():
            if share < 0.4:
                first.setdefault(kind, int(level))
    assert dict(chat.TASKS).items() <= first.items() and len(chat.TASKS) == 2


def test_an_answer_is_worth_one_only_if_it_is_exact_and_ended():
    (example,) = verifiable.examples("mirror", 1, seed=1, level=3)
    tokenizer, (prompt,) = chat.its_tokenizer(), chat.asked_as([example])
    end = tokenizer.special_tokens["<|end|>"]
    right = [*tokenizer.encode(example.answer), end]
    rows = [right, right[:-1] + [right[0]], [*tokenizer.encode("a"), end]]
    width = max(map(len, rows))
    targets = torch.tensor([row + [IGNORED] * (width - len(row)) for row in rows])
    ids = torch.tensor([prompt + [0] * (width - 1)] * len(rows))
    ended = torch.tensor([True, False, True])
    rollouts = Rollouts(ids, ids >= 0, targets, targets * 0.0, ended, 3)
    assert chat.exact(rollouts, [example]) == [1.0, 0.0, 0.0]


def test_a_run_that_collapses_is_recorded_as_that(monkeypatch):
    def falls(grpo, *settings):
        raise Collapsed("all is empty", 3)

    monkeypatch.setattr(chat, "by_reward", falls)
    model = hops.fresh(1)
    found = chat.from_rewards(model, chat.lessons(3, steps=1), 3, True)
    assert found == {"collapsed": "collapsed at step 3: all is empty"} and not model.training


def test_small_chat_s_own_answers_rewarded_double_two_kinds_by_the_mean_of_five_seeds():
    made = runs.recorded_runs()["chat"]
    for task in (f"{kind} {level}" for kind, level in chat.TASKS):
        old = made["before/0"]["after"][task]["exact"]
        new = [made[f"reward/{seed}"]["after"][task]["exact"] for seed in lab.SEEDS]
        none = [made[f"shuffled/{seed}"]["after"][task]["exact"] for seed in lab.SEEDS]
        assert old < 0.4 and sum(new) / len(new) >= 2 * old
        assert max(none) <= old


def test_every_run_is_recorded_and_the_seed_counts_for_more_than_the_form():
    made = runs.recorded_runs()
    assert [(part, key) for part, key, _ in runs.points() if key not in made.get(part, {})] == []
    found = torch.tensor(
        [[made["forms"][f"{f}/{seed}"]["after"]["right"] for seed in lab.SEEDS] for f in FORMS]
    )
    by_form, by_seed = (found.mean(dim) for dim in (1, 0))
    assert by_form.max() - by_form.min() < (by_seed.max() - by_seed.min()) / 2
    assert found.min() > 2 * max(base["right"] for base in made["base"].values())
    cut = {
        form: [made["forms"][f"{form}/{seed}"]["curves"]["clipped"] for seed in lab.SEEDS]
        for form in FORMS
    }
    assert torch.tensor(cut["gspo"]).mean(1).min() > 5 * torch.tensor(cut["grpo"]).mean(1).max()
