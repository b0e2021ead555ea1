"""The captioner in the page: it draws, says and looks as Python's does."""

import numpy as np
import pytest
import torch
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.data.shapes import COLOURS, SHAPES, SIZE
from llmbook.experiments.outlook import pictures
from llmbook.figures import ShapeNamer
from llmbook.figures.shapes import reading

MODEL = pictures.shipped()
in_browser = pytest.mark.browser


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"shape": "star"}, "shape must be one of"),
        ({"colour": "pink"}, "colour must be one of"),
        ({"x": 1.0}, "x must be a number from 3.5 to 12.5: got 1"),
        ({"r": 9.0}, "r must be a number from 3.0 to 4.0"),
        ({"word": 4}, "word must be a whole number from 0 to 3"),
        ({"painted": [[0, 16, 1]]}, "painted must be"),
        ({"painted": [[0, 1]]}, "painted must be"),
        ({"blind": [16]}, "blind must be a whole number from 0 to 15"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(state, words):
    with pytest.raises(ValueError, match=words):
        ShapeNamer.of(MODEL, **state)
    with pytest.raises(ValueError, match="weights must be a captioner's"):
        ShapeNamer({})


@in_browser
def test_it_draws_the_cells_that_python_draws(open_widget):
    page = open_widget(ShapeNamer.of(MODEL))
    page.page.locator(".patch").first.wait_for()
    gen = torch.Generator().manual_seed(5)
    for i in range(24):
        x, y = (3.5 + torch.randint(91, (2,), generator=gen) / 10).tolist()
        r = 3.0 + torch.randint(11, (), generator=gen).item() / 10
        shape = SHAPES[i % 4]
        for name, value in (("shape", shape), ("x", x), ("y", y), ("r", r)):
            page.set(name, value)
        want = ShapeNamer.of(MODEL, shape=shape, x=x, y=y, r=r).picture()[0].sum(-1) > 0
        assert page.data(".cell", "at") == want.flatten().nonzero()[:, 0].tolist(), (shape, x, y)


@in_browser
@pytest.mark.parametrize(
    "state",
    [
        {},
        {"shape": "cross", "colour": "purple", "x": 11.2, "y": 12.4, "r": 3.1},
        {"shape": "triangle", "painted": [[0, 0, 1], [5, 5, 0]], "blind": [5]},
    ],
)
def test_it_says_and_looks_as_the_model_does(open_widget, state):
    figure = ShapeNamer.of(MODEL, **state)
    page = open_widget(figure)
    page.page.locator(".patch").first.wait_for()
    said, looks = reading(MODEL, figure.picture())
    assert page.data(".token", "id") == said
    with torch.no_grad():
        before = torch.tensor([[0, *said[:-1]]])
        p = MODEL(figure.picture(), before)[0].softmax(-1)
    likely = [p[i, word].item() for i, word in enumerate(said)]
    np.testing.assert_allclose(page.data(".token", "p"), likely, atol=1e-3)
    for word in range(4):
        page.set("word", word)
        np.testing.assert_allclose(page.data(".patch", "p"), looks[word, :16], atol=1e-3)


@in_browser
def test_clicks_paint_cells_blank_patches_and_are_undone(open_widget):
    page = open_widget(ShapeNamer.of(MODEL), width=1000)
    page.page.locator(".patch").first.wait_for()
    assert page.page.get_by_role("button", name="Undo painting").is_disabled()
    canvas, looks = (page.page.locator(".drawing svg").nth(i) for i in (0, 1))
    box = canvas.bounding_box()
    cell = box["width"] / SIZE
    page.page.mouse.click(box["x"] + 0.5 * cell, box["y"] + 15.5 * cell)
    assert page.state("painted") == [[15, 0, 1]]
    page.page.mouse.click(box["x"] + 5.5 * cell, box["y"] + 4.5 * cell)  # inside the circle
    assert [4, 5, 0] in page.state("painted")
    box = looks.bounding_box()
    page.page.mouse.click(box["x"] + 0.4 * box["width"], box["y"] + 0.1 * box["height"])
    assert page.state("blind") == [1]
    page.page.get_by_role("button", name="Undo painting").click()
    assert page.state("painted") == [] and page.state("blind") == []
    assert set(page.state("palette")) == set(COLOURS)
