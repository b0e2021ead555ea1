"""The form in which chapters can be finished, held for each notebook that declares it."""

import ast
from pathlib import Path

import pytest
from helpers import builds as comparisons
from helpers import short_form as form
from helpers.browser import SETTLED, browser  # noqa: F401 - browser is a fixture
from helpers.built_book import book  # noqa: F401 - a fixture
from helpers.plain_markdown import links
from helpers.speed import slowness

from llmbook.book.check import KINDS, exercises
from llmbook.book.execute import executed_path
from llmbook.book.notebook import FOLDS, folded, papers
from llmbook.book.records import ledger_chapters, papers_of
from llmbook.book.root import chapters, find_root, read_notebook
from llmbook.figures import interactive_figures

ROOT = find_root(Path(__file__).parent)
CHAPTERS = chapters(ROOT)
WIDTH = 84  # characters of a printed line that a wide page shows
SHORT = [path for path in CHAPTERS if form.builds(path) is not None]
every = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
short = pytest.mark.parametrize("path", SHORT, ids=lambda p: p.stem)


# --- what is closed until a click


@every
def test_page_lab_and_colab_close_the_same_cells(path):
    for cell in read_notebook(path)["cells"]:
        meta, tags = cell["metadata"], cell["metadata"].get("tags", [])
        source, output = bool(set(tags) & set(FOLDS)), "answer" in tags
        closed = "hide-input" in tags or "remove-input" in tags
        assert (closed, "hide-output" in tags) == (source, output), cell["id"]
        assert meta.get("jupyter", {}).get("source_hidden", False) is source, cell["id"]
        assert meta.get("jupyter", {}).get("outputs_hidden", False) is output, cell["id"]
        assert meta.get("cellView", "") == ("form" if source else ""), cell["id"]


def test_a_tag_is_written_for_three_readers_and_taking_it_away_opens_the_cell():
    tags = folded(["experiment", "answer"])["tags"]
    assert tags == ["experiment", "answer", "hide-input", "hide-output"]
    assert folded(tags) == folded(["experiment", "answer"])
    assert folded(["experiment"])["mystnb"]["code_prompt_show"] == "Show the experiment"
    assert folded([tag for tag in tags if tag not in ("experiment", "answer")]) == {}
    assert folded(["aside"])["tags"] == ["aside", "remove-input"]
    assert folded(["parameters"]) == {"tags": ["parameters"]}


def test_the_papers_that_boxes_link_are_the_bibliography_s():
    found = papers(ROOT)
    assert set(found) == set(ledger_chapters())
    for chapter, named in found.items():
        assert {k: tuple(v) for k, v in named.items()} == papers_of(chapter), (
            "run: python -m llmbook tidy"
        )


# --- short enough to finish


@short
def test_it_is_short(path):
    assert form.words(path) <= form.WORDS
    assert form.visible_lines(path) <= form.LINES
    claims = [c for _, source in form.code_cells(path) for c in form.calls(source, "claim")]
    assert sum(map(form.boxed, claims)) <= form.BOXES


@every
def test_no_printed_line_is_wider_than_the_page(path):
    wide = [
        line
        for cell in read_notebook(path)["cells"]
        for output in cell.get("outputs", [])
        for line in "".join(output.get("text", "")).splitlines()
        if len(line) > WIDTH
    ]
    assert not wide


@short
def test_a_claim_s_code_is_closed_and_the_table_of_the_others_comes_after_the_last(path):
    cells = form.code_cells(path)
    for tags, source in cells:
        if form.calls(source, "claim"):
            assert set(tags) & set(FOLDS), source
    unboxed = [
        n
        for n, (_, source) in enumerate(cells)
        for call in form.calls(source, "claim")
        if not form.boxed(call)
    ]
    tables = [n for n, (_, source) in enumerate(cells) if "run.checked()" in source]
    assert len(tables) == bool(unboxed)
    assert not unboxed or tables[0] >= max(
        n for n, (_, source) in enumerate(cells) if form.calls(source, "claim")
    )


def typed_in(source):
    """Of each claim in a cell, what it says to have measured and gives as a bare number."""
    return [
        ast.unparse(name)
        for call in form.calls(source, "claim")
        for table in ast.walk(call)
        if isinstance(table, ast.Dict)
        for name, value in zip(table.keys, table.values, strict=True)
        if isinstance(value, ast.Constant) and not isinstance(value.value, str)
    ]


@every
def test_what_a_claim_measures_is_no_number_typed_in(path):
    assert [name for _, source in form.code_cells(path) for name in typed_in(source)] == []


def test_a_number_typed_in_is_found():
    assert typed_in("claim('a', {'x': 0.7, 'y': y, **{f'{k}': 2 for k in z}}, holds=1)") == ["'x'"]
    assert typed_in("claim('a', measured={'x': len(y)}, bounds={'x': '>= 2'})") == []


@short
def test_the_reader_predicts_and_every_picture_has_a_caption(path):
    sources = [source for _, source in form.code_cells(path)]
    assert sum(len(form.calls(source, "predict")) for source in sources) >= 2
    for source in sources:
        for call in form.calls(source, "show"):
            assert "caption" in [k.arg for k in call.keywords], ast.unparse(call)[:80]


@short
def test_exercises_are_of_every_kind(path):
    assert {item.kind for item in exercises(path.stem)} == set(KINDS)


@short
def test_what_it_builds_stands_in_visible_cells_and_equals_the_library(path):
    definitions, namespace = (ast.FunctionDef, ast.ClassDef), {}
    shown = [node for source in form.visible(path) for node in ast.parse(source).body]
    missing = set(form.builds(path)) - {n.name for n in shown if isinstance(n, definitions)}
    assert form.builds(path) and not missing
    for _, source in form.code_cells(path):  # with what they need, helpers in closed cells too
        for node in ast.parse(source).body:
            if isinstance(node, (ast.Import, ast.ImportFrom, *definitions)):
                exec(compile(ast.Module([node], []), path.name, "exec"), namespace)
    for name in form.builds(path):
        comparisons.COMPARISONS[f"{path.stem}/{name}"](namespace[name])


def test_no_two_notebooks_build_the_same():
    built = [name for path in SHORT for name in form.builds(path)]
    assert [name for name in built if built.count(name) > 1] == []


@short
def test_buttons_in_the_text_set_what_the_figure_has(path):
    known = interactive_figures()
    code = "\n".join(source for _, source in form.code_cells(path))
    buttons = [href for href, _ in links(path) if href.startswith("#figure:")]
    assert buttons
    for href in buttons:
        name, _, query = href.removeprefix("#figure:").partition("?")
        assert known[name].__name__ in code, f"{href}: no such figure in this notebook"
        traits = known[name].class_traits(sync=True)
        assert {part.partition("=")[0] for part in query.split("&")} <= set(traits), href


@short
def test_links_to_claims_name_claims_of_this_notebook(path):
    code = "\n".join(source for _, source in form.code_cells(path))
    for href, _ in links(path):
        if href.startswith("#claim-"):
            assert f'"{href.removeprefix("#claim-")}"' in code, href


@short
def test_it_runs_within_its_time(path, book):
    told = read_notebook(executed_path(path))["metadata"]["llmbook"]
    assert told["cpu_seconds"] <= form.SECONDS * slowness()


# --- on the page

DRAWN = """() => {
  const asked = document.querySelectorAll('script[type$="jupyter.widget-view+json"]');
  const there = [...document.querySelectorAll('.llm-ia')];
  return there.length >= asked.length && there.every(e => e.clientHeight > 20);
}"""
MEASURES = """() => {
  const top = document.querySelector('.bd-article').getBoundingClientRect();
  const places = (what) => [...document.querySelectorAll(what)]
    .filter(e => e.clientHeight > 20).map(e => e.getBoundingClientRect())
    .map(box => [box.top - top.top, box.bottom - top.top]).sort((a, b) => a[0] - b[0]);
  const exercises = [...document.querySelectorAll('.bd-article h2')]
    .find(e => e.textContent.includes('Exercises'));
  const end = exercises.getBoundingClientRect().top - top.top;
  const without = (what) => {  // the longest stretch, as far as the exercises
    let [longest, last] = [0, 0];
    for (const [from, to] of [...places(what).filter(([from]) => from < end), [end, end]]) {
      longest = Math.max(longest, from - last);
      last = Math.max(last, to);
    }
    return longest;
  };
  const pictures = '.llm-ia, .llm-figure';
  return {
    height: top.height, first: places(pictures)[0][0],
    without_picture: without(pictures), bare: without(`${pictures}, table, div.math`),
  };
}"""


@pytest.mark.browser
@short
def test_the_page_is_short_begins_with_a_figure_and_goes_on_with_pictures(path, book, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto((book / f"chapters/{path.stem}.html").resolve().as_uri())
    page.wait_for_load_state("load")
    page.wait_for_function(DRAWN)
    page.evaluate(SETTLED)  # formulas are taller once they are set
    found = page.evaluate(MEASURES)
    page.close()
    assert found["height"] <= form.SCREENS * 900
    assert found["first"] < 900
    assert found["without_picture"] <= form.WITHOUT_PICTURE * 900
    assert found["bare"] <= form.BARE * 900


@pytest.mark.browser
@short
def test_buttons_and_reveals_answer_on_the_page(path, book, browser):
    page, wrong = browser.new_page(viewport={"width": 1400, "height": 900}), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((book / f"chapters/{path.stem}.html").resolve().as_uri())
    page.wait_for_load_state("load")
    page.locator(".llm-ia svg").first.wait_for()
    for button in page.locator("a.figure-button").all():
        name, _, query = button.get_attribute("href").removeprefix("#figure:").partition("?")
        button.click()
        figure = page.locator(f'[data-figure="{name}"]')
        assert figure.get_attribute("data-set") == query
    for box in page.locator(".predict").all():
        box.locator("input").last.check()
        box.locator("summary").click()
        box.locator(".predict-said:not(:empty)").wait_for()  # told a moment later
    closed = page.locator(".tag_answer details:has(.output):not([open])")
    assert closed.count() == 0 and not wrong
    page.close()
