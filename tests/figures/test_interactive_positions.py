"""The explorer of positions: what is drawn in the browser equals what Python computes."""

import json
import math

import numpy as np
import pytest
from helpers.browser import browser, open_widget, widget_state  # noqa: F401 - fixtures

from llmbook.figures.positions import PositionExplorer
from llmbook.positions import sinusoidal

in_browser = pytest.mark.browser
NAMES = ("d", "length", "base", "position", "offset", "pair")


def table(page, figure):
    return np.array(page.data(".cell", "value")).reshape(figure.length, -1)


# --- in Python


@pytest.mark.parametrize("d, base", [(4, 10_000), (16, 100), (32, 10_000)])
def test_the_table_is_the_library_s_encoding(d, base):
    figure = PositionExplorer(d=d, base=base, length=50)
    want = sinusoidal(50, d, base=base).double().numpy()
    np.testing.assert_allclose(figure.encoding(), want, atol=1e-6)
    np.testing.assert_allclose(figure.similarity(), want @ want[10], atol=1e-5)
    np.testing.assert_allclose(figure.shifted(9)[:41], figure.encoding()[9:], atol=1e-12)


def test_the_three_ticks_are_computed_and_a_broken_code_turns_two_of_them_off():
    good, broken = PositionExplorer().ticks(), PositionExplorer(code="equal").ticks()
    assert [good[k] for k in ("unique", "linear", "scales")] == [True, True, True]
    assert [broken[k] for k in ("unique", "linear", "scales")] == [False, True, False]
    sine = np.sin(np.arange(48))
    assert good["crossings_first"] == int((np.sign(sine[2:]) != np.sign(sine[1:-1])).sum()) == 14
    assert good["crossings_last"] == 0 and good["residual"] < 1e-12 < good["distance"]


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"d": 7}, "d must be even"),
        ({"d": 40}, "d must be a whole number from 4 to 32"),
        ({"length": 100}, "length must be a whole number from 8 to 64"),
        ({"position": 48}, "position must be a whole number from 0 to 47"),
        ({"offset": 38}, "offset must be a whole number from -10 to 37: got 38"),
        ({"offset": -11}, "offset must be"),
        ({"pair": 8}, "pair must be a whole number from 0 to 7"),
        ({"base": 1}, "base must be a number from 10"),
        ({"code": "binary"}, "code must be one of"),
    ],
)
def test_settings_outside_the_sliders_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        PositionExplorer(**bad)


def test_the_state_is_small_plain_json_and_the_alt_stands_for_the_figure():
    assert len(json.dumps(widget_state(PositionExplorer()), allow_nan=False)) < 1000
    assert repr(PositionExplorer()).startswith("[interactive: A heat map of the sinusoidal")


# --- in the browser


@in_browser
def test_the_drawn_table_curve_circle_and_ticks_are_python_s(open_widget):
    figure = PositionExplorer(d=10, length=40, base=500, position=4, offset=9, pair=2)
    page = open_widget(figure)
    np.testing.assert_allclose(table(page, figure), figure.encoding(), atol=1e-12)
    points = np.array(page.data(".point", "k", "value"))
    np.testing.assert_array_equal(points[:, 0], np.arange(40) - 4)
    np.testing.assert_allclose(points[:, 1], figure.similarity(), atol=1e-12)
    angle = 9 * figure.frequencies()[2]
    assert page.data(".readout", "angle") == [pytest.approx(angle)] == page.data(".turn", "angle")
    for name, t in (("now", 4), ("then", 13)):
        want = figure.encoding()[t, 4:6]
        np.testing.assert_allclose(page.data(f".{name}", "sin", "cos")[0], want, atol=1e-12)
    wave = 2 * math.pi / figure.frequencies()[2]
    assert page.data(".note", "wavelength") == [pytest.approx(wave)]
    found = figure.ticks()
    drawn = page.data(".ticks", "distance", "residual", "first", "last")[0]
    assert drawn[0] == pytest.approx(found["distance"]) and drawn[1] < 1e-12
    assert drawn[2:] == (found["crossings_first"], found["crossings_last"])
    assert page.data(".ticks li", "ok") == [1, 1, 1]
    # and they stand where the numbers say
    xy = np.array(page.attributes(".point", "cx", "cy"))
    per_unit = (xy[4, 1] - xy[13, 1]) / (points[4, 1] - points[13, 1])
    expected = xy[4, 1] + per_unit * (points[:, 1] - points[4, 1])
    np.testing.assert_allclose(xy[:, 1], expected, atol=0.02)
    (cx, cy), (tx, ty) = page.attributes(":is(.now, .then)", "cx", "cy")
    turned = math.atan2(130 - ty, tx - 130) - math.atan2(130 - cy, cx - 130)
    assert math.cos(turned) == pytest.approx(math.cos(angle), abs=1e-6)
    assert math.sin(turned) == pytest.approx(math.sin(angle), abs=1e-6)


@in_browser
def test_the_broken_code_turns_the_first_and_third_tick_off(open_widget):
    page = open_widget(PositionExplorer())
    page.pick("code", "equal")
    assert page.data(".ticks li", "ok") == [0, 1, 0]
    assert "the nearest two are" in page.text('[data-name="unique"]')
    page.pick("code", "geometric")
    assert page.data(".ticks li", "ok") == [1, 1, 1]


@in_browser
def test_mouse_keys_and_touch_move_the_sliders_and_keep_inside_the_table(open_widget):
    page = open_widget(PositionExplorer(), width=390, touch=True)
    page.drag("position", 0.999)
    assert (page.state("position"), page.state("offset")) == (47, 0)
    page.tap("position", 0.0)
    page.press("offset", "End")
    assert page.state("offset") == 47
    page.press("offset", "Home")
    assert page.state("offset") == 0
    page.press("pair", "End")
    assert page.state("pair") == 7
    page.slide("d", 8)
    assert page.state("pair") == 3 and table(page, PositionExplorer()).shape == (48, 8)
    page.press("base", "Home")
    assert page.state("base") == 10
    want = PositionExplorer(d=8, base=10, position=0, offset=0)
    np.testing.assert_allclose(table(page, want), want.encoding(), atol=1e-12)


@in_browser
def test_a_click_on_the_map_chooses_the_position(open_widget):
    page = open_widget(PositionExplorer(length=40))
    box = page.page.locator(".cell").nth(16 * 23 + 5).bounding_box()
    page.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.state("position") == 23 == page.data(".chosen", "t")[0]
    assert page.data(".shifted", "t") == [30]


@in_browser
def test_a_change_from_the_kernel_redraws_and_removal_stops_listening(open_widget):
    page = open_widget(PositionExplorer())
    page.set("position", 20)
    np.testing.assert_allclose(
        page.data(".point", "value"), PositionExplorer(position=20).similarity(), atol=1e-12
    )
    assert page.control("position").input_value() == "20"
    page.page.evaluate("cleanup()")
    assert page.page.evaluate("model.listening()") == 0
