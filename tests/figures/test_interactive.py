"""Interactive figures: what is drawn in the browser equals what Python computes."""

import numpy as np
import pytest
import torch
import traitlets
from helpers.browser import browser, open_widget, widget_state  # noqa: F401 - fixtures

from llmbook.figures import Interactive, LSTMGates, VanishingGradient
from llmbook.figures.vanishing import ACTIVATIONS, UNITS

in_browser = pytest.mark.browser
TOKENS = "the cat that sat on the mats was happy .".split()


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    return torch.nn.LSTM(6, 8)


@pytest.fixture(scope="module")
def inputs():
    return 2 * torch.randn(len(TOKENS), 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def gates(layer, inputs):
    return LSTMGates.from_layer(layer, inputs, TOKENS, units=[0, 3, 5])


# --- the base


@pytest.mark.parametrize("alt", ["", "slider", "   "])
def test_an_interactive_without_a_text_alternative_is_refused(alt):
    with pytest.raises(ValueError, match="alt must say in a sentence what the interactive shows"):
        VanishingGradient(alt=alt)
    figure = VanishingGradient()
    with pytest.raises(ValueError, match="alt must say"):
        figure.alt = alt


def test_a_subclass_gets_the_common_script_and_its_own():
    assert "function slider(" in str(VanishingGradient._esm)
    assert "function matrixCurve(" in str(VanishingGradient._esm)
    assert "function replay(" in str(LSTMGates._esm)
    assert "prefers-color-scheme" in str(LSTMGates._css)
    assert len(str(LSTMGates._esm)) + len(str(LSTMGates._css)) < 26_000


def test_a_subclass_without_alt_of_its_own_must_be_given_one():
    class Bare(Interactive):
        count = traitlets.Int(3).tag(sync=True)

    with pytest.raises(ValueError, match="alt must say"):
        Bare()
    assert repr(Bare(alt="A number that the reader can raise")) == (
        "[interactive: A number that the reader can raise]"
    )


def test_where_only_text_can_be_shown_the_alt_stands_for_the_figure():
    figure = VanishingGradient()
    bundle = figure._repr_mimebundle_()
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    assert bundle["text/plain"].startswith("[interactive: The size of a gradient")
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_the_state_is_small_plain_json(gates):
    import json

    for figure in (VanishingGradient(), gates):
        assert len(json.dumps(widget_state(figure), allow_nan=False)) < 12_000


# --- vanishing gradient, in Python


def test_the_scalar_curve_is_the_factor_to_the_power_k():
    for factor in (0.5, 0.9, 1.0, 1.1, 1.5):
        curve = VanishingGradient.curve(factor, 100)
        np.testing.assert_allclose(curve, [factor**k for k in range(101)], rtol=1e-12)
    assert (VanishingGradient.curve(1.0, 100) == 1).all()


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (0.9, (66, "vanished")),
        (0.5, (10, "vanished")),
        (1.0, None),
        (1.1, (73, "exploded")),
        (1.5, (18, "exploded")),
        (0.94, None),
    ],
)
def test_the_horizon_is_the_first_step_outside_the_band(factor, expected):
    assert VanishingGradient.horizon(VanishingGradient.curve(factor, 100)) == expected


def test_the_matrix_curve_is_the_spectral_norm_of_autograd_s_jacobian():
    figure = VanishingGradient()
    w = torch.tensor(figure.weight(1.3, 0.7))
    x = torch.tensor(figure.network["x"], dtype=torch.float64)
    for name, act in (("linear", lambda a: a), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid)):
        h = torch.zeros(UNITS, dtype=torch.float64)
        for t in range(93):
            h = act(w @ h + x[t])

        def last_seven(h, act=act):
            for t in range(93, 100):
                h = act(w @ h + x[t])
            return h

        jacobian = torch.autograd.functional.jacobian(last_seven, h)
        expected = np.linalg.norm(jacobian.numpy(), 2)
        assert figure.matrix_curve(1.3, name, 0.7, 7)[7] == pytest.approx(expected, rel=1e-9)


def test_a_linear_orthogonal_network_is_the_scalar_case_and_tanh_is_not():
    figure = VanishingGradient()
    for gain in (0.9, 1.0, 1.1):
        powers = VanishingGradient.curve(gain, 100)
        linear = figure.matrix_curve(gain, "linear", 0.0, 100)
        tanh = figure.matrix_curve(gain, "tanh", 0.0, 100)
        np.testing.assert_allclose(linear, powers, rtol=1e-9)
        assert tanh[50] < 0.5 * powers[50]
    assert figure.matrix_curve(1.1, "tanh", 0.0, 50)[50] < 10
    assert figure.matrix_curve(3.0, "sigmoid", 0.0, 50)[50] < 1e-6


def test_non_normality_moves_the_singular_values_and_not_the_eigenvalues():
    figure = VanishingGradient()
    w = figure.weight(0.9, 2.0)
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(w)), 0.9, atol=1e-3)
    assert np.linalg.norm(w, 2) > 2
    curve = figure.matrix_curve(0.9, "linear", 2.0, 100)
    assert curve.max() > 10 and curve[100] < curve.max() / 10


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("factor", 0.4),
        ("factor", float("nan")),
        ("steps", 0),
        ("steps", 101),
        ("gain", -1),
        ("nonnormality", 3),
        ("mode", "tensor"),
        ("activation", "relu"),
    ],
)
def test_settings_outside_the_sliders_are_refused_by_name(setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be"):
        VanishingGradient(**{setting: value})


# --- vanishing gradient, in the browser


def drawn(page):
    return [value for _, value in page.data(".point", "k", "value")]


@in_browser
def test_the_drawn_scalar_curve_is_python_s(open_widget):
    figure = VanishingGradient(factor=0.9, steps=80)
    page = open_widget(figure)
    points = page.data(".point", "k", "value")
    assert [k for k, _ in points] == list(range(81))
    np.testing.assert_allclose(drawn(page), figure.curve(0.9, 80), rtol=1e-12)
    assert page.data(".readout", "horizon") == [66] == page.data(".horizon", "k")
    assert "below 10⁻³ from step 66" in page.text(".readout")
    # and the points stand where the numbers say: equal steps across, equal decades down
    xy = np.array(page.attributes(".point", "cx", "cy"))
    decades = np.log10(figure.curve(0.9, 80))
    per_decade = (xy[80, 1] - xy[0, 1]) / decades[80]
    assert per_decade < -10
    np.testing.assert_allclose(xy[:, 1], xy[0, 1] + per_decade * decades, atol=0.02)
    np.testing.assert_allclose(np.diff(xy[:, 0]), (xy[80, 0] - xy[0, 0]) / 80, atol=0.02)
    ten_to_minus_three = page.page.locator("svg text", has_text="10⁻³").first.get_attribute("y")
    assert xy[0, 1] - 3 * per_decade == pytest.approx(float(ten_to_minus_three) - 4.5, abs=0.1)


@in_browser
def test_mouse_keys_and_touch_move_the_sliders(open_widget):
    page = open_widget(VanishingGradient(factor=1.0, steps=50), width=390, touch=True)
    page.drag("factor", 0.0)
    assert page.state("factor") == 0.5
    assert page.data(".readout", "horizon") == [10]
    page.tap("steps", 1.0)
    assert page.state("steps") == 100 and len(drawn(page)) == 101
    page.press("factor", "ArrowRight", "ArrowRight")
    assert page.state("factor") == pytest.approx(0.52)
    page.press("factor", "End")
    np.testing.assert_allclose(drawn(page), VanishingGradient.curve(1.5, 100), rtol=1e-12)
    assert page.data(".readout", "horizon") == [18]
    assert page.control("factor").get_attribute("aria-valuetext") == "1.50"
    assert page.page.evaluate("model.saved") >= 4


@in_browser
def test_the_drawn_matrix_curves_are_python_s(open_widget):
    figure = VanishingGradient(steps=100)
    page = open_widget(figure)
    page.pick("mode", "matrix")
    for activation in ACTIVATIONS:
        page.pick("activation", activation)
        for gain, eta in ((0.9, 0.0), (1.1, 0.0), (3.0, 1.25), (0.5, 2.0)):
            page.slide("gain", gain)
            page.slide("nonnormality", eta)
            expected = figure.matrix_curve(gain, activation, eta, 100)
            # where tanh is driven into chaos, a rounding error grows with the curve itself
            np.testing.assert_allclose(drawn(page), expected, rtol=1e-6)
            sigma = np.linalg.norm(figure.weight(gain, eta), 2)
            assert page.data(".note", "sigma") == [pytest.approx(sigma, rel=1e-12)]
            found = figure.horizon(expected)
            assert page.data(".readout", "horizon") == [found[0] if found else -1]


@in_browser
def test_a_change_from_the_kernel_redraws_and_removal_stops_listening(open_widget):
    page = open_widget(VanishingGradient(factor=0.9))
    page.set("factor", 1.2)
    np.testing.assert_allclose(drawn(page), VanishingGradient.curve(1.2, 50), rtol=1e-12)
    assert page.control("factor").input_value() == "1.2"
    page.page.evaluate("cleanup()")
    assert page.page.evaluate("model.listening()") == 0


# --- LSTM gates, in Python


def test_the_gates_replay_the_layer_s_own_states(layer, inputs, gates):
    with torch.no_grad():
        h, (_, c_last) = layer.double()(inputs.double())
    cells, hidden = gates.replay()
    np.testing.assert_allclose(hidden, h[:, [0, 3, 5]].numpy(), atol=1e-5)
    np.testing.assert_allclose(cells[-1], c_last[0, [0, 3, 5]].numpy(), atol=1e-5)
    layer.float()


def test_a_held_gate_keeps_erases_or_hides(gates):
    own, _ = gates.replay()
    cells, _ = gates.replay({"f": 1.0, "i": 0.0}, since=4)
    assert (cells[4:] == own[3]).all() and (cells[:4] == own[:4]).all()
    cells, _ = gates.replay({"f": 0.0}, since=4)
    i, g = np.array(gates.gates["i"]), np.array(gates.gates["g"])
    np.testing.assert_array_equal(cells[4:], (i * g)[4:])
    _, hidden = gates.replay({"o": 0.0}, since=2, unit=1)
    assert hidden.shape == (10,) and (hidden[2:] == 0).all() and (hidden[:2] != 0).all()


def test_by_default_the_units_that_move_most_are_shown(layer, inputs):
    figure = LSTMGates.from_layer(layer, inputs, TOKENS)
    every = LSTMGates.from_layer(layer, inputs, TOKENS, units=range(8)).replay()[0]
    moves = np.abs(np.diff(every, axis=0, prepend=0)).sum(0)
    assert figure.names == [str(u) for u in sorted(np.argsort(-moves)[:4])]


def test_gates_that_do_not_fit_are_refused(layer, inputs):
    half = np.full((3, 2), 0.5)
    good = {"f": half, "i": half, "o": half, "g": half}
    cases = [
        ({k: v for k, v in good.items() if k != "g"}, "gates must have f, i, o and g: g missing"),
        ({**good, "z": half}, "unknown entries: \\['z'\\]"),
        ({**good, "i": half[:, :1]}, "gates\\['i'\\] must have shape \\(3, 2\\): got \\(3, 1\\)"),
        ({**good, "o": half + 0.6}, "gates\\['o'\\] must lie in \\[0, 1\\]"),
        ({**good, "g": half * np.nan}, "gates\\['g'\\] has numbers that are not finite"),
        ({**good, "c": half * 9}, "gates\\['c'\\] disagrees with the LSTM's equations at step 0"),
        ({k: v[:2] for k, v in good.items()}, "got \\(2, 2\\) for 3 tokens"),
    ]
    for bad, message in cases:
        with pytest.raises(ValueError, match=message):
            LSTMGates(["a", "b", "c"], bad)
    with pytest.raises(TypeError, match="list\\(text\\)"):
        LSTMGates("abc", good)
    with pytest.raises(ValueError, match="names must name each of 2 units: got 1"):
        LSTMGates(["a", "b", "c"], good, names=["x"])
    with pytest.raises(ValueError, match="step must be a whole number from 0 to 2: got 3"):
        LSTMGates(["a", "b", "c"], good, step=3)
    with pytest.raises(ValueError, match="one step a token"):
        LSTMGates.from_layer(layer, inputs[:4], TOKENS)
    with pytest.raises(ValueError, match="units must be a whole number from 0 to 7: got 8"):
        LSTMGates.from_layer(layer, inputs, TOKENS, units=[8])
    for other, what in (
        (torch.nn.LSTM(6, 8, num_layers=2), "one layer and one direction"),
        (torch.nn.LSTM(6, 8, bidirectional=True), "one layer and one direction"),
        (torch.nn.GRU(6, 8), "four gates"),
        (torch.nn.Linear(6, 8), "an LSTM layer"),
    ):
        with pytest.raises(ValueError, match=what):
            LSTMGates.from_layer(other, inputs, TOKENS)
    figure = LSTMGates(["a", "b", "c"], good)
    with pytest.raises(ValueError, match="held must name gates"):
        figure.replay({"g": 0.5})
    with pytest.raises(ValueError, match="f must be a number from 0 to 1: got 1.5"):
        figure.replay({"f": 1.5})


# --- LSTM gates, in the browser


def trace(page, which):
    return [np.array(page.data(f"circle.{which}", name)) for name in ("c", "h")]


def cell_values(page):
    names = ("f-now", "i-now", "o-now", "g-now", "c-before", "c-now", "h-now")
    return [page.data(f'[data-name="{name}"]', "value")[0] for name in names]


def expected_values(figure, step, unit, held=None, since=0):
    held = held or {}
    now = {
        k: held[k] if k in held and step >= since else figure.gates[k][step][unit] for k in "fiog"
    }
    cells, hidden = figure.replay(held, since, unit)
    before = cells[step - 1] if step else figure.gates["c0"][unit]
    return [now["f"], now["i"], now["o"], now["g"], before, cells[step], hidden[step]]


@in_browser
def test_stepping_by_button_key_slider_and_touch_shows_each_token_s_numbers(open_widget, gates):
    page = open_widget(gates, width=390, touch=True)
    np.testing.assert_allclose(trace(page, "own"), gates.replay(unit=0), rtol=1e-12)
    page.page.click('[data-name="next"]')
    page.page.click('[data-name="next"]')
    page.page.click('[data-name="back"]')
    assert page.state("step") == 1
    page.page.locator(".token").nth(4).tap()
    assert page.state("step") == 4
    page.page.keyboard.press("ArrowRight")
    assert page.state("step") == 5
    assert page.text(".token:focus") == TOKENS[5] == page.text('.token[aria-current="true"]')
    np.testing.assert_allclose(cell_values(page), expected_values(gates, 5, 0), rtol=1e-12)
    page.press("step", "End")
    assert page.state("step") == 9
    assert page.page.locator('[data-name="next"]').is_disabled()
    page.tap("step", 0.0)
    np.testing.assert_allclose(cell_values(page), expected_values(gates, 0, 0), rtol=1e-12)


@in_browser
def test_a_held_gate_replays_the_cell_as_python_does(open_widget, gates):
    page = open_widget(gates)
    page.slide("step", 3)
    page.page.locator('label:has([data-name="unit"])').nth(1).click()
    assert page.state("unit") == 1 and page.data("circle.held", "c") == []
    page.drag("f", 0.0)
    assert page.state("held") == {"f": 0} and page.state("since") == 3
    np.testing.assert_allclose(
        trace(page, "held"), gates.replay({"f": 0.0}, 3, unit=1), rtol=1e-12, atol=1e-15
    )
    np.testing.assert_allclose(trace(page, "own"), gates.replay(unit=1), rtol=1e-12)
    page.slide("step", 6)
    page.press("o", "Home", "ArrowRight")
    held = {"f": 0.0, "o": 0.01}
    assert page.state("held") == held and page.state("since") == 3
    np.testing.assert_allclose(
        cell_values(page), expected_values(gates, 6, 1, held, 3), rtol=1e-12, atol=1e-15
    )
    # drawn where the numbers say: the two traces share one linear axis
    c = np.concatenate([page.data(f"circle.{w}", "c") for w in ("own", "held")])
    y = np.concatenate([page.attributes(f"circle.{w}", "cy") for w in ("own", "held")])[:, 0]
    slope, offset = np.polyfit(c, y, 1)
    assert slope < -10
    np.testing.assert_allclose(y, slope * c + offset, atol=0.02)
    page.slide("step", 1)  # before the gates are held the model's own numbers stand
    np.testing.assert_allclose(cell_values(page), expected_values(gates, 1, 1), rtol=1e-12)
    page.page.click('[data-name="free"]')
    assert page.state("held") == {} and page.data("circle.held", "c") == []


@in_browser
def test_tokens_are_shown_as_text_and_never_as_markup(open_widget):
    half = np.full((3, 1), 0.5)
    tokens = ["<img src=x>", " ", "\n"]
    page = open_widget(LSTMGates(tokens, {k: half for k in "fiog"}))
    page.slide("f", 0.2)
    assert page.page.locator(".token").all_inner_texts() == ["<img␣src=x>", "␣", "⏎"]
    assert page.page.locator(".llm-ia img").count() == 0
    assert "<img␣src=x>" in page.text(".note")


# --- both, for every reader


@in_browser
def test_two_views_on_one_page_share_no_id_and_no_radio_group(open_widget):
    page = open_widget(VanishingGradient(mode="matrix"))
    page.page.evaluate("void draw()")
    page.page.locator("svg").nth(1).wait_for()
    assert page.page.locator(".llm-ia").count() == 2
    ids = page.page.eval_on_selector_all("[id]", "els => els.map(e => e.id)")
    assert len(ids) == len(set(ids)) >= 3
    groups = page.page.eval_on_selector_all("[type=radio]", "els => els.map(e => e.name)")
    assert len(set(groups)) == 4
    page.page.locator('label:has([value="linear"])').first.click()
    assert page.page.locator('[value="linear"]:checked').count() == 2
    one, two = np.split(np.array(drawn(page)), 2)
    np.testing.assert_array_equal(one, two)
