"""Solutions of the exercises on supervised fine-tuning, and wrong answers of students."""

import torch

from llmbook.data.verifiable import examples


def labels(ids, counts):
    said = zip(ids[1:], counts[1:])
    return [token if counted else -100 for token, counted in said]


def adapted(W, A, B, alpha):
    return W + alpha / A.shape[0] * B @ A


def apart(lengths):
    n = sum(lengths)
    mask, at = torch.zeros(n, n, dtype=torch.bool), 0
    for size in lengths:
        block = torch.ones(size, size).tril().bool()
        mask[at : at + size, at : at + size] = block
        at += size
    return mask


def one_wording(kinds, n):
    each = n // len(kinds)
    return [e for kind in kinds
            for e in examples(kind, each, wording=0)]


SOLUTIONS = {
    "labels": labels,
    "adapted": adapted,
    "apart": apart,
    "plain_marks": 18,
    "stops": "right and goes on",
    "one_wording": one_wording,
}


# --- wrong answers


def labels_not_shifted(ids, counts):
    return [i if c else -100 for i, c in zip(ids, counts)]


def labels_with_the_prompt(ids, counts):
    return ids[1:]


def labels_masked_by_the_place(ids, counts):
    return [i if c else -100 for i, c in zip(ids[1:], counts[:-1])]


def labels_shifted_the_other_way(ids, counts):
    return [i if c else -100 for i, c in zip(ids[:-1], counts[:-1])]


def labels_without_the_end(ids, counts):
    return labels(ids, counts)[:-1] + [-100]


def labels_with_zeros(ids, counts):
    return [i if c else 0 for i, c in zip(ids[1:], counts[1:])]


def labels_of_the_answer_alone(ids, counts):
    return [i for i, c in zip(ids[1:], counts[1:]) if c]


def adapted_unscaled(W, A, B, alpha):
    return W + B @ A


def adapted_by_alpha(W, A, B, alpha):
    return W + alpha * B @ A


def adapted_by_the_root(W, A, B, alpha):
    return W + alpha / A.shape[0] ** 0.5 * B @ A


def adapted_by_the_width(W, A, B, alpha):
    return W + alpha / A.shape[1] * B @ A


def adapted_in_place_of(W, A, B, alpha):
    return alpha / A.shape[0] * B @ A


def adapted_turned(W, A, B, alpha):
    return W + alpha / A.shape[0] * (A.T @ B.T)


def apart_leaking(lengths):
    return torch.ones(sum(lengths), sum(lengths)).tril().bool()


def apart_both_ways(lengths):
    whole = apart(lengths)
    return whole | whole.T


def apart_turned(lengths):
    return apart(lengths).T


def apart_without_itself(lengths):
    return apart(lengths) & ~torch.eye(sum(lengths)).bool()


def apart_hidden(lengths):
    return ~apart(lengths)


def apart_first_only(lengths):
    mask = torch.zeros(sum(lengths), sum(lengths), dtype=torch.bool)
    mask[: lengths[0], : lengths[0]] = apart(lengths[:1])
    return mask


def apart_in_floats(lengths):
    return apart(lengths).float()


def one_wording_of_three(kinds, n):
    from llmbook.data.verifiable import mixture

    return mixture(kinds, n)


def one_wording_held_out(kinds, n):
    each = n // len(kinds)
    return [e for k in kinds for e in examples(k, each, wording=0, side="held-out")]


def one_wording_n_of_each(kinds, n):
    return [e for k in kinds for e in examples(k, n, wording=0)]


def one_wording_the_last(kinds, n):
    each = n // len(kinds)
    return [e for k in kinds for e in examples(k, each, wording=3)]


def one_wording_of_one_kind(kinds, n):
    return examples(kinds[0], n, wording=0)


def one_wording_as_texts(kinds, n):
    return [e.prompt for e in one_wording(kinds, n)]


WRONG = {
    "labels": {
        "not shifted": labels_not_shifted,
        "the loss on the prompt": labels_with_the_prompt,
        "masked by the place": labels_masked_by_the_place,
        "not shifted, cut": labels_shifted_the_other_way,
        "without the end token": labels_without_the_end,
        "zeros where nothing counts": labels_with_zeros,
        "the answer alone": labels_of_the_answer_alone,
    },
    "adapted": {
        "unscaled": adapted_unscaled,
        "by alpha alone": adapted_by_alpha,
        "by the root of the rank": adapted_by_the_root,
        "by the width": adapted_by_the_width,
        "in place of W": adapted_in_place_of,
        "turned": adapted_turned,
    },
    "apart": {
        "leaking": apart_leaking,
        "both ways": apart_both_ways,
        "turned": apart_turned,
        "not itself": apart_without_itself,
        "True is hidden": apart_hidden,
        "the first text alone": apart_first_only,
        "floats": apart_in_floats,
    },
    "plain_marks": {
        "with marks of their own": 8,
        "all tokens": 82,
        "all tokens, marks of their own": 34,
        "without the end token": 6,
        "the last answer alone": 10,
    },
    "stops": {
        "as if it were trained": "right and ends",
        "as if it learned nothing": "wrong and goes on",
        "the opposite": "wrong and ends",
        "no option": "it crashes",
        "half of it": "right",
    },
    "one_wording": {
        "three wordings": one_wording_of_three,
        "on the held-out side": one_wording_held_out,
        "n of each": one_wording_n_of_each,
        "the last wording": one_wording_the_last,
        "one kind": one_wording_of_one_kind,
        "texts": one_wording_as_texts,
    },
}
