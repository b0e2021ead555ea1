"""Checks of the exercises on the families: masks, corruption, the cost of a talk, a count."""

import torch

from llmbook.book.check import NotYet, agree, call, exercise


def _prefix(n_prefix, n):
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    mask[:, :n_prefix] = True
    return mask


@exercise("families/prefix_mask", title="A fourth family", difficulty=1, minutes=10)
def prefix_mask(answer):
    for n_prefix, n in ((3, 7), (1, 5), (4, 5)):
        want, got = _prefix(n_prefix, n), call(answer, n_prefix, n)
        if torch.is_tensor(got) and got.shape == want.shape:
            got = got.bool()
            if torch.equal(got, want.T) and not torch.equal(got, want):
                raise NotYet("Rows look, columns are looked at: yours is the transpose.")
            if not got.diagonal().all():
                raise NotYet("Each token may read itself.")
            if got[:n_prefix, n_prefix:].any():
                raise NotYet(
                    "The prefix must not see what comes after it: then the answer would "
                    "be in the question."
                )
            if not got[:n_prefix, :n_prefix].all():
                raise NotYet("Within the prefix everybody reads everybody, to the right too.")
        agree(got, want, "Start from the causal mask and open the columns of the prefix.")
    return "Right. With n_prefix = 1 it is a decoder, with n_prefix = n an encoder."


def _corrupt(ids, selected, fate, random_ids, mask_id):
    inputs = ids.masked_fill(selected & (fate < 0.8), mask_id)
    inputs = torch.where(selected & (fate >= 0.8) & (fate < 0.9), random_ids, inputs)
    return inputs, ids.masked_fill(~selected, -100)


@exercise("families/corrupt", title="80, 10, 10", difficulty=2, minutes=15)
def corrupt(answer):
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 90, (7, 31), generator=g)
    selected = torch.rand(ids.shape, generator=g) < 0.3
    fate = torch.rand(ids.shape, generator=g)
    random_ids = torch.randint(100, 200, ids.shape, generator=g)
    got = call(answer, ids, selected, fate, random_ids, 4)
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise NotYet("Return two tensors: the inputs and the targets.")
    inputs, targets = _corrupt(ids, selected, fate, random_ids, 4)
    agree(
        got[1],
        targets,
        "Targets: the original token where it was selected (kept ones too), −100 everywhere else.",
    )
    if torch.is_tensor(got[0]) and got[0].shape == inputs.shape:
        if bool((got[0] != ids)[~selected].any()):
            raise NotYet("A token that was not selected has changed.")
    agree(
        got[0],
        inputs,
        "Of the selected: fate below 0.8 becomes mask_id, from 0.8 to 0.9 the "
        "random token, from 0.9 on nothing changes.",
    )
    return "Right: three fates, and one set of questions."


@exercise("families/reading_cost", title="The cost of a talk", difficulty=2, minutes=15)
def reading_cost(answer):
    for lengths in ([5, 7, 3], [4], [2, 2, 2, 2, 2, 2], [10, 1, 1, 30]):
        cached, again = sum(lengths), 0
        for k in range(len(lengths)):
            again += sum(lengths[: k + 1])
        agree(
            call(answer, list(lengths), True),
            cached,
            "With a cache every token is read once, whatever the turn.",
        )
        agree(
            call(answer, list(lengths), False),
            again,
            "Without: at each turn all turns so far are read, the new one included.",
        )
    return "Right. For n equal turns the ratio is (n + 1) / 2."


@exercise("families/gpt_parameters", title="124,439,808", difficulty=3, minutes=25)
def gpt_parameters(answer):
    for vocab, max_len, d, layers in ((50257, 1024, 768, 12), (100, 30, 12, 3), (7, 5, 8, 1)):
        block = 12 * d * d + 13 * d
        want = vocab * d + max_len * d + layers * block + 2 * d
        got = call(answer, vocab, max_len, d, layers)
        if isinstance(got, (int, float)):
            missing = want - got
            if missing == -vocab * d:
                raise NotYet("The output matrix is the token embedding: count it once.")
            if missing == 2 * d:
                raise NotYet("Nearly: there is one more norm, after the last block.")
            if missing == layers * 9 * d:
                raise NotYet("The linear maps have biases: 3d, d, 4d and d in a block.")
            if missing == layers * 4 * d:
                raise NotYet("Two norms in each block, each with a weight and a bias.")
            if missing == max_len * d:
                raise NotYet("GPT-2 has a learned vector for each position.")
        agree(
            got,
            want,
            "Embeddings, positions, then in each block 4d² + 8d² weights, 9d biases "
            "and two norms; one norm at the end.",
        )
    return "Right, to the last weight."
