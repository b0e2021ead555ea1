"""Solutions of the exercises on reasoning, and wrong answers of students."""

import math

import torch

from llmbook.experiments.reasoning import chains as lab


def all_right(n, c, k):
    return math.comb(c, k) / math.comb(n, k)


def leave_one_out(rewards, group):
    groups = rewards.view(-1, group)
    others = (groups.sum(-1, keepdim=True) - groups) / (group - 1)
    return (groups - others).flatten()


def token_weights(lengths, form, longest):
    rows = len(lengths)
    if form == "grpo":
        return 1 / (rows * lengths)
    if form == "dapo":
        return torch.ones(rows) / lengths.sum()
    return torch.ones(rows) / (rows * longest)


def frugal(prompt, answer, ended):
    if not lab.right(prompt, answer, ended):
        return 0.0
    return 1 - 0.02 * len(answer)


SOLUTIONS = {
    "all_right": all_right,
    "leave_one_out": leave_one_out,
    "token_weights": token_weights,
    "rare": 0.875 / ((7 / 64 + 49 / 64) / 7) ** 0.5,
    "votes": sum(math.comb(9, c) * 0.4**c * 0.6 ** (9 - c) for c in range(5, 10)),
    "frugal": frugal,
}


# --- wrong answers


def all_by_the_share(n, c, k):
    return (c / n) ** k


def any_right(n, c, k):
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def all_the_other_way(n, c, k):
    return 1 - math.comb(c, k) / math.comb(n, k)


def all_wrong(n, c, k):
    return math.comb(n - c, k) / math.comb(n, k)


def all_at_one(n, c, k):
    return c / n


def all_when_there_are_enough(n, c, k):
    return float(c >= k)


def left_in(rewards, group):
    groups = rewards.view(-1, group)
    return (groups - groups.mean(-1, keepdim=True)).flatten()


def left_out_of_the_batch(rewards, group):
    others = (rewards.sum() - rewards) / (len(rewards) - 1)
    return rewards - others


def left_out_but_divided_by_all(rewards, group):
    groups = rewards.view(-1, group)
    return (groups - (groups.sum(-1, keepdim=True) - groups) / group).flatten()


def left_out_with_the_sign_turned(rewards, group):
    return -leave_one_out(rewards, group)


def left_out_over_the_deviation(rewards, group):
    groups = rewards.view(-1, group)
    one = leave_one_out(rewards, group).view(-1, group)
    return (one / (groups.std(-1, keepdim=True) + 1e-4)).flatten()


def left_out_of_interleaved_groups(rewards, group):
    groups = rewards.view(group, -1)
    others = (groups.sum(0, keepdim=True) - groups) / (group - 1)
    return (groups - others).flatten()


def weights_all_alike(lengths, form, longest):
    return torch.ones(len(lengths)) / lengths.sum()


def weights_without_the_rows(lengths, form, longest):
    return token_weights(lengths, form, longest) * len(lengths)


def weights_by_length_everywhere(lengths, form, longest):
    return 1 / (len(lengths) * lengths)


def weights_that_grow(lengths, form, longest):
    return lengths * token_weights(lengths, form, longest)


def weights_by_the_longest_here(lengths, form, longest):
    return token_weights(lengths, form, int(lengths.max()) + 1)


def weights_with_dapo_by_rows(lengths, form, longest):
    return token_weights(lengths, "grpo" if form == "dapo" else form, longest)


def frugal_also_when_wrong(prompt, answer, ended):
    return float(lab.right(prompt, answer, ended)) - 0.02 * len(answer)


def frugal_cut_off(prompt, answer, ended):
    return 1 - 0.02 * len(answer) if lab.right(prompt, answer) else 0.0


def frugal_if_mentioned(prompt, answer, ended):
    return 1 - 0.02 * len(answer) if lab.mentioned(prompt, answer) and ended else 0.0


def frugal_not_at_all(prompt, answer, ended):
    return float(lab.right(prompt, answer, ended))


def frugal_if_sound(prompt, answer, ended):
    return 1 - 0.02 * len(answer) if lab.sound(prompt, answer, ended) else 0.0


def frugal_that_divides(prompt, answer, ended):
    return 1 / len(answer) if lab.right(prompt, answer, ended) else 0.0


WRONG = {
    "all_right": {
        "the share put in": all_by_the_share,
        "any is right": any_right,
        "not all": all_the_other_way,
        "all wrong": all_wrong,
        "one try": all_at_one,
        "whenever there are enough": all_when_there_are_enough,
    },
    "leave_one_out": {
        "itself among them": left_in,
        "over the batch": left_out_of_the_batch,
        "divided by all": left_out_but_divided_by_all,
        "the sign turned": left_out_with_the_sign_turned,
        "over the deviation": left_out_over_the_deviation,
        "interleaved groups": left_out_of_interleaved_groups,
    },
    "token_weights": {
        "all alike": weights_all_alike,
        "rows forgotten": weights_without_the_rows,
        "by length everywhere": weights_by_length_everywhere,
        "growing with length": weights_that_grow,
        "the longest here": weights_by_the_longest_here,
        "dapo by rows": weights_with_dapo_by_rows,
    },
    "rare": {
        "centred only": 7 / 8,
        "divided by n": 0.875 / (0.125 * 0.875) ** 0.5,
        "by the variance": 0.875 / ((7 / 64 + 49 / 64) / 7),
        "the reward": 1.0,
        "a wrong one's": -0.125 / ((7 / 64 + 49 / 64) / 7) ** 0.5,
        "not centred": 1 / ((7 / 64 + 49 / 64) / 7) ** 0.5,
    },
    "votes": {
        "one vote": 0.4,
        "any is right": 1 - 0.6**9,
        "all are right": 0.4**9,
        "the other answer": 1 - sum(
            math.comb(9, c) * 0.4**c * 0.6 ** (9 - c) for c in range(5, 10)
        ),
        "in percent": 26.7,
        "exactly five": math.comb(9, 5) * 0.4**5 * 0.6**4,
    },
    "frugal": {
        "also when wrong": frugal_also_when_wrong,
        "also cut off": frugal_cut_off,
        "if mentioned": frugal_if_mentioned,
        "brevity forgotten": frugal_not_at_all,
        "only in full steps": frugal_if_sound,
        "one over the length": frugal_that_divides,
    },
}
