"""Every interactive figure: named, read aloud, legible, drawn without a fault on the page."""

import json
from urllib.parse import urlencode

import pytest
from helpers.browser import browser, open_widget  # noqa: F401 - fixtures
from helpers.figures import FIGURES

from llmbook.figures import interactive_figures

pytestmark = pytest.mark.browser
each = pytest.mark.parametrize("name", FIGURES)


def drawn(page, state):
    """Put the figure into a state, and wait until it is drawn."""
    for trait, value in state.items():
        page.set(trait, value)
    page.resize(page.page.viewport_size["width"])


def test_the_list_holds_every_figure():
    assert set(FIGURES) == set(interactive_figures())
    for name, kind in interactive_figures().items():
        assert isinstance(FIGURES[name][0](), kind)


@each
def test_on_the_book_s_page_nothing_overlaps_or_overflows_and_tables_line_up(open_widget, name):
    make, states = FIGURES[name]
    page = open_widget(make(), book=True)
    faults = {}
    for theme in ("light", "dark"):
        page.skin(theme)
        for width in (390, 1400):
            page.resize(width)
            for state in states:
                drawn(page, state)
                found = page.faults()
                if page.overflow() > 0.5:
                    found.append(f"wide by {page.overflow()}")
                if found:
                    faults[theme, width, str(state)] = found
    assert faults == {}


def test_a_table_that_the_theme_lays_out_in_one_column_is_found(open_widget):
    page = open_widget(FIGURES["tiles"][0](), width=1400, book=True)
    drawn(page, {"step": 7})
    assert page.faults() == []
    page.page.evaluate(
        "document.querySelectorAll('.llm-ia tbody tr').forEach(e => e.classList.add('row'))"
    )
    assert any(fault.startswith("row in several lines") for fault in page.faults())
    page.page.evaluate(
        "document.querySelectorAll('.llm-ia .title').forEach(e => e.style.marginBottom = '-2rem')"
    )
    assert any(fault.startswith("on each other") for fault in page.faults())


@each
def test_it_fits_every_width_and_is_legible_in_every_theme(open_widget, name):
    make, states = FIGURES[name]
    page = open_widget(make())
    for width, smallest in ((320, 9.5), (390, 11.5), (768, 11.9), (1400, 11.9)):
        for state in states:
            drawn(page, state)
            page.resize(width)
            assert page.overflow() <= 0.5, (width, state)
            assert page.smallest_text() >= smallest, (width, state)
    for theme, scheme, dark in (
        ("light", "dark", False),
        ("dark", "light", True),
        ("lab-light", "dark", False),
        ("lab-dark", "light", True),
        ("colab-dark", "light", True),
        ("none", "light", False),
        ("none", "dark", True),
    ):
        page.skin(theme, scheme)
        drawn(page, states[0])
        drawn(page, states[-1])  # what is drawn in shades is drawn anew
        paper = page.root.evaluate("e => getComputedStyle(e).backgroundColor")
        assert paper == ("rgb(27, 32, 40)" if dark else "rgb(255, 255, 255)"), theme
        ratio, text = min(page.contrasts())
        assert ratio >= 4.5, (theme, text)


@each
def test_it_is_named_says_its_numbers_once_the_reader_pauses_and_cleans_up(open_widget, name):
    figure = FIGURES[name][0]()
    page = open_widget(figure)
    assert page.root.get_attribute("role") == "group"
    assert page.root.get_attribute("aria-label") == figure.alt and len(figure.alt) > 60
    spoken = page.page.locator(".spoken")
    assert spoken.inner_text() == ""  # nothing is read out before the reader does something
    live = (
        "[...document.querySelectorAll('.llm-ia [aria-live]')].map(e => e.textContent).join(' ')"
    )
    before, shown = page.page.evaluate(live), page.text(".readout")
    for control in page.page.locator(".llm-ia :is(input[type=range], button):visible").all():
        for key in ("ArrowRight", "ArrowLeft", "Enter"):
            changed = page.text(".readout") != shown or page.page.evaluate(live) != before
            if not changed and control.is_enabled():
                control.press(key)
    page.page.wait_for_function(f"before => {live} !== before", arg=before)
    if page.text(".readout") != shown:
        page.page.wait_for_function(
            "document.querySelector('.spoken').textContent"
            " === document.querySelector('.readout').textContent"
        )
    unnamed = page.page.eval_on_selector_all(
        ".llm-ia :is(input, button, textarea, select)",
        "els => els.filter(e => !(e.ariaLabel ?? e.labels?.[0]?.textContent ?? e.textContent)"
        ".trim()).length",
    )
    assert unnamed == 0
    page.page.evaluate("cleanup()")
    assert page.page.evaluate("model.listening()") == 0


@each
def test_a_button_in_the_text_sets_it(open_widget, name):
    page = open_widget(FIGURES[name][0]())
    state = next(s for s in FIGURES[name][1][::-1] if s)
    query = urlencode({trait: json.dumps(value) for trait, value in state.items()})
    page.page.evaluate(
        """([name, query]) => {
          const link = document.createElement('a');
          link.href = `#figure:${name}?${query}`;
          link.id = 'button';
          link.textContent = 'set';
          document.body.prepend(link);
        }""",
        [name, query],
    )
    page.page.locator("#button").click()
    for trait, value in state.items():
        assert page.state(trait) == value
    assert "#figure" not in page.page.url
