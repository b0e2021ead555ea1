"""The walk through a house in the page: what it reads and what it expects equal PyTorch's."""

import numpy as np
import pytest
import torch
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures

from llmbook.experiments.inside import house, walker
from llmbook.experiments.inside import runs as inside
from llmbook.experiments.inside.streams import through
from llmbook.figures import HouseWalk

MODEL, PROBES, WAYS = inside.shipped()
HOW = {"layer": inside.EDIT, "reading": inside.READ, "strength": inside.STRENGTH}
WALK = "EFBBBCCCCCCCCBBBBBFEEF"
in_browser = pytest.mark.browser


def figure(**state):
    return HouseWalk(MODEL, PROBES, WAYS, **(HOW | state))


def read(text, there=-1, random=False):
    """(rooms, next letters) by PyTorch in float64, from the weights as they are shipped."""
    model = MODEL.double()
    letters = torch.tensor([[house.LETTERS.index(letter) for letter in text]])
    here = house.follow(letters)[:, -1]
    weight, bias = (v.double() for v in PROBES[inside.EDIT])

    def change(layer, x):
        if layer == inside.EDIT and there >= 0:
            x = x.clone()
            old, new = x[:, -1], torch.tensor([there])
            moved = walker.move(old, weight, bias, here, new, inside.STRENGTH)
            if random:  # as far and to the side that the margin says, along another direction
                w = weight[here] - weight[new]
                way = (moved - old) @ w.T / w.norm()
                moved = old + way * WAYS[there].double()
            x[:, -1] = moved
        return x

    with torch.no_grad():
        ids = torch.cat([torch.tensor([[house.START]]), letters], 1)
        states, logits = through(model, ids, change)
        weight, bias = (v.double() for v in PROBES[inside.READ])
        rooms = (states[inside.READ][0, -1] @ weight.T + bias).softmax(-1)
    MODEL.float()
    return rooms, walker.expected(logits[0, -1])


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"layer": 9}, "layer must have a probe"),
        ({"strength": 11}, "strength must be a number from 0"),
        ({"there": 16}, "there must be a whole number from -1"),
        ({"text": "A"}, "text must lead through doors"),
        ({"text": "C" * 24}, "text must be of at most 23"),
        ({"text": "Z"}, "text must be of at most 23 of ABCDEF"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(state, words):
    with pytest.raises(ValueError, match=words):
        figure(**state)


def seen(page):
    rooms, letters = page.data(".room", "p"), page.data(".next", "p")
    return np.array(rooms), np.array(letters)


@in_browser
@pytest.mark.parametrize("state", [{}, {"there": 10}, {"there": 10, "random": True}])
def test_the_page_reads_and_edits_as_pytorch_does(open_widget, state):
    page = open_widget(figure(text=WALK, **state))
    page.page.locator(".room").first.wait_for()
    for got, want in zip(seen(page), read(WALK, **state), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-3)


@in_browser
def test_one_walks_by_letters_and_a_click_puts_another_room_in(open_widget):
    page = open_widget(figure(text="EF"))
    page.page.locator(".room").first.wait_for()
    assert page.control("door-A").is_disabled() and not page.control("door-B").is_disabled()
    page.control("door-B").click()
    assert page.state("text") == "EFB" and page.data(".readout", "here") == [4]
    before = page.data(".readout", "mass")[0]
    page.page.locator('.room[data-room="10"]').click()
    assert page.state("there") == 10 and page.data(".readout", "best") != [4]
    assert min(before, page.data(".readout", "mass")[0]) > 0.8  # of the room put in
    page.pick("random", "random")
    assert page.data(".readout", "mass")[0] < 0.8
    page.control("back").click()
    assert page.state("text") == "EF" and page.state("there") == -1


@in_browser
def test_a_walk_ends_where_the_model_s_places_do(open_widget):
    page = open_widget(figure(text="EFBBBCCCCCCCCBBB"))
    page.page.locator(".room").first.wait_for()
    page.control("many").click()
    assert len(page.state("text")) == house.LENGTH - 1
    assert page.control("many").is_disabled()
    house.follow(torch.tensor([[house.LETTERS.index(c) for c in page.state("text")]]))
