"""What supervised fine-tuning gives, as recorded: whole, and as the chapter says."""

import statistics

import pytest

from llmbook.alignment.chat import Reply
from llmbook.data.verifiable import SEEN, UNSEEN
from llmbook.experiments.sft import judge, kinds, lessons, real, runs, weights
from llmbook.experiments.sft.recipe import SEEDS

RUNS = runs.recorded_runs()


def of(part, key):
    return [found for name, found in RUNS[part].items() if name.rsplit("/", 1)[0] == str(key)]


def test_no_other_run_is_recorded():
    wanted = {(part, key) for part, key, _ in runs.points()}
    found = {(part, key) for part, made in RUNS.items() if part != "_run" for key in made}
    assert found <= wanted


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


def test_a_pair_s_wrong_answer_has_one_word_too_few_or_too_many():
    shown = judge.pairs(200, 3, "held-out")
    gaps = [len(p.wrong.split()) - len(p.right.split()) for p in shown]
    assert set(gaps) == {-1, 1} and 0.25 < gaps.count(-1) / len(gaps) < 0.6
    assert len({p.question for p in shown}) > 150
    first, second = shown[0].asked(True), shown[0].asked(False)
    assert f"1: {shown[0].right} 2: {shown[0].wrong}" in first
    assert f"1: {shown[0].wrong} 2: {shown[0].right}" in second


def test_verdicts_speak_of_the_right_answer_in_both_orders(monkeypatch):
    shown = judge.pairs(4, 3, "held-out")

    def always(word):
        return lambda model, tokenizer, talks, **how: [Reply(word, True, []) for _ in talks]

    for word, first, second in (("1", 1, 0), ("2", 0, 1), ("?", 0, 0)):
        monkeypatch.setattr(judge, "reply", always(word))
        found = judge.verdicts(None, None, shown)
        assert found["first"] == [first] * 4 and found["second"] == [second] * 4
    longer = [len(p.right) > len(p.wrong) for p in shown]
    assert found["longer"] == [int(x) for x in longer]


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
