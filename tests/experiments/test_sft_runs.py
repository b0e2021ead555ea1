"""What supervised fine-tuning gives, as recorded: whole, and as the chapter says."""

import statistics

import pytest

from llmbook.data.verifiable import SEEN, UNSEEN
from llmbook.experiments.sft import judge, kinds, lessons, real, runs, weights
from llmbook.experiments.sft.recipe import SEEDS

RUNS = runs.recorded_runs()


def of(part, key):
    return [found for name, found in RUNS[part].items() if name.rsplit("/", 1)[0] == str(key)]


def test_every_run_is_recorded():
    wanted = {(part, key) for part, key, _ in runs.points()}
    found = {(part, key) for part, made in RUNS.items() if part != "_run" for key in made}
    assert found == wanted


def test_all_weights_learn_more_and_forget_more_than_adapters_in_each_seed():
    for seed in range(len(SEEDS)):
        whole = of("lora", 0)[seed]
        for rank in weights.RANKS:
            adapter = of("lora", rank)[seed]
            assert whole["loss"] < adapter["loss"]
            assert rank > 16 or adapter["nats of old text"] < whole["nats of old text"]


def test_old_text_mixed_in_keeps_it_and_costs_answers_in_each_seed():
    for seed in range(len(SEEDS)):
        none, some = (of("mixing", share)[seed] for share in (0.0, 0.1))
        assert some["nats of old text"] < 0.6 * none["nats of old text"]
        assert some["seen"] < none["seen"]


def test_what_the_mask_leaves_out_is_not_learned_in_any_seed():
    for every, ended, right in zip(
        of("masks", "everything"), of("masks", "no end"), of("kinds", 16), strict=True
    ):
        assert ended["ended"] == 0 and ended["seen"] == 0
        assert ended["begins with the answer"] > every["begins with the answer"] > 0.5
        assert every["seen"] < right["seen"]


def test_over_the_rank_the_change_shrinks_and_over_its_root_it_keeps_its_size():
    for seed in range(len(SEEDS)):
        over, root = (
            [of("scale", f"{how} at {r}")[seed] for r in weights.SCALED] for how in weights.SCALES
        )
        assert over[1]["blocks moved by"] < 0.6 * over[0]["blocks moved by"]
        assert 1.1 < root[1]["blocks moved by"] / root[0]["blocks moved by"] < 1.4
        assert over[1]["loss"] < root[1]["loss"]


def test_pairs_of_other_functions_help_a_little_in_each_seed():
    (base,) = of("pairs", "base")
    for tuned in of("pairs", "tuned"):
        assert 0.4 < statistics.fmean(base["ranks"]) - statistics.fmean(tuned["ranks"]) < 1.2


def test_a_seed_s_kinds_are_nested_and_differ_from_another_s():
    for seed in SEEDS:
        for small, large in zip(kinds.SIZES, kinds.SIZES[1:]):
            assert kinds.kinds_of(large, seed)[:small] == kinds.kinds_of(small, seed)
        assert sorted(kinds.kinds_of(16, seed)) == sorted(SEEN)
    assert kinds.kinds_of(4, 1) != kinds.kinds_of(4, 2)


def test_more_kinds_seen_more_of_the_unseen_right_over_seeds():
    means = [statistics.fmean(r["unseen"] for r in of("kinds", n)) for n in kinds.SIZES]
    assert means[-1] > means[0] and means[-1] > means[1]
    best = max(found["mean"] for found in RUNS["few-shot"].values())
    assert means[-1] > best
    assert all(set(r["unseen by kind"]) == set(UNSEEN) for r in of("kinds", 16))


def test_wrong_labels_of_a_question_are_answers_of_others_of_its_kind():
    assert all(len(of("labels", which)) == len(SEEDS) for which in lessons.LABELS)
    clean, noisy = (of("labels", w) for w in ("large and clean", "large, half of it wrong"))
    assert min(r["seen"] for r in clean) > max(r["seen"] for r in noisy)


@pytest.mark.slow
def test_one_run_comes_out_as_recorded():
    found = lessons.manner_run(0.5, 1)
    recorded = RUNS["manner"]["0.5/1"]
    assert found["polite, sampled"] == pytest.approx(recorded["polite, sampled"], abs=0.1)


# --- a judge


def test_the_wrong_answers_of_a_case_have_a_word_less_and_a_word_more():
    shown = judge.cases(100, seed=3)
    assert len({case.question for case in shown}) > 90
    for case in shown:
        n = len(case.right.split())
        assert len(case.shorter.split()) == n - 1 and len(case.longer.split()) == n + 1


def test_verdicts_are_asked_for_in_both_orders(monkeypatch):
    shown = judge.cases(5, seed=3)

    def judges_by(best):
        def rank(model, tokenizer, prompt, choices, *, mean):
            return 1 + list(choices).index(best(choices))

        monkeypatch.setattr(judge, "choice_rank", rank)
        first, same = judge.prefers_first(None, None, shown, mean=True)
        return judge.prefers_shorter(None, None, shown, mean=True), first, same

    assert judges_by(lambda c: min(c, key=len)) == ([True] * 5, [True, False] * 5, [True] * 5)
    assert judges_by(lambda c: c[0]) == ([True] * 5, [True] * 10, [False] * 5)
    assert judges_by(lambda c: max(c, key=len)) == ([False] * 5, [False, True] * 5, [True] * 5)


# --- scales


def test_one_alpha_gives_two_scales_by_rank(monkeypatch):
    configs = []
    monkeypatch.setattr(weights, "_tuned", lambda config, seed, steps: configs.append(config))
    for scale in weights.SCALES:
        for rank in weights.SCALED:
            weights.scale_run(scale, rank, 1)
    plain, root = configs[: len(weights.SCALED)], configs[len(weights.SCALED) :]
    for a, b in zip(plain, root, strict=True):
        assert a.scale == pytest.approx(weights.ALPHA / a.rank)
        assert b.scale == pytest.approx(weights.ALPHA / b.rank**0.5) and a.rank == b.rank


def test_questions_about_functions_are_short_and_on_one_side():
    train, validation = real.pairs("train"), real.pairs("validation")
    assert len(validation) > 60 and not {q for q, _ in train} & {q for q, _ in validation}
    assert max(len(q) + len(a) for q, a in train + validation) < real.LONGEST
