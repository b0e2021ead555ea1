"""The search page: results are sections, each with an excerpt, from a file and from a server."""

import json
import re

import pytest
from helpers.browser import browser  # noqa: F401 - a fixture
from helpers.built_book import ROOT, book, build, served  # noqa: F401 - book is a fixture
from helpers.small_book import write_pages

from llmbook.book.sphinx_search import sections

ORCHARD = """# Orchards

Trees in rows, and what walks between them.

## Apples & \\<pears>

Pick them in autumn. A ladder helps: the ripest hang high. $x^2$ of them fall.

### Cider

Press, wait, and taste. The barrel was rinsed before.

## Ladders

Three legs stand on any ground. A ladder is carried upright. One ladder, one picker.
"""
HARBOUR = """# Harbours

Ships rest here. Nobody picks anything.

## Ropes

A rope is coiled. Wet ropes are heavy; so is a barrel.
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A built book of three pages without notebooks."""
    root = tmp_path_factory.mktemp("search") / "book"
    write_pages(root, orchard=ORCHARD, harbour=HARBOUR)
    done = build(root, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout[-3000:]
    return root / "_build/html"


@pytest.fixture(params=["file", "server"])
def found(pages, browser, request):
    """found(query): [(address within the book, title, excerpt)] in the order shown."""
    with served(pages) as server:
        base = server if request.param == "server" else pages.resolve().as_uri() + "/"
        page, asked, wrong = browser.new_page(), [], []
        page.set_default_timeout(180_000)  # a busy machine is slow
        page.on("request", lambda r: asked.append(r.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))

        def search(query):
            page.goto(f"{base}search.html?q={query}")
            page.wait_for_function("document.querySelector('.search-summary')?.textContent")
            rows = page.eval_on_selector_all(
                "#search-results li",
                "rows => rows.map(r => [r.querySelector('a').href, r.querySelector('a').innerText,"
                " r.querySelector('p.context')?.innerText ?? ''])",
            )
            told = page.locator(".search-summary").inner_text()
            assert told == f"Places found: {len(rows)}." or not rows
            return [(address.removeprefix(base), *rest) for address, *rest in rows]

        search.page = page
        yield search
        page.close()
    assert not wrong
    assert not (search.quiet and [url for url in asked if "/chapters/" in url])


@pytest.mark.browser
def test_a_word_of_the_text_leads_to_the_section_that_holds_it(found):
    found.quiet = True  # no page is fetched for its excerpt
    (one,) = found("rinsed")
    assert one[:2] == ("chapters/orchard.html#cider", "Orchards > Cider")
    assert one[2] == "Press, wait, and taste. The barrel was rinsed before."
    assert found.page.locator("p.context .highlighted").inner_text() == "rinsed"
    assert {address for address, _, _ in found("barrel")} == {
        "chapters/orchard.html#cider",
        "chapters/harbour.html#ropes",
    }


@pytest.mark.browser
def test_several_sections_of_a_page_come_best_first_and_once(found):
    found.quiet = True
    assert [address for address, _, _ in found("ladder")] == [
        "chapters/orchard.html#ladders",  # in its title, and oftener
        "chapters/orchard.html#apples-pears",
    ]
    assert [address for address, _, _ in found("Orchards")] == ["chapters/orchard.html"]


@pytest.mark.browser
def test_all_words_must_stand_there_and_words_all_over_a_page_lead_to_one_place(found):
    found.quiet = True
    assert [address for address, _, _ in found("ripest ladder")] == [
        "chapters/orchard.html#apples-pears"
    ]
    scattered = found("rinsed legs")  # in no section both
    assert len(scattered) == 1 and scattered[0][0].startswith("chapters/orchard.html#")
    assert found("zeppelin") == []


@pytest.mark.browser
def test_a_part_of_a_word_and_a_title_that_looks_like_markup(found):
    found.quiet = True
    address, title, excerpt = found("autum")[0]
    assert address == "chapters/orchard.html#apples-pears"
    assert title == "Orchards > Apples & <pears>" and "Pick them in autumn." in excerpt


@pytest.mark.browser
def test_a_click_arrives_at_the_section(found):
    found.quiet = False
    found("upright")
    page = found.page
    page.set_viewport_size({"width": 1000, "height": 300})
    page.locator("#search-results li a").click()
    page.wait_for_url("**/chapters/orchard.html#ladders")
    page.wait_for_function(
        "() => { const r = document.querySelector('#ladders h2').getBoundingClientRect();"
        " return r.top >= 0 && r.bottom <= innerHeight; }"
    )


def test_a_section_is_its_own_text_without_what_is_within_or_not_for_reading():
    page = """<main><article role="main"><section id="top"><h1><span class="section-number">1.
    </span>Top<a class="headerlink" href="#top">#</a></h1><p>First <b>words</b>, \\(x^2\\).</p>
    <details class="hide"><summary aria-label="Toggle hidden content">Show</summary>
    <pre>code()</pre></details><script>state = 1</script><svg><text>axis</text></svg><!-- note -->
    <section id="in"><h2>In &amp; out</h2>Bare text is not markup's.<p>Deep</p></section>
    <div><p>After</p><ul><li>all</li><li>this</li></ul></div></section></article></main>
    <section id="else"><p>elsewhere</p></section>"""
    assert sections(page) == [
        ["top", "Top", "First words, x^2 . code() After all this"],
        ["in", "In & out", "Deep"],
    ]


def test_every_section_that_a_result_may_lead_to_is_on_its_page(book):
    script = (book / "_static/sections.js").read_text(encoding="utf-8")
    told = json.loads(script.removeprefix("window.LLMBOOK_SECTIONS = ").removesuffix(";\n"))
    assert len(told) > 20
    for name, parts in told.items():
        page = (book / f"{name}.html").read_text(encoding="utf-8")
        ids = set(re.findall(r'\bid="([^"]+)"', page))
        assert parts and {id for id, _, _ in parts} <= ids, name
