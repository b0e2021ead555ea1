"""What supervised fine-tuning gives, as recorded: whole, and as the chapter says."""

import statistics

import pytest

from llmbook.data.verifiable import SEEN, UNSEEN
from llmbook.experiments import sft as lab

RUNS = lab.recorded_runs()


def of(part, key):
    return [found for name, found in RUNS[part].items() if name.rsplit("/", 1)[0] == str(key)]


def test_every_run_is_recorded_and_no_other():
    wanted = {(part, key) for part, key, _ in lab.points()}
    found = {(part, key) for part, runs in RUNS.items() if part != "_run" for key in runs}
    assert found == wanted


def test_a_seed_s_kinds_are_nested_and_differ_from_another_s():
    for seed in lab.SEEDS:
        for small, large in zip(lab.SIZES, lab.SIZES[1:]):
            assert lab.kinds_of(large, seed)[:small] == lab.kinds_of(small, seed)
        assert sorted(lab.kinds_of(16, seed)) == sorted(SEEN)
    assert lab.kinds_of(4, 1) != lab.kinds_of(4, 2)


def test_more_kinds_seen_more_of_the_unseen_right_over_seeds():
    means = [statistics.fmean(r["unseen"] for r in of("kinds", n)) for n in lab.SIZES]
    assert means[-1] > means[0] and means[-1] > means[1]
    best = max(found["mean"] for found in RUNS["few-shot"].values())
    assert means[-1] > best
    assert all(set(r["unseen by kind"]) == set(UNSEEN) for r in of("kinds", 16))


def test_wrong_labels_of_a_question_are_answers_of_others_of_its_kind():
    assert all(len(of("labels", which)) == len(lab.SEEDS) for which in lab.LABELS)
    clean, noisy = (of("labels", w) for w in ("large and clean", "large, half of it wrong"))
    assert min(r["seen"] for r in clean) > max(r["seen"] for r in noisy)


@pytest.mark.slow
def test_one_run_comes_out_as_recorded():
    found = lab.manner_run(0.5, 1)
    recorded = RUNS["manner"]["0.5/1"]
    assert found["polite, sampled"] == pytest.approx(recorded["polite, sampled"], abs=0.1)
