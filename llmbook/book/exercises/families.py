"""Checks of the exercises on the families: masks, corruption, the cost of a talk, a bottleneck."""

import torch

from llmbook.book.check import NotYet, agree, call, exercise, number


def _prefix(n_prefix, n):
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    mask[:, :n_prefix] = True
    return mask


@exercise("families/prefix_mask", title="A fourth family", difficulty=1, minutes=10)
def prefix_mask(answer):
    for n_prefix, n in ((3, 7), (1, 5), (4, 5)):
        want, got = _prefix(n_prefix, n), call(answer, n_prefix, n)
        if torch.is_tensor(got) and got.shape == want.shape:
            if got.dtype != torch.bool:
                raise NotYet(f"A bool tensor is expected, True = may read: this is {got.dtype}.")
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


@exercise("families/reading_cost", title="The cost of a talk", difficulty=2, minutes=10)
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


@exercise("families/hidden", title="How many masks?", difficulty=1, minutes=5, kind="predict")
def hidden(answer):
    agree(
        number(answer),
        240,
        "15% of 2,000 tokens are selected, and the loss asks for them. Of the selected only eight "
        "in ten become [MASK]; the others are changed at random or stay as they are.",
    )
    return "Right: 300 are asked for, 240 of them are hidden."


@exercise("families/cells", title="Read the figure", difficulty=1, minutes=5, kind="figure")
def cells(answer):
    agree(
        number(answer),
        70,
        "Six source tokens read six each. Four targets read six of the source (purple) and their "
        "own past, themselves included: one, two, three and four.",
    )
    return "Right: 36 + 24 + 10, of 100."


@exercise("families/pool", title="A wider bottleneck", difficulty=2, minutes=20, kind="experiment")
def pool(answer):
    g = torch.Generator().manual_seed(2)
    for tokens, parts in ((20, 5), (6, 3), (5, 5), (8, 1)):
        memory = torch.randn(3, tokens, 4, generator=g)
        pieces = memory.reshape(3, parts, tokens // parts, 4)
        got = call(answer, memory, parts)
        strided = memory.reshape(3, tokens // parts, parts, 4).mean(1)
        if torch.is_tensor(got) and 1 < parts < tokens and torch.equal(got, strided):
            raise NotYet("These are means of every parts-th token; take neighbours together.")
        agree(
            got,
            pieces.mean(2),
            "Cut the tokens into `parts` pieces of neighbours, as long as each other, and take "
            "the mean of each piece: (batch, parts, d).",
            1e-5,
        )
    return "Right. Plug it in and run: where there are as many means as digits, nothing is merged."
