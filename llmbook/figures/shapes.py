"""Interactive: a picture that the reader sets or paints, named word by word by a small model."""

import torch
import traitlets

from llmbook.checks import number, one_of, whole
from llmbook.data.shapes import (
    COLOURS,
    COLUMNS,
    FIRST,
    LAST,
    LEAST,
    MOST,
    ROWS,
    SHAPES,
    SIZE,
    WORDS,
    draw,
)

from .forward import WithWeights

_NEEDS = ("patch.weight", "word.weight", "positions", "blocks.1.attend.kv.weight", "head.weight")


class ShapeNamer(WithWeights):
    """A shape on a canvas of 16 × 16 cells, what a model says of it, and where it looks.

    weights: of `llmbook.experiments.outlook.pictures.Captioner` by PyTorch's names. shape, colour:
    of `SHAPES` and `COLOURS`; x, y: the centre, and r: the radius, in cells. painted: cells that
    the reader changed, a list of [row, column, lit]; a lit cell has the chosen colour. word: which
    of the four words has its attention shown, a mean over the heads of the last layer.
    blind: patches that are blank to the model, by number. Raises ValueError for weights that lack
    something, unknown names, numbers out of range and cells that don't exist.
    """

    script = "shapes.js"
    alt = traitlets.Unicode(
        "A canvas with one coloured shape that the reader sets with sliders or paints cell by "
        "cell, its sixteen patches shaded by the attention that they get while one word is said, "
        "and the four words that a small model says of it with their probabilities."
    ).tag(sync=True)
    shape = traitlets.Unicode("circle").tag(sync=True)
    colour = traitlets.Unicode("red").tag(sync=True)
    x = traitlets.Float(5.0).tag(sync=True)
    y = traitlets.Float(4.5).tag(sync=True)
    r = traitlets.Float(3.4).tag(sync=True)
    painted = traitlets.List().tag(sync=True)
    word = traitlets.Int(1).tag(sync=True)
    blind = traitlets.List().tag(sync=True)
    palette = traitlets.Dict().tag(sync=True)
    words = traitlets.List().tag(sync=True)
    kinds = traitlets.List().tag(sync=True)
    example = traitlets.List().tag(sync=True)

    def __init__(self, weights, *, example=(), **state):
        if missing := sorted(set(_NEEDS) - set(weights)):
            raise ValueError(f"weights must be a captioner's: {', '.join(missing)} missing")
        for name, known in (("shape", SHAPES), ("colour", COLOURS)):
            if name in state:
                one_of(name, state[name], known)
        for name, low, high in (("x", FIRST, LAST), ("y", FIRST, LAST), ("r", LEAST, MOST)):
            if name in state:
                state[name] = float(number(name, state[name], least=low, most=high))
        state["word"] = whole("word", state.get("word", 1), least=0, most=3)
        for cell in state.get("painted", ()):
            if len(cell) != 3 or not all(0 <= i < SIZE for i in cell[:2]) or cell[2] not in (0, 1):
                raise ValueError(
                    f"painted must be [row, column, lit] with cells from 0 to {SIZE - 1} and lit "
                    f"0 or 1: got {cell!r}"
                )
        for patch in state.get("blind", ()):
            whole("blind", patch, least=0, most=15)
        super().__init__(
            "shapes",
            weights,
            palette={name: [round(255 * c) for c in rgb] for name, rgb in COLOURS.items()},
            words=list(WORDS),
            kinds=[list(COLOURS), list(SHAPES), list(ROWS), list(COLUMNS)],
            example=list(example),
            **state,
        )

    @classmethod
    def of(cls, model, **state):
        """The figure of a `Captioner`; what it says of the first picture is stored with it."""
        figure = cls(model.state_dict(), **state)
        found, _ = reading(model, figure.picture())
        figure.example = [WORDS[i] for i in found]
        return figure

    def picture(self):
        """What the model is shown: (1, SIZE, SIZE, 3), rounded as the page holds it."""
        place = torch.tensor([list(COLOURS).index(self.colour)])
        numbers = (torch.tensor([float(v)]) for v in (self.x, self.y, self.r))
        image = draw(torch.tensor([SHAPES.index(self.shape)]), place, *numbers)
        for row, column, lit in self.painted:
            image[0, row, column] = lit * torch.tensor(list(COLOURS.values()))[place[0]]
        for patch in self.blind:
            i, j = divmod(patch, 4)
            image[0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = 0
        return image


@torch.no_grad()
def reading(model, image):
    """The four words of a `Captioner` for one picture, likeliest first, and where it looked.

    → ids (4,), attention (4, 20): a mean over the heads of the last layer; columns are the 16
    patches, then the words before.
    """
    said = [0]
    look = model.blocks[-1].attend
    look.keep = True
    for _ in range(4):
        logits = model(image, torch.tensor([said]))
        said.append(logits[0, -1].argmax().item())
    look.keep = False
    return said[1:], look.weights[0].mean(0)[-4:]
