"""Solutions of the exercises on the families, and wrong answers of students."""

import torch


def prefix_mask(n_prefix, n):
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    mask[:, :n_prefix] = True
    return mask


def corrupt(ids, selected, fate, random_ids, mask_id):
    inputs = ids.clone()
    masked = selected & (fate < 0.8)
    changed = selected & (fate >= 0.8) & (fate < 0.9)
    inputs[masked] = mask_id
    inputs[changed] = random_ids[changed]
    targets = torch.full_like(ids, -100)
    targets[selected] = ids[selected]
    return inputs, targets


def reading_cost(lengths, cached):
    if cached:
        return sum(lengths)
    total, so_far = 0, 0
    for length in lengths:
        so_far += length
        total += so_far
    return total


def pool(memory, parts):
    return memory.unflatten(1, (parts, -1)).mean(2)


SOLUTIONS = {
    "prefix_mask": prefix_mask, "corrupt": corrupt, "reading_cost": reading_cost,
    "hidden": 240,
    "cells": 70,
    "pool": pool,
}


def mask_causal_throughout(n_prefix, n):
    return torch.ones(n, n, dtype=torch.bool).tril()


def mask_everything(n_prefix, n):
    return torch.ones(n, n, dtype=torch.bool)


def mask_prefix_sees_the_answer(n_prefix, n):
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    mask[:n_prefix] = True
    return mask


def mask_transposed(n_prefix, n):
    return prefix_mask(n_prefix, n).T


def mask_without_the_diagonal(n_prefix, n):
    mask = torch.ones(n, n, dtype=torch.bool).tril(-1)
    mask[:, :n_prefix] = True
    return mask


def mask_two_blocks(n_prefix, n):
    mask = torch.zeros(n, n, dtype=torch.bool)
    mask[:n_prefix, :n_prefix] = True
    mask[n_prefix:, n_prefix:] = torch.ones(n - n_prefix, n - n_prefix).tril().bool()
    return mask


def mask_one_column_too_many(n_prefix, n):
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    mask[:, : n_prefix + 1] = True
    return mask


def corrupt_masks_all_selected(ids, selected, fate, random_ids, mask_id):
    return ids.masked_fill(selected, mask_id), ids.masked_fill(~selected, -100)


def corrupt_asks_only_masked(ids, selected, fate, random_ids, mask_id):
    inputs, _ = corrupt(ids, selected, fate, random_ids, mask_id)
    return inputs, ids.masked_fill(inputs != mask_id, -100)


def corrupt_asks_everywhere(ids, selected, fate, random_ids, mask_id):
    return corrupt(ids, selected, fate, random_ids, mask_id)[0], ids


def corrupt_targets_hold_the_damage(ids, selected, fate, random_ids, mask_id):
    inputs, _ = corrupt(ids, selected, fate, random_ids, mask_id)
    return inputs, inputs.masked_fill(~selected, -100)


def corrupt_forgets_who_was_selected(ids, selected, fate, random_ids, mask_id):
    everyone = torch.ones_like(selected)
    inputs, _ = corrupt(ids, everyone, fate, random_ids, mask_id)
    return inputs, ids.masked_fill(~selected, -100)


def corrupt_keeps_none(ids, selected, fate, random_ids, mask_id):
    inputs = ids.masked_fill(selected & (fate < 0.8), mask_id)
    inputs = torch.where(selected & (fate >= 0.8), random_ids, inputs)
    return inputs, ids.masked_fill(~selected, -100)


def corrupt_swaps_random_and_kept(ids, selected, fate, random_ids, mask_id):
    inputs = ids.masked_fill(selected & (fate < 0.8), mask_id)
    inputs = torch.where(selected & (fate >= 0.9), random_ids, inputs)
    return inputs, ids.masked_fill(~selected, -100)


def cost_same_either_way(lengths, cached):
    return sum(lengths)


def cost_forgets_the_new_turn(lengths, cached):
    if cached:
        return sum(lengths)
    return sum(sum(lengths[:k]) for k in range(len(lengths)))


def cost_formula_for_equal_turns(lengths, cached):
    n = len(lengths)
    return sum(lengths) if cached else lengths[0] * n * (n + 1) // 2


def cost_whole_talk_at_each_turn(lengths, cached):
    return sum(lengths) if cached else len(lengths) * sum(lengths)


def cost_the_wrong_way_round(lengths, cached):
    return reading_cost(lengths, not cached)


def cost_squares(lengths, cached):
    return sum(lengths) if cached else sum(n * n for n in lengths)


def pool_everything(memory, parts):
    return memory.mean(1, keepdim=True)


def pool_with_strides(memory, parts):
    return memory.unflatten(1, (-1, parts)).mean(1)


def pool_by_summing(memory, parts):
    return memory.unflatten(1, (parts, -1)).sum(2)


def pool_repeated(memory, parts):
    return memory.mean(1, keepdim=True).repeat(1, parts, 1)


def pool_of_the_first(memory, parts):
    return memory[:, :parts]


def pool_over_the_width(memory, parts):
    return memory.unflatten(1, (parts, -1)).mean(-1)


WRONG = {
    "prefix_mask": {
        "causal throughout": mask_causal_throughout, "all ones": mask_everything,
        "the prefix sees the answer": mask_prefix_sees_the_answer, "transposed": mask_transposed,
        "nobody reads themselves": mask_without_the_diagonal,
        "the rest does not read the prefix": mask_two_blocks,
        "one column too many": mask_one_column_too_many,
        "numbers for True and False": lambda n_prefix, n: prefix_mask(n_prefix, n).float(),
    },
    "corrupt": {
        "masks all selected": corrupt_masks_all_selected,
        "asks only for masked ones": corrupt_asks_only_masked,
        "asks everywhere": corrupt_asks_everywhere,
        "targets hold the damage": corrupt_targets_hold_the_damage,
        "forgets who was selected": corrupt_forgets_who_was_selected,
        "keeps none": corrupt_keeps_none, "random and kept swapped": corrupt_swaps_random_and_kept,
    },
    "reading_cost": {
        "the same either way": cost_same_either_way,
        "forgets the new turn": cost_forgets_the_new_turn,
        "formula for equal turns": cost_formula_for_equal_turns,
        "the whole talk at each turn": cost_whole_talk_at_each_turn,
        "the wrong way round": cost_the_wrong_way_round, "squares": cost_squares,
    },
    "hidden": {
        "all that are asked for": 300,
        "ten percent": 200,
        "those at random": 30,
        "80% of the text": 1600,
        "a share": 0.12,
        "masked and random": 270,
    },
    "cells": {
        "all": 100,
        "the source alone": 36,
        "no cross-attention": 46,
        "without the targets' past": 60,
        "causal": 55,
        "targets see all targets": 76,
    },
    "pool": {
        "one mean": pool_everything,
        "every so many": pool_with_strides,
        "sums": pool_by_summing,
        "one mean, repeated": pool_repeated,
        "the first states": pool_of_the_first,
        "over the width": pool_over_the_width,
    },
}
