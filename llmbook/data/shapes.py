"""Pictures that the package draws: one shape of one colour somewhere on a small dark canvas.

A picture is (SIZE, SIZE, 3), rows from the top, red, green and blue from 0 to 1. A shape with its
centre at (x, y) and the radius r covers a cell at distance (dx, dy) when

    circle    dx² + dy² ≤ r²            square    max(|dx|, |dy|) ≤ 0.85 r
    triangle  |dx| ≤ (dy + r) / 2 ≤ r   cross     min(|dx|, |dy|) ≤ 0.3 r, max ≤ r

(dy downwards, all in cells). The caption has four words: colour, shape, row, column.
"""

import torch

from llmbook.checks import wholes
from llmbook.seeds import as_generator

SIZE, PATCH = 16, 4
COLOURS = {
    "red": (0.90, 0.22, 0.20),
    "green": (0.20, 0.75, 0.35),
    "blue": (0.25, 0.45, 0.95),
    "yellow": (0.95, 0.80, 0.20),
    "purple": (0.70, 0.35, 0.80),
}
SHAPES = ("circle", "square", "triangle", "cross")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
WORDS = ("⊔", *COLOURS, *SHAPES, *ROWS, *COLUMNS)
SIZES = (len(COLOURS), len(SHAPES), len(ROWS), len(COLUMNS))  # words of each kind
STARTS = torch.tensor([1, *SIZES[:-1]]).cumsum(0)  # where each kind begins in WORDS
LEAST, MOST = 3.0, 4.0  # radii
FIRST, LAST = 3.5, 12.5  # where centres may be


def draw(shape, colour, x, y, r):
    """Pictures of single shapes: (n, SIZE, SIZE, 3).

    shape, colour: (n,) int64, places in SHAPES and COLOURS; x, y, r: (n,) in cells; a cell's
    middle is at its number plus a half.
    """
    middles = torch.arange(SIZE) + 0.5
    dx = (middles[None, None] - x[:, None, None]).expand(-1, SIZE, -1)
    dy = (middles[None, :, None] - y[:, None, None]).expand(-1, -1, SIZE)
    r = r[:, None, None]
    ax, ay = dx.abs(), dy.abs()
    covered = torch.stack(
        [
            dx**2 + dy**2 <= r**2,
            torch.maximum(ax, ay) <= 0.85 * r,
            (ax <= (dy + r) / 2) & ((dy + r) / 2 <= r),
            (torch.minimum(ax, ay) <= 0.3 * r) & (torch.maximum(ax, ay) <= r),
        ],
        1,
    )  # (n, shapes, SIZE, SIZE)
    mine = covered[torch.arange(len(shape)), shape]
    paint = torch.tensor(list(COLOURS.values()))[colour]
    return mine[..., None] * paint[:, None, None]


def thirds(x):
    """0, 1 or 2: in which third of the canvas a coordinate lies."""
    return (x * 3 / SIZE).long().clamp(0, 2)


def pictures(n, generator=0):
    """n pictures drawn at random, with their captions: (n, SIZE, SIZE, 3), (n, 4) places in WORDS.

    Shapes, colours, sizes and places are uniform. Raises as the tasks of `llmbook.data.tasks` do.
    """
    wholes(1, n=n)
    g = as_generator(generator)
    shape = torch.randint(len(SHAPES), (n,), generator=g)
    colour = torch.randint(len(COLOURS), (n,), generator=g)
    x, y = FIRST + (LAST - FIRST) * torch.rand(2, n, generator=g)
    r = LEAST + (MOST - LEAST) * torch.rand(n, generator=g)
    return draw(shape, colour, x, y, r), captions(shape, colour, x, y)


def captions(shape, colour, x, y):
    """The four words of each picture: (n, 4) places in WORDS."""
    return torch.stack([colour, shape, thirds(y), thirds(x)], 1) + STARTS


def all_captions():
    """Every caption that can be said: (180, 4)."""
    return torch.cartesian_prod(*map(torch.arange, SIZES)) + STARTS


def pairs(n, generator=0):
    """Two shapes a picture, a question and its answer.

    → pictures (n, SIZE, SIZE, 3); questions (n, 2): what is asked (0 colour, 1 shape, 2 place) and
    of which object, a place in WORDS: its colour, or its shape when the colour is asked; answers
    (n,), places in WORDS, a row word when the place is asked. The two differ in colour, in shape
    and in their row: one is at the top, one at the bottom, with the columns left to chance.
    """
    wholes(1, n=n)
    g = as_generator(generator)
    shape = torch.rand(n, len(SHAPES), generator=g).argsort(-1)[:, :2]
    colour = torch.rand(n, len(COLOURS), generator=g).argsort(-1)[:, :2]
    x = FIRST + (LAST - FIRST) * torch.rand(n, 2, generator=g)
    top = torch.rand(n, 2, generator=g).argsort(-1)  # 0: at the top, 1: at the bottom
    y = 3.7 + 8.6 * top + torch.rand(n, 2, generator=g) - 0.5
    r = LEAST + 0.6 * torch.rand(n, 2, generator=g)
    both = [draw(shape[:, i], colour[:, i], x[:, i], y[:, i], r[:, i]) for i in (0, 1)]
    said = [captions(shape[:, i], colour[:, i], x[:, i], y[:, i]) for i in (0, 1)]
    asked = torch.randint(3, (n,), generator=g)
    which, rows = torch.randint(2, (n,), generator=g), torch.arange(n)
    mine = torch.stack(said, 1)[rows, which]  # (n, 4)
    by = torch.where(asked == 0, mine[:, 1], mine[:, 0])
    return both[0] + both[1], torch.stack([asked, by], 1), mine[rows, asked]


def patches(image, size=PATCH):
    """Cut pictures into squares: (…, H, W, C) → (…, H/size · W/size, size · size · C), by rows.

    Raises ValueError for sides that size doesn't divide.
    """
    *batch, height, width, channels = image.shape
    if height % size or width % size:
        raise ValueError(f"size must divide both sides: got size={size}, {height} × {width}")
    cut = image.reshape(*batch, height // size, size, width // size, size, channels)
    return cut.transpose(-4, -3).reshape(*batch, -1, size * size * channels)
