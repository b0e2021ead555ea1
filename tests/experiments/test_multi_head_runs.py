"""The recorded runs on heads: tasks, arms that differ in one thing, and what the chapter says."""

import pytest
import torch

from llmbook.experiments import multi_head as heads

RUNS = heads.recorded_runs()


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def test_both_echoes_are_the_digits_that_stood_there():
    x, y = heads.two_echoes(20, g())
    for t in range(heads.FAR, heads.LENGTH):
        assert torch.equal(y[:, t - heads.FAR, 0], x[:, t - 1])
        assert torch.equal(y[:, t - heads.FAR, 1], x[:, t - 4])


def test_one_head_and_two_have_the_same_weights_in_number_and_see_no_answer_early():
    sizes = {}
    for kind, how in heads.KINDS.items():
        torch.manual_seed(0)
        model = heads.Echo(**how)
        sizes[kind] = sum(p.numel() for p in model.parameters())
        x, _ = heads.two_echoes(2, g())
        changed = x.clone()
        changed[:, 12] = (changed[:, 12] + 1) % 10
        moved = (model(x) - model(changed)).abs().amax((0, 2, 3))
        assert moved[: 12 - heads.FAR].max() < 1e-6 < moved[12 - heads.FAR]
    assert sizes["one head"] == sizes["two heads"] > sizes["two heads, one key head"]


def test_a_text_that_loops_repeats_its_phrase_and_copies_lie_where_they_are_looked_for():
    ids, length = heads.loops(40, g())
    behind = heads.copies_behind(length)
    assert 5 <= length.min() and length.max() <= 14
    for text, n, places in zip(ids, length[:, 0].tolist(), behind, strict=True):
        assert torch.equal(text[n:], text[:-n])
        for i, j in places.nonzero().tolist():
            assert j <= i and (i - j + 1) % n == 0
            assert j == 0 or text[j - 1] == text[i]  # place 0 opens the phrase, as if behind one


def test_scores_are_one_where_the_weights_lie_on_the_pattern():
    class Fixed(torch.nn.Module):
        def forward(self, ids, maps):
            eye = torch.eye(heads.WORDS)
            back = eye.roll(1, 0)  # row i looks at i − 1
            maps += [torch.stack([eye, back]).expand(len(ids), -1, -1, -1)] * 2

    previous, behind = heads.head_scores(Fixed(), texts=30)
    assert previous.tolist() == [[0, 1], [0, 1]] and behind.max() < 0.05


def test_a_head_that_is_left_out_changes_the_loss_and_all_kept_nothing():
    torch.manual_seed(0)
    model = heads.Loop()
    whole = heads.score_words(model, texts=20)
    assert heads.score_words(model, heads.without(), texts=20) == whole
    assert heads.score_words(model, heads.without((1, 2)), texts=20) != whole
    assert heads.without((1, 2)).sum() == 7


def test_every_point_of_the_record_is_there_and_has_a_key_of_its_own():
    keys = [(part, key) for part, key, _ in heads.points()]
    assert len(set(keys)) == len(keys)
    assert all(key in RUNS[part] for part, key in keys)
    assert len(heads.over_seeds("loop")) == 5 == len(heads.over_seeds("echo", "one head"))
    assert [key for _, key, _ in heads.points([3])] == ["3", "3"]


def test_what_the_chapter_says_of_the_record_is_so():
    echo, loop = list(RUNS["echo"].values()), list(RUNS["loop"].values())
    for one in echo:
        near, far = one["one head"]["right"]
        assert max(near, far) > 0.95 and min(near, far) < 0.2  # it gets one of them right
        assert min(one["one head"]["on near"] + one["one head"]["on far"]) > 0.4
        for kind in ("two heads", "two heads, one key head"):
            assert min(one[kind]["right"]) > 0.98
            assert min(max(one[kind]["on near"]), max(one[kind]["on far"])) > 0.9
        assert min(one["one head, bent readout"]["right"]) > 0.9
        told = one["ensemble"]
        assert 0.6 < told["ensemble: probability of the right answer"] < 0.75
        assert told["two heads, one removed: worse accuracy"] < 0.2
    assert sum(one["ensemble"]["ensemble: worse accuracy"] > 0.85 for one in echo) >= 3
    for one in loop:
        previous = sorted(one["trained"]["previous token"][0])
        assert previous[-1] > 0.4 and previous[0] < 0.3 and one["right"] > 0.7
        assert max(one["trained"]["after an earlier copy"][1]) > 0.6
        assert max(map(max, one["untrained"]["previous token"])) < 0.15
        lost = list(one["right falls without"].values())
        assert lost[0] > 0.2 and lost[1] < 0.1
        rises = one["loss rises by"]
        assert max(rises[:4]) > max(rises[4:])


@pytest.mark.slow
def test_one_seed_of_the_record_comes_out_again():
    again, old = heads.echo_run(1), RUNS["echo"]["1"]
    for kind in heads.KINDS:
        assert again[kind]["right"] == pytest.approx(old[kind]["right"], abs=0.05)
    again, old = heads.loop_run(1), RUNS["loop"]["1"]
    assert again["right"] == pytest.approx(old["right"], abs=0.1)
