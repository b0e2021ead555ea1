"""Interactive figures on attention: what is drawn in the browser equals what Python computes."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.browser import browser, open_widget, widget_state  # noqa: F401 - fixtures

from llmbook.figures.paths import PathLength
from llmbook.figures.scores import AttentionScores
from llmbook.figures.tiles import TiledSoftmax

in_browser = pytest.mark.browser
NAMES = ("Q", "K", "V", "scores", "scaled", "masked", "weights", "output")


# --- the calculator, in Python


def test_the_example_gives_the_values_worked_by_hand():
    all_of = AttentionScores().compute()
    np.testing.assert_allclose(all_of["scores"][0], [1.02, -0.05, -0.27, 0.62], atol=1e-12)
    np.testing.assert_allclose(
        all_of["weights"],
        [
            [0.3414, 0.2000, 0.1791, 0.2795],
            [0.1993, 0.3403, 0.2611, 0.1993],
            [0.1913, 0.2797, 0.3186, 0.2104],
            [0.2907, 0.2079, 0.2048, 0.2966],
        ],
        atol=6e-5,
    )
    np.testing.assert_allclose(
        all_of["output"],
        [
            [0.2868, 0.2740, 0.1588, 0.3908],
            [0.1488, 0.4045, 0.2989, 0.2171],
            [0.1224, 0.3646, 0.3196, 0.2341],
            [0.2621, 0.2771, 0.1987, 0.3597],
        ],
        atol=6e-5,
    )
    unscaled = AttentionScores(scaled=False).compute()["weights"][0]
    np.testing.assert_allclose(unscaled, [0.4369, 0.1499, 0.1203, 0.2929], atol=6e-5)


@pytest.mark.parametrize("d_k", [1, 2, 3, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_the_calculator_agrees_with_torch(d_k, causal):
    rng = np.random.default_rng(d_k)
    given = {name: rng.normal(size=(4, 4)).round(3) for name in ("Q", "K", "V")}
    got = AttentionScores(given, mode="qkv", d_k=d_k, causal=causal).compute()
    q, k, v = (torch.tensor(given[name])[None] for name in "QKV")
    want = F.scaled_dot_product_attention(q[..., :d_k], k[..., :d_k], v, is_causal=causal)[0]
    np.testing.assert_allclose(got["output"], want, atol=1e-12)
    assert got["Q"].shape == got["K"].shape == (4, d_k)
    assert (np.isneginf(got["masked"]) == (np.triu(np.ones((4, 4)), 1) == 1) * causal).all()


def test_projections_enter_in_mode_x():
    swap = np.eye(4)[[1, 2, 3, 0]]
    plain, turned = (
        AttentionScores().compute(),
        AttentionScores({"WQ": swap, "WV": 2 * np.eye(4)}).compute(),
    )
    np.testing.assert_allclose(turned["Q"], plain["Q"][:, [3, 0, 1, 2]])
    np.testing.assert_allclose(turned["output"], 2 * turned["weights"] @ plain["V"])
    assert not np.allclose(turned["scores"], turned["scores"].T)


def test_bad_matrices_and_settings_are_refused():
    for bad, message in (
        ({"W": np.eye(4)}, "matrices' names must be one of X, WQ"),
        ({"X": np.eye(3)}, "shape \\(4, 4\\): got \\(3, 3\\)"),
        ({"K": 100 * np.eye(4)}, "-99 to 99"),
        ({"V": np.nan * np.eye(4)}, "-99 to 99"),
    ):
        with pytest.raises(ValueError, match=message):
            AttentionScores(bad)
    for kwargs, message in (
        ({"mode": "y"}, "mode must be"),
        ({"d_k": 5}, "d_k must be a whole number from 1 to 4: got 5"),
        ({"step": 0}, "step must be"),
        ({"query": 4}, "query must be a whole number from 0 to 3"),
        ({"tokens": ["a"]}, "tokens must be 4 names: got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            AttentionScores(**kwargs)


# --- the calculator, in the browser


def drawn(page, name):
    return np.array(
        [
            float(v.replace("Infinity", "inf"))
            for v in page.page.eval_on_selector_all(
                f'[data-matrix="{name}"] text[data-value]', "els => els.map(e => e.dataset.value)"
            )
        ]
    )


def assert_equal(page, figure):
    for name, matrix in figure.compute().items():
        np.testing.assert_allclose(
            drawn(page, name), matrix.ravel(), rtol=1e-9, atol=1e-12, err_msg=name
        )


@in_browser
def test_next_shows_one_matrix_more_and_each_equals_python_s(open_widget):
    figure = AttentionScores()
    page = open_widget(figure)
    for step in range(1, 7):
        shown = page.page.eval_on_selector_all(".matrix", "els => els.map(e => e.dataset.matrix)")
        assert shown == list(NAMES[: step + 2])
        if step < 6:
            page.page.click('[data-name="next"]')
    assert page.page.locator('[data-name="next"]').is_disabled()
    assert_equal(page, figure)


@in_browser
def test_every_control_changes_what_it_says(open_widget):
    page = open_widget(AttentionScores(step=6))
    page.control("cell-0-3").fill("-1.5")
    page.page.locator('label:has([data-name="edited"][value="WQ"])').click()
    page.control("cell-0-1").fill("0.7")
    x, wq = np.array(AttentionScores().matrices["X"]), np.eye(4)
    x[0, 3], wq[0, 1] = -1.5, 0.7
    page.slide("d_k", 3)
    page.page.locator('label:has([data-name="scaled"])').nth(1).click()
    page.page.locator('label:has([data-name="causal"])').nth(0).click()
    figure = AttentionScores({"X": x, "WQ": wq}, d_k=3, scaled=False, causal=True)
    assert_equal(page, figure)
    page.pick("mode", "qkv")  # Q, K and V are taken over as they were
    assert_equal(page, figure)
    page.control("cell-1-1").fill("4")
    q = x @ wq
    q[1, 1] = 4
    assert_equal(
        page,
        AttentionScores({"Q": q, "K": x, "V": x}, mode="qkv", d_k=3, scaled=False, causal=True),
    )


@in_browser
def test_half_typed_and_too_large_numbers_wait(open_widget):
    page = open_widget(AttentionScores(step=6))
    for text in ("", "-", "1000"):
        page.control("cell-0-0").press_sequentially(text) if text == "-" else page.control(
            "cell-0-0"
        ).fill(text)
        assert_equal(page, AttentionScores())


@in_browser
def test_the_arithmetic_of_a_chosen_entry_is_written_out(open_widget):
    page = open_widget(AttentionScores(step=6))
    page.page.locator('[data-matrix="scores"] rect[style*="pointer"]').nth(3).click()
    assert (page.state("query"), page.state("key")) == (0, 3)
    text = page.text(".readout")
    assert "0.50·0.60 + 0.20·−0.10 − 0.30·0.20 + 0.80·0.50 = 0.620" in text
    assert "Divided by √4: 0.310" in text and "0.280" in text and "= 0.287" in text


# --- path length


def test_search_and_formula_agree_for_every_length_and_pair():
    for n in (2, 3, 7, 20):
        for causal in (False, True):
            rnn, net = PathLength.graph("rnn", n), PathLength.graph("attention", n, causal)
            for i in range(1, n + 1):
                for j in range(1, n + 1):
                    said = PathLength(n, i, j, causal).present()
                    assert said["rnn steps"] == PathLength.distance(rnn, i, j)
                    assert said["attention steps"] == PathLength.distance(
                        net, ("in", i), ("out", j)
                    )
            assert said["rnn connections"] == sum(map(len, rnn.values()))
            assert said["attention connections"] == sum(map(len, net.values()))


def test_bad_lengths_and_positions_are_refused():
    for kwargs, message in (
        ({"n": 65}, "n must be a whole number from 2 to 64"),
        ({"n": 5, "source": 6}, "source must be a whole number from 1 to 5"),
        ({"n": 5, "target": 0}, "target must be a whole number from 1 to 5"),
    ):
        with pytest.raises(ValueError, match=message):
            PathLength(**kwargs)
    with pytest.raises(ValueError, match="kind must be"):
        PathLength.graph("cnn", 4)


def table(page):
    return {
        name: page.data(f'[data-name="{name}"]', "value")[0]
        for name in (
            "steps-rnn",
            "steps-attention",
            "edges-rnn",
            "edges-attention",
            "depth-rnn",
            "depth-attention",
        )
    }


@in_browser
def test_sliders_and_mask_change_the_counts_and_the_drawing(open_widget):
    page = open_widget(PathLength())
    assert table(page) == {
        "steps-rnn": 19,
        "steps-attention": 1,
        "edges-rnn": 19,
        "edges-attention": 400,
        "depth-rnn": 19,
        "depth-attention": 1,
    }
    page.page.locator('label:has([data-name="causal"])').nth(1).click()
    assert table(page)["edges-attention"] == 210 == page.data(".all", "count")[0]
    page.slide("n", 7)
    assert page.state("target") == 7 and table(page)["steps-rnn"] == 6
    page.slide("source", 5)
    page.slide("target", 2)
    now = table(page)
    assert (
        now["steps-rnn"] == now["steps-attention"] == -1
        and page.page.locator(".attention-path").count() == 0
    )
    assert "no way" in page.text(".readout")
    page.slide("n", 3)
    assert (page.state("source"), page.state("target")) == (3, 2)
    page.page.locator('label:has([data-name="causal"])').nth(0).click()
    assert (
        table(page)["steps-attention"] == 1 and page.page.locator(".attention-path").count() == 1
    )


# --- tiles


@pytest.mark.parametrize("block", [1, 2, 4, 8])
@pytest.mark.parametrize("causal", [False, True])
def test_the_tiles_give_attention_exactly(block, causal):
    figure = TiledSoftmax(block=block, causal=causal)
    np.testing.assert_allclose(figure.output(), figure.expected(), atol=1e-14)
    blocks = 8 // block
    assert len(figure.walk()) == (blocks * (blocks + 1) // 2 if causal else blocks**2)


def test_large_scores_do_not_overflow_and_every_prefix_is_exact():
    scores, values = np.full((4, 4), 900.0) * [[1, -1, 0.5, 1]], np.arange(8.0).reshape(4, 2)
    figure = TiledSoftmax(scores, values, block=1)
    np.testing.assert_allclose(figure.output(), figure.expected(), atol=1e-12)
    for one in TiledSoftmax(block=2).walk():
        s, v = np.array(TiledSoftmax().scores), np.array(TiledSoftmax().values)
        p = np.exp(s[one.query : one.query + 2, : one.key + 2])
        np.testing.assert_allclose(
            one.acc / one.l[:, None], p / p.sum(1, keepdims=True) @ v[: one.key + 2], atol=1e-12
        )


def test_unfit_tiles_are_refused():
    for kwargs, message in (
        ({"block": 3}, "block must be one of"),
        ({"scores": np.eye(6), "block": 4}, "divide 6: got 4"),
        ({"scores": np.ones((3, 4))}, "scores must be \\(n, n\\)"),
        ({"step": 99}, "step must be a whole number from 0 to 16"),
        ({"values": np.ones((5, 2))}, "values must be \\(8, 1 to 3\\)"),
        ({"scores": np.full((4, 4), np.inf)}, "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            TiledSoftmax(**kwargs)


@in_browser
@pytest.mark.parametrize(("block", "causal"), [(1, True), (2, False), (4, True), (8, False)])
def test_the_walk_in_the_browser_equals_python_s(open_widget, block, causal):
    figure = TiledSoftmax(block=block, causal=causal)
    page = open_widget(figure)
    walk = figure.walk()
    assert page.data(".readout", "tiles") == [len(walk)] and page.data(".note", "held") == [
        block**2
    ]
    for count in sorted({1, min(2, len(walk)), max(1, len(walk) // 2), len(walk)}):
        page.slide("step", count)
        one = walk[count - 1]
        got = np.array(page.data(".state .query", "m", "fade", "l", "o", "out"))
        want = np.stack([one.m, one.fade, one.l, one.acc[:, 0], one.acc[:, 0] / one.l], 1)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
        states = page.page.eval_on_selector_all(
            ".map rect[data-state]", "els => els.map(e => e.dataset.state)"
        )
        now = np.array(states).reshape(8, 8) == "now"
        allowed = np.tril(np.ones((8, 8), bool)) if causal else np.ones((8, 8), bool)
        tile = np.zeros((8, 8), bool)
        tile[one.query : one.query + block, one.key : one.key + block] = True
        assert (now == (tile & allowed)).all()


@in_browser
def test_stepping_by_buttons_stops_at_both_ends_and_a_new_size_starts_again(open_widget):
    page = open_widget(TiledSoftmax(block=4))
    assert page.page.locator('[data-name="back"]').is_disabled()
    for _ in range(4):
        page.page.click('[data-name="next"]')
    assert page.state("step") == 4 and page.page.locator('[data-name="next"]').is_disabled()
    assert "Row finished" in page.text(".readout")
    page.pick("block", "8")
    assert page.state("step") == 0 and page.state("block") == 8


# --- all three, for every reader

FIGURES = [
    lambda: AttentionScores(step=6, causal=True),
    lambda: PathLength(n=64),
    lambda: TiledSoftmax(step=7),
]
IDS = ["scores", "paths", "tiles"]


@pytest.mark.parametrize("make", FIGURES, ids=IDS)
def test_the_state_is_small_plain_json_and_the_alt_stands_for_the_figure(make):
    figure = make()
    assert len(json.dumps(widget_state(figure), allow_nan=False)) < 6000
    assert repr(figure).startswith("[interactive: ") and len(figure.alt) > 60
    assert len(str(figure._esm)) < 22_000
