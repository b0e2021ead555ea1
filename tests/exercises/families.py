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


def gpt_parameters(vocab, max_len, d, layers):
    attention = 3 * d * d + 3 * d + d * d + d
    ffn = d * 4 * d + 4 * d + 4 * d * d + d
    norms = 2 * 2 * d
    block = attention + ffn + norms
    return vocab * d + max_len * d + layers * block + 2 * d


SOLUTIONS = {
    "prefix_mask": prefix_mask, "corrupt": corrupt, "reading_cost": reading_cost,
    "gpt_parameters": gpt_parameters,
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


def count_output_twice(vocab, max_len, d, layers):
    return gpt_parameters(vocab, max_len, d, layers) + vocab * d


def count_no_biases(vocab, max_len, d, layers):
    return gpt_parameters(vocab, max_len, d, layers) - layers * 9 * d


def count_no_last_norm(vocab, max_len, d, layers):
    return gpt_parameters(vocab, max_len, d, layers) - 2 * d


def count_no_norms_in_blocks(vocab, max_len, d, layers):
    return gpt_parameters(vocab, max_len, d, layers) - layers * 4 * d


def count_no_positions(vocab, max_len, d, layers):
    return gpt_parameters(vocab, max_len, d, layers) - max_len * d


def count_twelve_d_squared(vocab, max_len, d, layers):
    return vocab * d + layers * 12 * d * d


WRONG = {
    "prefix_mask": {
        "causal throughout": mask_causal_throughout, "all ones": mask_everything,
        "the prefix sees the answer": mask_prefix_sees_the_answer, "transposed": mask_transposed,
        "nobody reads themselves": mask_without_the_diagonal,
        "the rest does not read the prefix": mask_two_blocks,
        "one column too many": mask_one_column_too_many,
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
    "gpt_parameters": {
        "output counted twice": count_output_twice, "no biases": count_no_biases,
        "no last norm": count_no_last_norm, "no norms in blocks": count_no_norms_in_blocks,
        "no positions": count_no_positions, "12 d² and no more": count_twelve_d_squared,
    },
}
