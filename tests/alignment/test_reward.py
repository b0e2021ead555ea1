"""The reward model: Bradley and Terry's loss by hand and by trl, pairs, and what it cannot see."""

import math

import pytest
import torch
from helpers.alignment_subject import tiny_policy

from llmbook.alignment.reward import (
    bradley_terry,
    centre,
    pairs_of,
    pairwise_accuracy,
    ranked_batch,
    ranking_loss,
    reward_loss,
    score_rollouts,
    score_texts,
)
from llmbook.alignment.rollouts import roll_out
from llmbook.models.heads import DecoderHead
from llmbook.training import Log, TrainConfig, train


def test_the_loss_by_hand():
    better, worse = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([0.0, 0.0, 1.0])
    found = bradley_terry(better, worse)
    assert found.tolist() == pytest.approx([0.6931, 0.1269, 2.1269], abs=1e-4)
    assert bradley_terry(better, worse, margin=2.0)[1].item() == pytest.approx(math.log(2))


def test_its_slope_is_what_is_left_to_certainty():
    gap = torch.tensor([-3.0, 0.0, 0.5, 4.0], requires_grad=True)
    bradley_terry(gap, torch.zeros(4)).sum().backward()
    assert torch.allclose(gap.grad, -(1 - gap.detach().sigmoid()))


def test_a_batch_of_pairs_is_trl_s_loss_and_gradient():
    """Recorded from trl 1.16.0, RewardTrainer.compute_loss."""
    scores = torch.tensor([[0.65, 5.06], [-0.96, 0.82], [2.76, -1.98]], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([[0, 1]] * 3))
    assert loss.item() == pytest.approx(2.122207, abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, scores)
    expected = torch.tensor([-0.329330, -0.285232, -0.002888])
    assert torch.allclose(gradient, torch.stack([expected, -expected], 1), atol=1e-5)
    # where the first pair is longer ranked the other way round, so is its gap
    assert pairwise_accuracy(scores.detach(), torch.tensor([[0, 1]] * 3)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("k", [2, 4, 9])
def test_k_ranked_answers_are_k_k_minus_1_over_2_pairs(k):
    ranks = torch.randperm(k)[None]
    pairs = pairs_of(ranks)
    assert pairs.sum() == k * (k - 1) // 2
    assert not (pairs & pairs.transpose(1, 2)).any()


def test_ties_are_left_out_and_a_prompt_of_ties_counts_nothing():
    scores = torch.tensor([[1.0, 0.0, 3.0], [5.0, -5.0, 0.0]], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([[0, 1, 1], [0, 0, 0]]))
    by_hand = (-math.log(1 / (1 + math.exp(-1))) - math.log(1 / (1 + math.exp(2)))) / 2
    assert loss.item() == pytest.approx(by_hand, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert (gradient[1] == 0).all()
    with pytest.raises(ValueError, match="got ties alone"):
        ranking_loss(scores, torch.zeros(2, 3))


def test_a_constant_of_the_prompt_is_not_seen():
    scores, ranks = torch.randn(4, 3), torch.stack([torch.randperm(3) for _ in range(4)])
    shift = torch.tensor([[100.0], [-7.0], [0.0], [3.0]])
    assert torch.allclose(ranking_loss(scores, ranks), ranking_loss(scores + shift, ranks), 1e-4)


def test_accuracy_counts_pairs_and_an_equal_score_as_half():
    ranks = torch.tensor([[0, 1, 2]])
    assert pairwise_accuracy(torch.tensor([[3.0, 2.0, 1.0]]), ranks) == 1
    assert pairwise_accuracy(torch.tensor([[2.0, 3.0, 1.0]]), ranks) == pytest.approx(2 / 3)
    assert pairwise_accuracy(torch.tensor([[1.0, 1.0, 1.0]]), ranks) == 0.5


# --- with a model

PROMPTS = [[3, 4], [7, 8, 9], [5]]
ANSWERS = [[[1], [2, 2, 2]], [[6, 1, 4], [10]], [[2], [3, 3]]]


def model(seed=0):
    torch.manual_seed(seed)
    return DecoderHead(tiny_policy(seed), 1)


def test_each_answer_is_scored_as_it_would_be_alone():
    reward, batch = model(), ranked_batch(PROMPTS, ANSWERS, [[0, 1]] * 3, end_id=6)
    texts = [[*p, *a, 6] for p, row in zip(PROMPTS, ANSWERS, strict=True) for a in row]
    with torch.no_grad():
        alone = torch.stack([reward(torch.tensor([t]))[0, -1, 0] for t in texts])
        loss = reward_loss(reward, *batch)
    assert torch.allclose(score_texts(reward, texts), alone, atol=1e-5)
    assert torch.allclose(score_texts(reward, texts, batch_size=2), alone, atol=1e-5)
    assert loss.item() == pytest.approx(
        bradley_terry(alone[0::2], alone[1::2]).mean().item(), abs=1e-5
    )


def test_rollouts_are_scored_with_their_prompt_and_their_end():
    reward, rollouts = model(), roll_out(tiny_policy(1), PROMPTS, 4, max_new_tokens=6)
    assert rollouts.ended.any() and not rollouts.ended.all()
    texts = [
        p + a + [0] * e
        for p, a, e in zip(
            rollouts.prompts, rollouts.answers, rollouts.ended.tolist(), strict=True
        )
    ]
    assert torch.allclose(score_rollouts(reward, rollouts), score_texts(reward, texts), atol=1e-6)


def test_it_learns_which_answer_has_a_five():
    reward, gen = model(3), torch.Generator().manual_seed(0)

    def batch(step):
        answers = torch.randint(1, 11, (16, 2, 4), generator=gen)
        answers[answers == 5] = 6
        answers[:, 0, 1] = 5
        return ranked_batch([[3]] * 16, answers.tolist(), [[0, 1]] * 16, end_id=0)

    settings = TrainConfig(steps=35, batch_size=16, lr=5e-3, warmup=5)
    train(reward, batch, settings, loss=reward_loss, log=Log(progress=False))
    ids, mask, ranks = batch(0)
    rows = [row[keep].tolist() for row, keep in zip(ids.flatten(0, 1), mask.flatten(0, 1))]
    assert pairwise_accuracy(score_texts(reward, rows).view(16, 2), ranks) == 1


def test_centring_moves_the_mean_to_zero_and_no_difference():
    reward, texts = model(), [[1, 2], [3], [4, 5, 6]]
    before = score_texts(reward, texts)
    shift = centre(reward, texts)
    after = score_texts(reward, texts)
    assert after.mean().abs() < 1e-6
    assert torch.allclose(after - before, torch.full((3,), shift), atol=1e-6)


# --- bad input


@pytest.mark.parametrize(
    "answers, ranks, message",
    [
        ([[[1]]], [[0]], "answers must be equally many a row, at least 2: got \\[1\\]"),
        ([[[1], [2]], [[1], [2], [3]]], [[0, 1], [0, 1, 2]], "equally many a row"),
        ([[[1], [1]]], [[0, 1]], "chosen and rejected must differ: got the same answer.*row 0"),
        ([], [], "got no rows"),
    ],
)
def test_rankings_that_say_nothing_are_refused(answers, ranks, message):
    with pytest.raises(ValueError, match=message):
        ranked_batch([[3]] * len(answers), answers, ranks)


def test_scores_and_ranks_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="ranks must be"):
        ranking_loss(torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="better and worse must have one shape"):
        bradley_terry(torch.zeros(2), torch.zeros(3))
