"""The built book: complete with no network, in light and dark, on a desktop and a phone."""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import nbformat.v4 as v4
import pytest
from helpers.browser import SETTLED, browser  # noqa: F401 - browser is a fixture
from helpers.built_book import ROOT, book, build, served  # noqa: F401 - book is a fixture
from helpers.plain_markdown import boxes, codes, links, passages, squeezed

from llmbook.book import report
from llmbook.book.execute import executed_path
from llmbook.book.root import chapters
from llmbook.book.sphinx_markdown import KEY
from llmbook.figures import interactive_figures

WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
LIMIT = 1_000_000  # bytes of a chapter's page, without the files that pages share


class Page(HTMLParser):
    """What the tests ask of a page's markup: ids, links, pictures and what describes them."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.undescribed, self._inside = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        alt = (given.get("alt") or given.get("aria-label") or "").strip()
        if tag == "img" and not alt:
            self.undescribed.append(f"img {given.get('src', '')[:60]}")
        if tag == "figure":
            self._inside.append(bool(alt))
        elif self._inside and alt and (tag == "img" or given.get("role") == "img"):
            self._inside[-1] = True
        if (
            tag == "svg"
            and not alt
            and given.get("aria-hidden") != "true"
            and not any(self._inside)
        ):
            self.undescribed.append(f"svg {given}")

    def handle_endtag(self, tag):
        if tag == "figure" and not self._inside.pop():
            self.undescribed.append(f"figure near line {self.getpos()[0]}")


def written(book):
    """The pages that the book's table of contents names; none that only leads to another."""
    pages = sorted((book / "chapters").glob("*.html"))
    return [page for page in pages if 'http-equiv="refresh"' not in page.read_text("utf-8")]


# --- what the markup says


def test_every_picture_has_a_text_alternative(book):
    lacking = {page.name: missing for page in written(book) if (missing := Page(page).undescribed)}
    assert not lacking


def test_every_link_inside_the_book_arrives(book):
    """Those that set a figure name one that there is; the page itself is tried with a mouse."""
    figures = interactive_figures()
    pages = {path: Page(path) for path in book.rglob("*.html") if "_static" not in path.parts}
    dead = []
    for path, page in pages.items():
        for href in page.links:
            target = urlsplit(href)
            if target.scheme or target.netloc or href in ("#", ""):
                continue
            if target.fragment.startswith("figure:"):
                if target.fragment.removeprefix("figure:").split("?")[0] not in figures:
                    dead.append(f"{path.name} -> {href}")
                continue
            goal = (path.parent / unquote(target.path)).resolve() if target.path else path
            known = pages.get(goal)
            if not goal.exists() or (
                target.fragment and known and unquote(target.fragment) not in known.ids
            ):
                dead.append(f"{path.name} -> {href}")
    assert not dead


def test_a_link_to_another_chapter_s_claim_leads_to_its_box(book):
    leads = {href for page in written(book) for href in Page(page).links if "#claim-" in href}
    assert "scaling.html#claim-scale-post-training-methods" in leads


def test_claims_page_links_each_settled_claim_to_its_one_cell(book):
    linked = re.findall(
        r'href="([\w-]+\.html)#claim-([\w-]+)"', (book / "chapters/claims.html").read_text()
    )
    wanted = [
        (f"{n.stem}.html", claim["id"])
        for n in chapters(ROOT)
        for claim in report.settled(executed_path(n))
    ]
    assert sorted(linked) == sorted(wanted) and wanted
    ids = {name: Page(book / "chapters" / name).ids for name in {name for name, _ in wanted}}
    for name, id in wanted:
        assert ids[name].count(f"claim-{id}") == 1, id


def test_status_page_has_a_row_for_each_chapter(book):
    page = (book / "chapters/status.html").read_text()
    for notebook in chapters(ROOT):
        chapter = report.chapter(notebook.stem, executed_path(notebook))
        row = re.search(rf'<tr.*?href="{notebook.stem}\.html".*?</tr>', page, re.DOTALL).group()
        for shown in (
            chapter.run["date"],
            f"{chapter.run['seconds']:.0f} s",
            f"{chapter.settled} of {len(chapter.rows)}",
            chapter.run["device"],
        ):
            assert shown in row
    told = [report.chapter(n.stem, executed_path(n)) for n in chapters(ROOT)]
    assert page.count("<table") <= 2  # the chapters, and what was run on a GPU
    for chapter, run in report.recorded_runs(told):
        row = re.search(rf'<tr.*?href="{chapter.name}\.html".*?</tr>', page, re.DOTALL).group()
        assert f"{len(run['seeds'])} seeds" in row and run["commit"][:12] in row


def test_citations_lead_to_their_entries_and_quoted_boxes_have_titles(book):
    for notebook in chapters(ROOT):
        page = (book / f"chapters/{notebook.stem}.html").read_text(encoding="utf-8")
        cited = [title for _, title in links(notebook) if KEY.fullmatch(title)]
        led = re.findall(r'class="citation[^"]*" href="references\.html#[\w-]+"', page)
        assert len(led) == len(cited) > 0, notebook.stem
        drawn = re.findall(r'<div class="[^"]*\badmonition\b[^"]*">', page)
        assert len(drawn) == boxes(notebook), notebook.stem


def test_chapters_stay_small(book):
    sizes = {n.stem: (book / f"chapters/{n.stem}.html").stat().st_size for n in chapters(ROOT)}
    assert sizes and all(size < LIMIT for size in sizes.values()), sizes


class Code(HTMLParser):
    """A page's pieces of code, letter by letter, and the rest of its text."""

    def __init__(self, path):
        super().__init__()
        self.pieces, self.rest, self._inside = [], "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        if tag in ("code", "pre") and not self._inside:
            self.pieces.append("")
        if tag in ("code", "pre", "script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, text):
        if not self._inside:
            self.rest += text
        elif self._inside[-1] in ("code", "pre"):
            self.pieces[-1] += text


def mistyped(page):
    """Commands of a page that would fail when pasted: not set as code, or with a sign of print."""
    lines = [line for piece in Code(page).pieces for line in piece.splitlines()]
    wrong = [line for line in lines if " llmbook " in line and not line.isascii()]
    return wrong + re.findall(r".{0,30}\bm llmbook .{0,30}", Code(page).rest)


def test_a_command_arrives_with_the_signs_of_a_keyboard(book, tmp_path):
    pages = written(book)
    assert {page.name: found for page in pages if (found := mistyped(page))} == {}
    page = (book / "chapters/status.html").read_text(encoding="utf-8")
    assert "--out" in page
    for name, old, new in (("dash", "--out", "–out"), ("bare", "<code", "<b")):
        broken = tmp_path / f"{name}.html"
        broken.write_text(page.replace(old, new), encoding="utf-8")
        assert mistyped(broken), name


# --- what the browser shows

RENDERED = """() => {
  const count = (what) => document.querySelectorAll(what).length;
  const bare = [...document.querySelectorAll('.math')]
    .filter(e => !e.querySelector('mjx-container'));
  return {
    'formulas not drawn': bare.map(e => e.textContent.slice(0, 40)),
    'formulas with an error': count('mjx-merror'),
    'widgets not drawn': count('script[type="application/vnd.jupyter.widget-view+json"]')
      - [...document.querySelectorAll('.widget-subarea')].filter(e => e.clientHeight > 5).length,
  };
}"""
OPENED = "() => document.querySelectorAll('details').forEach(d => { d.open = true; })"
OUTSIDE = """() => {
  const inBox = (e) => { for (let p = e.parentElement; p; p = p.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)
        && p.getBoundingClientRect().right <= innerWidth + 1) return true; return false; };
  const page = document.documentElement;
  const wide = [...document.querySelectorAll('.bd-article *')]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !inBox(e));
  return [...(page.scrollWidth > innerWidth ? ['page ' + page.scrollWidth] : []),
          ...wide.map(e => e.tagName + '.' + e.className).slice(0, 5)];
}"""
CUT_CODE = """() => [...document.querySelectorAll('.cell_input pre')]
  .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 60))"""
PALE = """() => [...document.querySelectorAll(
    '.cell_output, .cell_output .output, .output > *, .widget-subarea, .claim, details, ' +
    '.exercise-result')]
  .filter(e => !e.matches('img, svg, script, style')).filter(e => {
    const [r, g, b, a = 1] = getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number);
    return a > 0.3 && r + g + b > 3 * 110;
  }).map(e => e.className).slice(0, 5)"""


def watched(context, base):
    """A new page, and the list of what went wrong in it."""
    page, wrong = context.new_page(), []
    page.on(
        "request",
        lambda r: r.url.startswith((base, "data:", "blob:")) or wrong.append(f"outside: {r.url}"),
    )
    page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}"))
    page.on("response", lambda r: r.status >= 400 and wrong.append(f"{r.status}: {r.url}"))
    page.on("console", lambda m: m.type == "error" and wrong.append(f"console: {m.text}"))
    page.on("pageerror", lambda e: wrong.append(f"error: {e}"))
    return page, wrong


def look(page, wrong, sizes, theme):
    """Add to `wrong` what a reader would miss at each of the window sizes."""
    page.wait_for_load_state("load")
    page.evaluate(OPENED)  # what is folded is measured too: while closed it has no place
    page.evaluate(SETTLED)
    for size in sizes:
        page.set_viewport_size(size)
        wrong += [
            f"at {size['width']}, wider than the window: {what}" for what in page.evaluate(OUTSIDE)
        ]
        if size is WIDE:
            wrong += [f"cut off at {size['width']}: {line}" for line in page.evaluate(CUT_CODE)]
    wrong += [
        f"{name}: {found}"
        for name, found in page.evaluate(RENDERED).items()
        if found not in (0, [])
    ]
    if theme == "dark":
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        wrong += [f"pale in the dark: {what}" for what in page.evaluate(PALE)]


def offline_or_skip(book):
    if not (book / "_static/vendor/mathjax").is_dir():
        pytest.skip("the book's web files are missing: npm was not there when it was built")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("how", "theme", "sizes"),
    [("file", "light", (WIDE, NARROW)), ("server", "dark", (NARROW, WIDE))],
    ids=["file, light", "server, dark"],
)
def test_pages_are_complete_and_ask_for_nothing_outside(book, browser, how, theme, sizes):
    offline_or_skip(book)
    faults = {}
    with served(book) as server:
        base = server if how == "server" else book.resolve().as_uri() + "/"
        context = browser.new_context(viewport=sizes[0], color_scheme=theme)
        for path in [*written(book), book / "search.html"]:
            page, wrong = watched(context, base)
            page.goto(base + path.relative_to(book).as_posix())
            look(page, wrong, sizes, theme)
            page.close()
            if wrong:
                faults[path.name] = wrong
        context.close()
    assert not faults


WORDS = """() => {
  const article = document.querySelector('.bd-article').cloneNode(true);
  article.querySelectorAll('.cell, .math, mjx-container, .headerlink, .section-number')
    .forEach(e => e.remove());
  return article.textContent;
}"""
CODES = """() => [...document.querySelectorAll('.bd-article code.literal')]
  .filter(e => !e.closest('.cell')).map(e => {
    for (let p = e.closest('details'); p; p = p.parentElement.closest('details')) p.open = true;
    return e.innerText.replaceAll('\\u00a0', ' ');
  })"""


@pytest.mark.browser
def test_the_markdown_s_words_and_the_spaces_in_its_code_arrive_unchanged(book, browser):
    page = browser.new_page(viewport=WIDE)
    for source in [*chapters(ROOT), *sorted((ROOT / "chapters").glob("*.md"))]:
        page.goto((book / f"chapters/{source.stem}.html").resolve().as_uri())
        page.evaluate(SETTLED)
        words, shown = squeezed(page.evaluate(WORDS)), page.evaluate(CODES)
        assert [p for p in passages(source) if p not in words] == [], source.stem
        if source.suffix == ".md":  # what a directive makes may stand in between
            rest = iter(shown)
            assert [code for code in codes(source) if code not in rest] == [], source.stem
        else:
            assert shown == codes(source), source.stem
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("how", ["file", "server"])
def test_search_finds_a_chapter_by_a_word_of_its_title(book, browser, how):
    notebook = chapters(ROOT)[0]
    title = report.chapter(notebook.stem, executed_path(notebook)).title
    word = max(re.findall(r"[A-Za-z]+", title), key=len)
    with served(book) as server:
        base = server if how == "server" else book.resolve().as_uri() + "/"
        context = browser.new_context()
        page, wrong = watched(context, base)
        page.goto(f"{base}search.html?q={word}")
        page.wait_for_selector("#search-results li a")
        page.wait_for_timeout(500)  # excerpts are fetched after the titles are shown
        found = page.eval_on_selector_all(
            "#search-results li a", "found => found.map(a => a.href)"
        )
        context.close()
    assert any(f"chapters/{notebook.stem}.html" in address for address in found)
    assert not wrong


@pytest.mark.browser
def test_theme_switch_and_toggles_answer(book, browser):
    context = browser.new_context(viewport=WIDE, color_scheme="light")
    page, wrong = watched(context, book.resolve().as_uri() + "/")
    page.goto((book / f"chapters/{chapters(ROOT)[0].stem}.html").resolve().as_uri())
    page.evaluate(SETTLED)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator(
        "button.theme-switch-button:visible"
    ).first.click()  # from the system's to the other
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    toggle = page.locator(".bd-article details").first
    toggle.locator("summary").click()
    assert before != after and toggle.get_attribute("open") is not None and not wrong
    context.close()


# --- small books, built to be broken


@pytest.fixture
def small(tmp_path):
    """A book of one chapter with its own copy of the package; `chapter(source)` writes it."""
    (tmp_path / "chapters").mkdir()
    for name in ("_config.yml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("claims.md", "status.md", "references.md", "references.bib"):
        shutil.copy(ROOT / "chapters" / name, tmp_path / "chapters")
    shutil.copytree(
        ROOT / "llmbook", tmp_path / "llmbook", ignore=shutil.ignore_patterns("__pycache__")
    )
    if (ROOT / "_build/web").is_dir():
        shutil.copytree(ROOT / "_build/web", tmp_path / "_build/web")
    (tmp_path / "chapters/intro.md").write_text("# A small book\n\nOne chapter.\n")
    names = ("recurrent", "claims", "status", "references")
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: chapters/intro\nchapters:\n"
        + "".join(f"  - file: chapters/{name}\n" for name in names)
    )
    return tmp_path


def chapter(root, source):
    cells = [v4.new_markdown_cell("# A small chapter\n\n$x^2$"), v4.new_code_cell(source)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(
        v4.new_notebook(cells=cells, metadata=kernel), root / "chapters/recurrent.ipynb"
    )


def make(root, *options, **env):
    return build(root, *options, env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **env})


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("-W", "-n", "--keep-going")], ids=["plain", "strict"])
def test_a_failing_chapter_fails_the_build(small, options):
    chapter(small, "1 / 0")
    done = make(small, *options)
    assert done.returncode != 0, done.stdout
    assert "recurrent" in done.stdout and "ZeroDivisionError" in done.stdout
    assert not (small / "_build/html/chapters/recurrent.html").exists()


@pytest.mark.slow
def test_a_change_in_the_package_reaches_the_pages_and_nothing_else_runs_again(small):
    (small / "llmbook/probe.py").write_text('WORD = "before"\n')
    chapter(
        small,
        "from llmbook.probe import WORD\nfrom llmbook.book import start, claim\n"
        'start("recurrent")\n'
        'claim("rnn-cell-formula", {WORD + " measured": 1.0}, holds=True)\nprint("it is", WORD)',
    )
    page, claims = (
        small / "_build/html/chapters/recurrent.html",
        small / "_build/html/chapters/claims.html",
    )
    first = make(small, "-W", "-n", "--keep-going")
    assert first.returncode == 0, first.stdout
    assert "it is before" in page.read_text() and "before measured" in claims.read_text()

    before = os.times()
    again = make(small, "-W", "-n", "--keep-going")
    after = os.times()
    assert again.returncode == 0 and "executing" not in again.stdout
    assert "no targets are out of date" in again.stdout
    # processor time, so that a busy machine decides nothing
    assert (
        after.children_user + after.children_system - before.children_user - before.children_system
        < 20
    )

    (small / "llmbook/probe.py").write_text('WORD = "after"\n')
    changed = make(small, "-W", "-n", "--keep-going")
    assert (
        changed.returncode == 0 and "recurrent, profile quick, seed 0: executing" in changed.stdout
    )
    assert "it is after" in page.read_text() and "after measured" in claims.read_text()


@pytest.mark.slow
def test_texts_of_widgets_that_look_like_markup_leave_the_page_whole(small):
    texts = ["<!--<script>", "</script>", "</SCRIPT >", "<script", "-->", "a < b"]
    chapter(small, f"import ipywidgets\nipywidgets.Select(options={texts!r})")
    done = make(small, "-W", "-n", "--keep-going")
    assert done.returncode == 0, done.stdout
    page = (small / "_build/html/chapters/recurrent.html").read_text()
    begin = page.index('type="application/vnd.jupyter.widget-state+json"')
    state = page[page.index(">", begin) + 1 : page.index("</script>", begin)]
    assert "<" not in state
    labels = [m["state"].get("_options_labels") for m in json.loads(state)["state"].values()]
    assert texts in labels


@pytest.mark.slow
def test_without_npm_pages_load_the_pinned_files_and_the_build_says_so(small, tmp_path_factory):
    chapter(small, "print(1)")
    shutil.rmtree(small / "_build", ignore_errors=True)
    done = make(small, "-W", "-n", "--keep-going", PATH=str(tmp_path_factory.mktemp("empty")))
    assert done.returncode == 0, done.stdout
    assert (
        "npm was not found, so pages load formulas and widgets from https://cdn.jsdelivr.net"
        in done.stdout
    )
    page = (small / "_build/html/chapters/recurrent.html").read_text()
    assert "https://cdn.jsdelivr.net/npm/mathjax@3.2.2/es5/tex-chtml.js" in page


@pytest.mark.slow
def test_buttons_appear_only_with_an_address(small):
    from llmbook.book.address import _replace, config_block

    chapter(small, "print(1)")
    page = small / "_build/html/chapters/recurrent.html"
    config = small / "_config.yml"
    config.write_text(_replace(config.read_text(), config_block(""), "_config.yml"))
    assert make(small, "-W", "-n", "--keep-going").returncode == 0
    without = page.read_text()
    assert "colab.research" not in without and "github.com/executablebooks" not in without
    config.write_text(
        _replace(
            config.read_text(), config_block("https://github.com/someone/book"), "_config.yml"
        )
    )
    done = make(small, "-W", "-n", "--keep-going")
    assert done.returncode == 0, done.stdout
    found = re.search(
        r'https://colab\.research\.google\.com/github/someone/book/blob/[^"]+', page.read_text()
    )
    assert (
        found
        and found.group().endswith("/chapters/recurrent.ipynb")
        and "/./" not in found.group()
    )
    assert 'href="https://github.com/someone/book"' in page.read_text()
