"""Who reads whom: masks in Python, and as the browser draws them."""

import json

import numpy as np
import pytest
import torch
from helpers.browser import browser, open_widget, widget_state  # noqa: F401 - fixtures

from llmbook.attention import attention_weights
from llmbook.figures.families import FAMILIES, FamilyMasks, cone, family_mask, inputs_of

in_browser = pytest.mark.browser


@pytest.fixture
def figure():
    return FamilyMasks("the cat <b> on a".split(), ["x", "y", "z"], ["⟨s⟩", "u", "v"], layers=3)


def test_the_masks_are_all_ones_lower_triangular_and_ones_triangle_and_full_cross():
    assert family_mask("encoder", 4).all()
    np.testing.assert_array_equal(family_mask("decoder", 5), np.tril(np.ones((5, 5))))
    both = family_mask("encoder–decoder", 3, 2)
    assert both.astype(int).tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_the_decoder_s_mask_is_what_causal_attention_does():
    q = torch.randn(1, 1, 6, 4)
    weights = attention_weights(q, q, causal=True)[0, 0]
    np.testing.assert_array_equal(weights.numpy() > 0, family_mask("decoder", 6))


def test_what_a_token_draws_on_grows_downwards_as_the_mask_allows():
    assert cone(family_mask("decoder", 5), 2, 3) == [[0, 1, 2]] * 3
    assert cone(family_mask("encoder–decoder", 2, 2), 2, 2) == [[0, 1, 2], [0, 1, 2]]
    chain = np.eye(4, dtype=bool) | np.eye(4, k=-1, dtype=bool)
    assert cone(chain, 3, 3) == [[2, 3], [1, 2, 3], [0, 1, 2, 3]]


def test_what_does_not_fit_is_refused(figure):
    with pytest.raises(TypeError, match=r"tokens must be a list.*text.split\(\)"):
        FamilyMasks("a b", ["a"], ["b"])
    with pytest.raises(ValueError, match="target must have at least one token"):
        FamilyMasks(["a"], ["a"], [])
    with pytest.raises(ValueError, match="at most 10 tokens can be shown: got 11"):
        FamilyMasks(["a"], ["a"] * 6, ["b"] * 5)
    for name, value in (("token", 5), ("place", 6), ("layer", 0), ("layers", 5)):
        with pytest.raises(ValueError, match=f"{name} must be a whole number from"):
            FamilyMasks(list("abcde"), ["a"] * 3, ["b"] * 3, **{name: value})
    with pytest.raises(ValueError, match="family must be one of encoder, decoder"):
        family_mask("both", 3)
    assert len(json.dumps(widget_state(figure))) < 2_000


def cells(page, kind, n):
    drawn = page.data(f'.panel[data-kind="{kind}"] .cell', "on")
    return np.array(drawn, dtype=bool).reshape(n, n)


@in_browser
def test_every_token_s_lines_and_every_mask_are_python_s(open_widget, figure):
    page = open_widget(figure)
    for kind, name in zip(FAMILIES, ("token", "token", "place"), strict=True):
        mask = figure.mask(kind)
        np.testing.assert_array_equal(cells(page, kind, len(mask)), mask)
        for i in range(len(mask)):
            page.page.locator(f'svg[data-kind="{kind}"] .column[data-j="{i}"]').click()
            assert page.state(name) == i
            lines = page.data(f'svg[data-kind="{kind}"] .edge', "from", "level")
            assert [int(j) for j, _ in lines] == np.flatnonzero(mask[i]).tolist()
            cross = kind == FAMILIES[2] and i >= 3
            assert [int(level) for _, level in lines] == [
                3 if cross and j < 3 else 0 for j, _ in lines
            ]
            count = page.data(f'.panel[data-kind="{kind}"]', "count")
            assert count == [mask[i].sum()]
    assert "“v” (target) reads 6 of 6" in page.text(".readout")


@in_browser
def test_mouse_keyboard_slider_and_play_move_it(open_widget, figure):
    page = open_widget(figure)
    page.page.locator('svg[data-kind="decoder"] .column[data-j="0"]').hover()
    assert page.state("token") == 0
    page.page.locator('svg[data-kind="encoder"] .column[data-j="2"]').focus()
    page.page.keyboard.press("Enter")
    assert page.state("token") == 2
    assert page.page.evaluate("document.activeElement.dataset.j") == "2"  # the place is not lost
    assert "“<b>” reads 3 of 5" in page.text(".readout")  # a token is text, never markup
    page.slide("layer", 3)
    assert page.state("layer") == 3
    assert set(page.data('svg[data-kind="encoder"] .edge', "level")) == {2}
    page.control("play").click()
    assert page.state("layer") == 1 and "Stop" in page.control("play").inner_text()
    page.page.wait_for_function("model.get('layer') === 3", timeout=5000)
    page.page.wait_for_function(
        "document.querySelector('[data-name=play]').textContent.includes('Play')", timeout=3000
    )


def test_a_text_makes_three_inputs_of_at_most_ten_tokens():
    found = inputs_of("the cat sat on the mat")
    assert found["source"] == ["the", "cat", "⟨1⟩", "the", "mat"]
    assert found["target"] == ["⟨s⟩", "⟨1⟩", "sat", "on"]
    for n in range(1, 12):
        found = inputs_of(" ".join("abcdefghijkl"[:n]))
        assert len(found["tokens"]) == min(n, 7)
        assert len(found["source"]) + len(found["target"]) <= 10
        FamilyMasks.of_text(" ".join("abcdefghijkl"[:n]))
    with pytest.raises(ValueError, match="at least one word"):
        inputs_of("  ")


@in_browser
def test_the_readers_own_sentence_becomes_three_inputs_as_in_python(open_widget):
    page = open_widget(FamilyMasks.of_text("the cat sat on the mat"))
    for text in ("my own dog", "one two three four five six seven eight", "alone"):
        page.page.fill('[data-name="text"]', text)
        for name, want in inputs_of(text).items():
            assert page.state(name) == want
        n = len(inputs_of(text)["tokens"])
        np.testing.assert_array_equal(cells(page, "decoder", n), family_mask("decoder", n))
    page.page.fill('[data-name="text"]', " ")  # nothing to show: the last text stays
    assert page.state("tokens") == ["alone"]


@in_browser
def test_arrow_keys_move_along_the_tokens(open_widget, figure):
    page = open_widget(figure)
    page.page.locator('svg[data-kind="decoder"] .column[tabindex="0"]').focus()
    before = page.state("token")
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("ArrowRight")
    assert page.state("token") == before + 2
    page.page.keyboard.press("ArrowRight")  # the last one: it stays
    assert page.state("token") == 4 and page.page.locator('.column[tabindex="0"]').count() == 3


@in_browser
def test_a_column_answers_to_touch(open_widget, figure):
    page = open_widget(figure, width=390, touch=True)
    page.page.locator('svg[data-kind="decoder"] .column[data-j="3"]').tap()
    assert page.state("token") == 3


@in_browser
def test_it_is_named_read_aloud_and_stops_listening_when_removed(open_widget, figure):
    page = open_widget(figure)
    assert page.root.get_attribute("aria-label") == figure.alt
    labels = page.page.eval_on_selector_all(
        ".column", "els => els.map(e => e.getAttribute('aria-label'))"
    )
    assert len(labels) == 16 and labels[5] == "decoder: the, token 1"
    page.slide("layer", 2)
    page.page.wait_for_function("document.querySelector('[aria-live]').textContent !== ''")
    assert page.page.locator('[aria-live="polite"]').inner_text() == page.text(".readout")
    page.control("play").click()
    page.page.evaluate("cleanup()")
    page.page.wait_for_timeout(1100)
    assert page.page.evaluate("model.listening()") == 0 and page.state("layer") == 1
