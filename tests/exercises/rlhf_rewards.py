"""Solutions of the exercises on preferences and reward models, and wrong answers of students."""

import torch


def ranked_pairs(ranks):
    places = range(len(ranks))
    return [(i, j) for i in places for j in places
            if ranks[i] < ranks[j]]


def pull(scores, winners, losers):
    left = 1 - torch.sigmoid(scores[winners] - scores[losers])
    left = left / len(winners)
    grad = torch.zeros_like(scores)
    grad.index_add_(0, winners, -left)
    grad.index_add_(0, losers, left)
    return grad


def slips(ranks, share, gen):
    turned = torch.rand(len(ranks), generator=gen) < share
    return [[max(row) - r for r in row] if turn else list(row)
            for row, turn in zip(ranks, turned)]


SOLUTIONS = {
    "pairs": ranked_pairs,
    "pull": pull,
    "how_many": 20,
    "slope_there": -0.6,
    "slips": slips,
}


# --- wrong answers


def pairs_with_ties(ranks):
    return [(i, j) for i in range(len(ranks)) for j in range(i + 1, len(ranks))]


def pairs_turned_round(ranks):
    return [(j, i) for i, j in ranked_pairs(ranks)]


def pairs_of_neighbours(ranks):
    order = sorted(range(len(ranks)), key=lambda i: ranks[i])
    return list(zip(order, order[1:]))


def pairs_with_the_best_alone(ranks):
    best = min(range(len(ranks)), key=lambda i: ranks[i])
    return [(best, i) for i in range(len(ranks)) if ranks[best] < ranks[i]]


def pairs_twice(ranks):
    return ranked_pairs(ranks) * 2


def pull_of_the_sum(scores, winners, losers):
    return pull(scores, winners, losers) * len(winners)


def pull_the_wrong_way(scores, winners, losers):
    return -pull(scores, winners, losers)


def pull_by_sigma(scores, winners, losers):
    left = torch.sigmoid(scores[winners] - scores[losers]) / len(winners)
    grad = torch.zeros_like(scores)
    return grad.index_add_(0, winners, -left).index_add_(0, losers, left)


def pull_on_winners_alone(scores, winners, losers):
    left = (1 - torch.sigmoid(scores[winners] - scores[losers])) / len(winners)
    return torch.zeros_like(scores).index_add_(0, winners, -left)


def pull_that_forgets_doubles(scores, winners, losers):
    left = (1 - torch.sigmoid(scores[winners] - scores[losers])) / len(winners)
    grad = torch.zeros_like(scores)
    grad[winners] -= left
    grad[losers] += left
    return grad


def slips_answer_by_answer(ranks, share, gen):
    return [
        [max(row) - r if torch.rand((), generator=gen) < share else r for r in row]
        for row in ranks
    ]


def slips_always(ranks, share, gen):
    return [[max(row) - r for r in row] for row in ranks]


def slips_with_dice_of_its_own(ranks, share, gen):
    return slips(ranks, share, torch.Generator().manual_seed(torch.seed() % 2**31))


def slips_by_negation(ranks, share, gen):
    turned = torch.rand(len(ranks), generator=gen) < share
    return [[-r for r in row] if turn else list(row) for row, turn in zip(ranks, turned)]


def slips_the_other_share(ranks, share, gen):
    return slips(ranks, 1 - share, gen)


def slips_backwards_in_place(ranks, share, gen):
    turned = torch.rand(len(ranks), generator=gen) < share
    return [row[::-1] if turn else list(row) for row, turn in zip(ranks, turned)]


WRONG = {
    "pairs": {
        "ties count": pairs_with_ties,
        "worse first": pairs_turned_round,
        "neighbours only": pairs_of_neighbours,
        "the best against the rest": pairs_with_the_best_alone,
        "each pair twice": pairs_twice,
    },
    "pull": {
        "a sum, not a mean": pull_of_the_sum,
        "ascent": pull_the_wrong_way,
        "σ in place of 1 − σ": pull_by_sigma,
        "winners alone": pull_on_winners_alone,
        "an answer in two pairs counts once": pull_that_forgets_doubles,
    },
    "how_many": {
        "no tie": 7 * 6 // 2,
        "ordered pairs": 7 * 6 - 2,
        "six answers": 6 * 5 // 2,
        "two fewer": 7 * 6 // 2 - 2,
        "comparisons of a sort": 7 - 1,
        "squares": 7 * 7 - 1,
    },
    "slope_there": {
        "no sign": 0.6,
        "the slope at 0": -0.5,
        "the loss": 1.0,
        "the difference there": -0.54,
        "at its steepest": -1.0,
        "where the loss is half a nat": -0.4,
    },
    "slips": {
        "answer by answer": slips_answer_by_answer,
        "always": slips_always,
        "dice of its own": slips_with_dice_of_its_own,
        "negative ranks": slips_by_negation,
        "the other share": slips_the_other_share,
        "rows backwards": slips_backwards_in_place,
    },
}
