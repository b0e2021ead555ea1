"""Drive an interactive figure in Chromium, without a kernel and without a network.

The page holds the widget's own script, its style, and a small stand-in for the widget's model that
has what the scripts may use: get, set, on, off, save_changes.

    def test_it(open_widget):
        page = open_widget(MyFigure(...), width=390)
        page.slide("steps", 20)
        assert page.points(".point", "k", "value") == [...]
"""

import base64
import functools
import importlib.util
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

import llmbook
from llmbook.book.pdf import BROWSERS

SETTLED = """() => Promise.resolve(window.MathJax?.startup?.promise)
  .then(() => new Promise(done => setTimeout(done, 150)))"""  # a page's formulas are set
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SKINS = {  # what each host says of its theme: attributes of <html>, of <body>, the page's colour
    "light": ({"data-theme": "light"}, {}, "#ffffff"),
    "dark": ({"data-theme": "dark"}, {}, "#121212"),
    "lab-light": ({}, {"data-jp-theme-light": "true"}, "#ffffff"),
    "lab-dark": ({}, {"data-jp-theme-light": "false"}, "#111111"),
    "colab-dark": ({"theme": "dark"}, {}, "#383838"),
    "none": ({}, {}, "#ffffff"),
}

# The book's page around a widget: its theme's and its own style, and the boxes around it.
STYLES = (
    "pydata_sphinx_theme/theme/pydata_sphinx_theme/static/styles/theme.css",
    "pydata_sphinx_theme/theme/pydata_sphinx_theme/static/styles/pydata-sphinx-theme.css",
    "sphinx_book_theme/theme/sphinx_book_theme/static/styles/sphinx-book-theme.css",
)
AROUND = [
    *("bd-container", "bd-container__inner bd-page-width", "bd-main", "bd-content"),
    *("bd-article-container", "bd-article", "cell", "cell_output docutils container"),
    "output widget-subarea",
]


@functools.cache
def book_style():
    """The style of the book's pages."""
    packages = Path(importlib.util.find_spec("sphinx_book_theme").origin).parents[1]
    ours = Path(llmbook.__file__).parent / "book" / "static" / "llmbook.css"
    return "\n".join(path.read_text("utf-8") for path in [*(packages / s for s in STYLES), ours])


PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>t</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body {{ margin: 0; padding: 16px; font: 16px sans-serif }}
{css}</style></head><body>{before}<div id="host"></div>{after}</body></html>"""

# Texts that lie on each other or outside the figure; tables whose columns or rows do not line up.
FAULTS = """() => {
  const root = document.querySelector('.llm-ia'), frame = root.getBoundingClientRect();
  const found = [], near = (a, b) => Math.abs(a - b) <= 2;
  const shown = (e) => !e.closest('[aria-live]') && e.getClientRects().length > 0
    && getComputedStyle(e).visibility !== 'hidden' && getComputedStyle(e).opacity !== '0';
  const scrolls = (e) => { for (let p = e.parentElement; p && p !== root; p = p.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return p;
    return null; };
  // each line of each text, with the element that it belongs to
  const lines = [];
  for (const e of root.querySelectorAll('*')) {
    if (!shown(e)) continue;
    for (const node of e.childNodes) {
      if (node.nodeType !== 3 || !node.data.trim()) continue;
      const range = document.createRange();
      range.selectNodeContents(node);
      // turned text is passed over: its box is larger than it is
      if (e.getScreenCTM && Math.abs(e.getScreenCTM().b) > 0.1) continue;
      for (const box of range.getClientRects())
        if (box.width > 1 && box.height > 1)
          lines.push({ e, box, text: node.data.trim().slice(0, 30) });
    }
  }
  for (const { e, box, text } of lines) {
    if (scrolls(e)) continue;
    if (box.right > frame.right + 1 || box.left < frame.left - 1) found.push(`outside: ${text}`);
    if (e.closest('button, .pick span') && e.scrollWidth > e.clientWidth + 1 && !e.ownerSVGElement
        && getComputedStyle(e).display !== 'inline') found.push(`cut off: ${text}`);
  }
  for (let i = 0; i < lines.length; i++) for (let j = i + 1; j < lines.length; j++) {
    const [a, b] = [lines[i], lines[j]];
    if (scrolls(a.e) !== scrolls(b.e)) continue;
    const x = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
    const y = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
    if (x > 2 && y > 0.4 * Math.min(a.box.height, b.box.height))
      found.push(`on each other: ${a.text} | ${b.text}`);
  }
  for (const table of root.querySelectorAll('table')) {
    if (!shown(table)) continue;
    const columns = [];
    for (const row of table.rows) {
      const cells = [...row.cells], boxes = cells.map(c => c.getBoundingClientRect());
      if (!boxes.every(b => near(b.top, boxes[0].top)))
        found.push(`row in several lines: ${row.textContent.slice(0, 40)}`);
      let place = 0;
      cells.forEach((cell, i) => {
        if (cell.colSpan === 1) (columns[place] ??= []).push(boxes[i]);
        place += cell.colSpan;
        const mine = lines.filter(l => cell.contains(l.e) && /\\d/.test(cell.textContent));
        if (/^[\\d\\s.,−–→()·e+-]+$/.test(cell.textContent) && mine.some(l =>
          !near(l.box.top, mine[0].box.top) && l.box.top > mine[0].box.bottom - 4))
          found.push(`number in several lines: ${cell.textContent}`);
      });
    }
    for (const column of columns.filter(Boolean))
      if (!column.every(b => near(b.left, column[0].left) && near(b.width, column[0].width)))
        found.push(`column not aligned in ${table.className || 'a table'}`);
  }
  return [...new Set(found)];
}"""

RENDER = """async ({ source, state }) => {
  const listeners = {};
  for (const [name, value] of Object.entries(state)) if (value?.base64) state[name] =
    new DataView(Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0)).buffer);
  const model = {
    state, saved: 0,
    get: (name) => state[name],
    set(name, value) {
      if (state[name] === value) return;
      state[name] = value;
      for (const call of [...(listeners[`change:${name}`] ?? [])]) call();
    },
    on(event, call) { (listeners[event] ??= []).push(call); },
    off(event, call) {
      listeners[event] = (listeners[event] ?? []).filter((one) => one !== call);
    },
    save_changes() { model.saved += 1; },
    listening: () => Object.values(listeners).flat().length,
  };
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const module = await import(url);
  window.model = model;
  const el = document.getElementById("host");
  window.draw = () => module.default.render({ model, el });
  window.cleanup = await draw();
  await new Promise((done) => setTimeout(done, 60));
  // a busy machine may be late with the frame that a figure draws itself in
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


def chromium():
    """The path of a Chromium or Chrome; skips the test when there is none."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.skip("Chromium is missing: apt-get install chromium")


@contextmanager
def launched():
    """A running Chromium, closed at the end of the block."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="module")
def browser():
    with launched() as running:
        yield running


@pytest.fixture
def open_widget(browser):
    """open_widget(widget, width=1000, theme="light", touch=False, book=False) -> WidgetPage.

    At the end the test fails for any error in the page's console and any request it made.
    """
    opened = []

    def open_(widget, **options):
        opened.append(WidgetPage(browser, widget, **options))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


class WidgetPage:
    """A page with one widget; `.page` is Playwright's own page."""

    def __init__(
        self,
        browser,
        widget,
        width=1000,
        height=1000,
        theme="light",
        touch=False,
        scheme="light",
        book=False,
    ):
        self.problems = []
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, has_touch=touch, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("request", self._request)
        boxes = AROUND if book else []
        self.page.set_content(
            PAGE.format(
                css=(book_style() if book else "") + str(widget._css),
                before="".join(f'<div class="{name}">' for name in boxes),
                after="</div>" * len(boxes),
            )
        )
        self.skin(theme)
        state = json.loads(json.dumps(widget_state(widget)))
        self.page.evaluate(RENDER, {"source": str(widget._esm), "state": state})
        self.root = self.page.locator(".llm-ia")

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text}")

    def _request(self, request):
        if not request.url.startswith(("data:", "blob:", "about:")):
            self.problems.append(f"request: {request.url}")

    def close(self):
        self.context.close()
        assert not self.problems, self.problems

    def skin(self, theme, scheme=None):
        """Give the page the theme of a host; `scheme` is what the system prefers."""
        html, body, colour = SKINS[theme]
        self.page.evaluate(
            """([html, body, colour]) => {
          for (const [node, wanted] of [[document.documentElement, html], [document.body, body]]) {
            for (const name of ['data-theme', 'theme', 'data-jp-theme-light']) {
              if (name in wanted) node.setAttribute(name, wanted[name]);
              else node.removeAttribute(name);
            }
          }
          document.body.style.background = colour;
        }""",
            [html, body, colour],
        )
        if scheme:
            self.page.emulate_media(color_scheme=scheme)

    def resize(self, width, height=1000):
        """Change the window, and wait until the figure has redrawn itself for it."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def state(self, name):
        """What the browser's model holds under `name`."""
        return self.page.evaluate("name => model.get(name)", name)

    def set(self, name, value):
        """Change the state as a kernel or a second view would."""
        self.page.evaluate("([n, v]) => model.set(n, v)", [name, value])

    def control(self, name):
        return self.page.locator(f'[data-name="{name}"]')

    def slide(self, name, value):
        """Put a slider at `value` in one movement."""
        self.control(name).evaluate(
            "(el, v) => { el.value = v; el.dispatchEvent(new Event('input', {bubbles: true})) }",
            value,
        )

    def drag(self, name, share):
        """Click with the mouse at `share` (0 … 1) of a slider's track."""
        box = self.control(name).bounding_box()
        self.page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)

    def tap(self, name, share):
        """Touch a slider at `share` (0 … 1) of its track."""
        box = self.control(name).bounding_box()
        self.page.touchscreen.tap(box["x"] + share * box["width"], box["y"] + box["height"] / 2)

    def press(self, name, *keys):
        """Focus a control and press keys."""
        self.control(name).first.focus()
        for key in keys:
            self.page.keyboard.press(key)

    def pick(self, name, value):
        """Choose one of a row of radio buttons, by its visible label."""
        self.page.locator(f'label:has([data-name="{name}"][value="{value}"])').click()

    def data(self, selector, *names):
        """The numbers in data attributes of all elements that match, in document order."""
        rows = self.page.eval_on_selector_all(
            selector, "(els, ns) => els.map(e => ns.map(n => Number(e.dataset[n])))", list(names)
        )
        rows = [tuple(map(float, row)) for row in rows]
        return [row[0] for row in rows] if len(names) == 1 else rows

    def attributes(self, selector, *names):
        """Numbers in plain attributes, such as the coordinates an element is drawn at."""
        return [
            tuple(row)
            for row in self.page.eval_on_selector_all(
                selector,
                "(els, ns) => els.map(e => ns.map(n => Number(e.getAttribute(n))))",
                list(names),
            )
        ]

    def text(self, selector):
        return self.page.locator(selector).first.inner_text()

    def overflow(self):
        """Pixels by which the page is wider than its window, or an element than the figure."""
        return self.page.evaluate("""() => {
          const root = document.querySelector('.llm-ia').getBoundingClientRect();
          const outside = [...document.querySelectorAll('.llm-ia :is(svg text, button, label)')]
            .map(e => e.getBoundingClientRect()).filter(b => b.width > 0 && b.height > 0)
            .map(b => Math.max(b.right - root.right, root.left - b.left));
          const page = document.documentElement;
          return Math.max(page.scrollWidth - page.clientWidth, ...outside, 0);
        }""")

    def smallest_text(self):
        """The smallest font size, in CSS pixels, of any text that is drawn."""
        return self.page.evaluate("""() => Math.min(
          ...[...document.querySelectorAll('.llm-ia *')].filter(e => !e.closest('[aria-live]') &&
            [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) &&
            e.getClientRects().length).map(e => {
              const svg = e.ownerSVGElement;
              const scale = svg
                ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
              return parseFloat(getComputedStyle(e).fontSize) * scale;
            }))""")

    def contrasts(self):
        """(contrast with the background it stands on, text) for every text in the figure."""
        return self.page.evaluate("""() => {
          const rgba = (c) => c.match(/[\\d.]+/g).map(Number).map((v, i) =>
            c.startsWith('color(srgb') && i < 3 ? 255 * v : v);  // how a blended colour is told
          const lum = (c) => rgba(c).slice(0, 3).map(v => v / 255).map(v =>
            v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((t, v, i) => t + v * [0.2126, 0.7152, 0.0722][i], 0);
          const opaque = (e) => (rgba(getComputedStyle(e).backgroundColor)[3] ?? 1) === 1;
          return [...document.querySelectorAll('.llm-ia *')].filter(e =>
            !e.closest('[aria-live], :disabled') && e.getClientRects().length &&
            [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
              let back = e;
              while (!opaque(back)) back = back.parentElement;
              const style = getComputedStyle(e);
              const a = lum(getComputedStyle(back).backgroundColor);
              const b = lum(e.ownerSVGElement ? style.fill : style.color);
              return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.trim()];
            });
        }""")

    def faults(self):
        """What a reader would see go wrong in the boxes that are drawn: see FAULTS."""
        return self.page.evaluate(FAULTS)

    def screenshot(self, path):
        self.page.screenshot(path=str(path), full_page=True)


def widget_state(widget):
    """The widget's state as the page gets it, without the parts of the widget protocol.

    Bytes, which JSON has not, stand there as {"base64": …}; the page makes a DataView of them.
    """
    state = {
        k: v for k, v in widget.get_state().items() if not k.startswith("_") and k != "layout"
    }
    return {
        k: {"base64": base64.b64encode(v).decode()} if isinstance(v, (bytes, memoryview)) else v
        for k, v in state.items()
    }
