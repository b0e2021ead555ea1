"""The front page and the page on running: the map, the routes, the live figure, what is run."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch
from helpers.browser import browser  # noqa: F401 - a fixture
from helpers.built_book import book  # noqa: F401 - a fixture
from helpers.small_book import write_chapter

from llmbook.book import chapter_map, contents
from llmbook.book.contents import Entry, Part
from llmbook.book.root import chapters, find_root, listed

ROOT = find_root(Path(__file__).parent)
LISTED = contents.parts(ROOT)
ALL = contents.entries(LISTED)
RUN_IT = (ROOT / "chapters" / "run_it.md").read_text(encoding="utf-8")


# --- contents


def test_parts_hold_every_notebook_of_the_book_in_its_order():
    assert [entry.name for entry in ALL] == [path.stem for path in chapters(ROOT)]
    assert all(part.caption for part in LISTED)


@pytest.mark.parametrize(
    "words, want",
    [
        ("an hour", 60),
        ("an hour and a quarter", 75),
        ("an hour and a half", 90),
        ("forty-five minutes", 45),
        ("45 minutes", 45),
        ("forty", 40),
        ("two hours", 120),
        ("an hour and ten minutes", 70),
    ],
)
def test_minutes_are_read_from_words(words, want):
    assert contents.minutes(words) == want


@pytest.mark.parametrize("words", ["a while", "an", ""])
def test_other_words_are_refused(words):
    with pytest.raises(ValueError, match="a time reads like"):
        contents.minutes(words)


def test_a_chapter_that_does_not_say_how_long_it_takes_is_refused(tmp_path):
    write_chapter(tmp_path, "one", "1")
    (tmp_path / "_toc.yml").write_text("root: x\nchapters:\n- file: chapters/one\n")
    with pytest.raises(ValueError, match=r"chapters/one must say '\*\*Time"):
        contents.parts(tmp_path)


def test_one_reader_of_the_table_of_contents_knows_parts_and_pages():
    import yaml

    stored = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    front, *parts = listed(ROOT)
    assert front[1] == [stored["root"]]
    assert parts == [
        (part["caption"], [page["file"] for page in part["chapters"]]) for part in stored["parts"]
    ]


def test_the_short_route_is_a_weekend_and_names_a_chapter_of_more_than_one_part():
    route = [entry for entry in ALL if contents.WEEKEND in entry.routes]
    assert 4 <= len(route) <= 8 and contents.total(route, "minutes") <= 14 * 60
    assert len({part.caption for part in LISTED if set(part.chapters) & set(route)}) > 1


def made(*minutes):
    return [
        Entry(f"chapters/c{i}", f"Chapter {i}", m, 0, 1.0, ()) for i, m in enumerate(minutes, 1)
    ]


def test_chapters_are_shared_out_in_order_with_the_longest_week_as_short_as_can_be():
    chapters = made(60, 60, 10, 10, 100, 20)
    weeks = contents.shared_out(chapters, 3)
    assert sum(weeks, []) == chapters and len(weeks) == 3
    assert max(contents.total(week, "minutes") for week in weeks) == 120
    assert contents.shared_out(made(5, 5), 12) == [[e] for e in made(5, 5)]


# --- the map


def test_the_map_leads_to_every_chapter_and_says_so_in_words():
    parts = [Part("First <things>", made(60, 20)), Part("Second", made(30))]
    for shape in chapter_map.SHAPES:
        drawn = chapter_map.svg(parts, lambda entry: f"{entry.name}.html", shape)
        assert re.findall(r'<a href="([^"]+)"', drawn) == ["c1.html", "c2.html", "c1.html"]
        assert re.findall(r'aria-label="(\d)\. Chapter', drawn) == ["1", "2", "3"]
        label = re.search(r'aria-label="(Map[^"]+)"', drawn).group(1)
        assert "First &lt;things&gt;: Chapter 1, Chapter 2; Second: Chapter 1" in label
        assert "<things>" not in drawn


SPILLED = """() => [...document.querySelectorAll('.chapter-map a')].flatMap(a => {
  const box = a.querySelector('rect').getBoundingClientRect();
  return [...a.querySelectorAll('text')].filter(t => {
    const b = t.getBoundingClientRect();
    return b.width && (b.right > box.right - 3 || b.bottom > box.bottom - 3 || b.top < box.top);
  }).map(t => t.textContent);
})"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1400, 390])
def test_the_map_is_legible_and_a_click_and_the_keyboard_open_a_chapter(book, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((book / "chapters/intro.html").resolve().as_uri())
    shown = page.locator(".chapter-map:visible")
    assert shown.count() == 1 and shown.locator("a").count() == len(ALL)
    assert page.evaluate(SPILLED) == []
    size = shown.evaluate("e => 12 * e.getBoundingClientRect().width / e.viewBox.baseVal.width")
    assert size > 11  # pixels of its smallest letters
    shown.locator("a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/{ALL[0].name}.html")
    page.go_back()
    page.locator(".chapter-map:visible a").last.click()
    page.wait_for_url(f"**/{ALL[-1].name}.html")
    page.close()


# --- the front page's figure


@pytest.mark.browser
def test_the_front_page_s_model_reads_what_a_reader_types_and_writes_on(book, browser):
    page, wrong = browser.new_page(viewport={"width": 1400, "height": 900}), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((book / "chapters/intro.html").resolve().as_uri())
    text = page.locator(".llm-ia input[type=text]").first
    text.fill("Return the number of ")
    page.get_by_role("button", name="Write on").click()
    page.wait_for_function("() => document.querySelector('[data-wrote]')?.dataset.wrote >= 3")
    page.close()
    assert not wrong


# --- running


def test_the_package_s_lines_on_the_page_print_what_stands_below_them():
    code, shown = re.search(
        r"## The package.*?```python\n(.*?)```\s+```text\n(.*?)```", RUN_IT, re.DOTALL
    ).groups()
    assert len([line for line in code.splitlines() if line]) <= 11
    printed, threads = io.StringIO(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, {})
    finally:
        torch.set_num_threads(threads)
    assert printed.getvalue() == shown


def test_the_page_s_commands_name_what_is_there():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"```bash\n(python3 -m venv.*?)```", RUN_IT, re.DOTALL).group(1)
    lines = block.strip().splitlines()
    assert len(lines) == 3
    assert re.search(r"'\.\[lab\]'", lines[1]) and "\nlab = [" in project
    assert (ROOT / lines[2].split()[-1]).is_file()
    torch_pin = re.search(r"torch==[\d.]+", RUN_IT).group()
    assert torch_pin in (ROOT / "requirements.txt").read_text(encoding="utf-8").split()


def test_every_chapter_s_head_leads_to_the_page_on_running(book):
    for entry in ALL:
        page = (book / f"{entry.page}.html").read_text(encoding="utf-8")
        head = re.search(r'<p class="chapter-head">(.*?)</p>', page, re.DOTALL).group(1)
        assert 'href="run_it.html"' in head and " s of one core here" in head
        assert contents.in_words(entry.minutes) in head
