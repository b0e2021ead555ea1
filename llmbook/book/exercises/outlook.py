"""Checks of the outlook's exercises: odd sizes, so that a swapped axis shows."""

import torch

from llmbook.book.check import NotYet, agree, call, exercise, number
from llmbook.data.shapes import patches
from llmbook.experiments.outlook.diffusion import MASK, TOKENS, texts
from llmbook.experiments.outlook.pictures import contrastive_loss


@exercise("outlook/patchify", title="Cut a picture into patches", difficulty=2, minutes=20)
def patchify(answer):
    g = torch.Generator().manual_seed(1)
    for n, height, width, channels, size in ((2, 6, 9, 2, 3), (1, 4, 8, 1, 4)):
        image = torch.randn(n, height, width, channels, generator=g)
        got = call(answer, image.clone(), size)
        want = patches(image, size)
        if isinstance(got, torch.Tensor) and got.shape == want.shape:
            if not torch.equal(got, want) and torch.equal(
                got.sort(-1).values, want.sort(-1).values
            ):
                raise NotYet(
                    "The patches are right, the numbers inside them stand in another order: row "
                    "by row, and for each cell its channels together."
                )
        agree(
            got,
            want,
            "Split height into (rows, size) and width into (columns, size), bring rows and "
            "columns together in front, then flatten: two reshapes and one transpose.",
        )
    return "Right. A linear map of this is the convolution above."


@exercise("outlook/contrast", title="CLIP's loss", difficulty=2, minutes=20)
def contrast(answer):
    g = torch.Generator().manual_seed(2)
    for n, d, scale in ((5, 3, 4.0), (7, 11, 1.0)):
        u, v = torch.randn(2, n, d, generator=g, dtype=torch.float64)
        v = v * 3 + u
        want = contrastive_loss(u, v, torch.tensor(scale, dtype=torch.float64).log())
        agree(
            call(answer, u.clone(), v.clone(), scale),
            want,
            "Make both of length 1, multiply u @ v.T, times the scale. Row i should choose "
            "column i, and column i row i: the mean of two cross-entropies.",
        )
    return "Right: every other pair of the batch serves as a wrong answer, for free."


@exercise("outlook/tokens", title="How many tokens?", difficulty=1, minutes=5, kind="predict")
def tokens(answer):
    agree(
        number(answer),
        (336 // 14) ** 2 + 3 * 100 // 2,
        "The picture has 336 / 14 patches on each axis. Sound has 100 frames a second, and the "
        "convolution keeps every second one.",
    )
    return "Right: 576 of the picture and 150 of the sound. Pictures are dear."


@exercise("outlook/lit", title="What does the model get?", difficulty=1, minutes=5, kind="figure")
def lit(answer):
    agree(
        number(answer),
        4,
        "Set the sliders to 8.0, 8.0 and 3.0 and the shape to square; count the patches between "
        "the white lines that hold at least one coloured cell.",
    )
    return (
        "Right: the four in the middle. All that it says rests on four tokens of sixteen; the "
        "dark ones tell it where the shape is not."
    )


@exercise("outlook/ends", title="Fill in the middle", difficulty=2, minutes=20, kind="experiment")
def ends(answer):
    g = torch.Generator().manual_seed(3)
    for k in (1, 3, 0):
        x = texts(6, g)
        got = call(answer, x.clone(), k)
        want = x.clone()
        want[:, k : TOKENS - k] = MASK
        agree(
            got,
            want,
            f"Keep the first k and the last k tokens; all between is MASK. Here k is {k}.",
        )
    return (
        "Right. Each given end narrows what fits between. Try it at one round too: tokens drawn "
        "at once do not know of each other."
    )
