"""Checks of the exercises on supervised fine-tuning: masks, adapters, packs, and the rest."""

import torch

from llmbook.alignment.chat import Encoded
from llmbook.alignment.sft import targets_of
from llmbook.book.check import NotYet, agree, call, chosen, exercise, number
from llmbook.data.verifiable import KINDS, Example, side_of


@exercise("sft/labels", title="What is to be said next", difficulty=2, minutes=15)
def labels(answer):
    for ids, counts in (
        ([7, 3, 9, 4, 8, 5], [False, False, True, True, False, True]),
        ([2, 6, 1], [False, True, True]),
        ([5, 5, 5, 5], [False, True, False, True]),
    ):
        got = call(answer, list(ids), list(counts))
        agree(
            got,
            targets_of(Encoded(ids, counts))[1],
            "Place t is to say token t + 1, if that token is the model's to write, else -100. So "
            "the flag that matters is that of the token said, and there is one place less than "
            "tokens. The end token has its flag, too.",
        )
    return "Right: shifted by one, and masked by what is said, not by where it is said."


@exercise("sft/adapted", title="A weight and its change", difficulty=2, minutes=15)
def adapted(answer):
    g = torch.Generator().manual_seed(0)
    for out, into, rank, alpha in ((5, 3, 2, 8.0), (4, 4, 1, 3.0), (3, 6, 3, 16.0)):
        W, A, B = (
            torch.randn(shape, generator=g, dtype=torch.float64)
            for shape in ((out, into), (rank, into), (out, rank))
        )
        agree(
            call(answer, W, A, B, alpha),
            W + alpha / rank * B @ A,
            "The change is B A, (out, rank) times (rank, in), scaled by alpha / rank, and it is "
            "added to W. The rank is the number of A's rows.",
        )
    return "Right. Merged, it costs what W costs."


@exercise("sft/apart", title="Texts that share a row", difficulty=2, minutes=15)
def apart(answer):
    for lengths in ([3, 2, 4], [1, 1, 5], [6]):
        number_of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        want = (number_of[:, None] == number_of[None]).tril()
        got = call(answer, list(lengths))
        if isinstance(got, torch.Tensor) and got.dtype != torch.bool:
            raise NotYet(f"A mask is bool: True where a token may look. This is {got.dtype}.")
        agree(
            got,
            want,
            "A token may attend to the tokens of its own text, up to itself: rows read, columns "
            "are read. All else is False.",
        )
    return "Right: blocks on the diagonal, each of them causal."


@exercise("sft/plain_marks", title="Marks as plain text", difficulty=1, minutes=5, kind="figure")
def plain_marks(answer):
    agree(
        number(answer),
        18,
        "Take the figure's first conversation, choose 'plain text', and read the line below it: "
        "how many count?",
    )
    return "Right: 18 of 82 tokens, where marks of their own make it 8 of 34."


@exercise("sft/stops", title="Where does it stop?", difficulty=1, minutes=5, kind="predict")
def stops(answer):
    options = ("right and ends", "right and goes on", "wrong and ends", "wrong and goes on")
    if chosen(answer, options) != "right and goes on":
        raise NotYet(
            "The answer's tokens are learned as before. What is never trained is the one token "
            "that comes after them."
        )
    return "Right: it writes the answer and then whatever comes, up to the limit of its length."


@exercise("sft/one_wording", title="A single wording", difficulty=2, minutes=20, kind="experiment")
def one_wording(answer):
    kinds = ("first-word", "swap", "count")
    got = call(answer, kinds, 60)
    if not isinstance(got, list) or not all(isinstance(e, Example) for e in got):
        raise NotYet("Return a list of Examples, such as verifiable.examples gives.")
    if len(got) != 60:
        raise NotYet(f"n is the number of examples in all, 60 here: got {len(got)}.")
    if {e.kind for e in got} != set(kinds) or any(
        sum(e.kind == kind for e in got) != 20 for kind in kinds
    ):
        raise NotYet("As many of each kind: n / len(kinds).")
    if any(e.instruction != KINDS[e.kind].wordings[0] for e in got):
        raise NotYet("Every example must have the first wording of its kind: wording=0.")
    if any(side_of(e.kind, "", e.input) != "train" for e in got):
        raise NotYet("Train on the training side, not on what is held out.")
    return "Right. Tune on it and evaluate with wording=3: how much of it was the wording?"
