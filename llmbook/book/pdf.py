"""The whole book as one PDF: the built pages, joined into one and printed by Chromium.

Every page is opened, so that its formulas are set and its figures drawn; what then stands there,
the figures in their first state, is put into one document, links between pages become links
inside it, and that is printed. Hints, notes and tables that a click opens on the page are open;
code that is folded on the page is left out, unless `--code` asks for it.
"""

import argparse
import contextlib
import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from llmbook.book.root import find_root, listed

WIDTH = 860  # pixels of the window that the pages are drawn in: their column fits on A4
SCALE = 0.86  # of the print
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BUILD = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
SETTLED = """async () => {
  await window.MathJax?.startup?.promise;
  const asked = document.querySelectorAll('script[type$="jupyter.widget-view+json"]').length;
  for (let i = 0; i < 600 && document.querySelectorAll('.llm-ia').length < asked; i++)
    await new Promise((done) => setTimeout(done, 50));
  await new Promise((done) => setTimeout(done, 300));
  return [asked, document.querySelectorAll('.llm-ia').length];
}"""

TAKEN = Path(__file__).with_name("printed.js").read_text(encoding="utf-8")
PRINT = Path(__file__).with_name("printed.css").read_text(encoding="utf-8")
FOOT = """<div style="width:100%;text-align:center;font-size:8px;color:#666">
<span class="pageNumber"></span></div>"""


class NotPrinted(RuntimeError):
    """What is needed to print is missing, or a page could not be drawn."""


def pages(root):
    """The names of the book's pages in the order of `_toc.yml`, the first one first."""
    return [page.rpartition("/")[2] for _, pages in listed(root) for page in pages]


@contextlib.contextmanager
def chromium():
    """A running Chromium. Raises NotPrinted when it, or Playwright, is not there."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise NotPrinted("Playwright is missing: pip install playwright") from error
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        raise NotPrinted("Chromium is missing: apt-get install chromium, or Chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def joined(browser, built, names, title, code=False):
    """One document of the pages `names` in the folder `built`, as markup.

    Raises NotPrinted where a page is not there.
    """
    files = {name: built / "chapters" / f"{name}.html" for name in names}
    for file in files.values():
        if not file.is_file():
            raise NotPrinted(f"{file} is not there: build the book, without --no-build")
    bodies, styles, sheets, entries = [], {}, {}, []
    page = browser.new_page(viewport={"width": WIDTH, "height": 1100}, color_scheme="light")
    page.set_default_timeout(120_000)
    for name in names:
        print(f"{name} …", flush=True)
        page.goto(files[name].resolve().as_uri())
        asked, drawn = page.evaluate(SETTLED)
        if drawn < asked:
            raise NotPrinted(f"{name}: {drawn} of {asked} figures were drawn")
        taken = page.evaluate(TAKEN, {"name": name, "code": code, "pages": names})
        styles |= dict.fromkeys(taken["styles"])
        sheets |= dict.fromkeys(taken["sheets"])
        bodies.append(f'<article class="bd-article" id="{name}">{taken["body"]}</article>')
        entries.append(f'<li><a href="#{name}">{html.escape(taken["title"])}</a></li>')
    page.close()
    links = "".join(f'<link rel="stylesheet" href="{html.escape(one)}">' for one in sheets)
    inside = "".join(f"<style>{one}</style>" for one in styles)
    cover = f'<div class="cover"><h1>{html.escape(title)}</h1></div>'
    contents = f'<nav class="book-contents"><h2>Contents</h2><ul>{"".join(entries)}</ul></nav>'
    return (
        '<!doctype html><html lang="en" data-theme="light" data-mode="light"><head>'
        f'<meta charset="utf-8"><title>{html.escape(title)}</title>{links}{inside}'
        f"<style>{PRINT}</style></head><body>{cover}{contents}{''.join(bodies)}</body></html>"
    )


def print_pdf(browser, markup, out):
    """Print a document that lies as a file."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 1100}, color_scheme="light")
    page.set_default_timeout(600_000)
    page.goto(markup.resolve().as_uri())
    page.evaluate("() => document.fonts.ready.then(() => true)")
    page.pdf(
        path=str(out),
        format="A4",
        scale=SCALE,
        print_background=True,
        prefer_css_page_size=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOT,
        outline=True,
        tagged=True,
    )
    page.close()


def chosen(root, names):
    """The names of the pages to be printed, in the book's order; ValueError for an unknown one."""
    known = pages(root)
    if unknown := [name for name in names or [] if name not in known]:
        raise ValueError(f"page must be one of {', '.join(known)}: got {unknown[0]!r}")
    return [name for name in known if not names or name in names]


def make(root, out, names=None, code=False):
    """Write the PDF of the built pages (all, or `names`); the number of pages printed."""
    built, printed = root / "_build" / "html", chosen(root, names)
    title = re.search(r"^title: (.+)$", (root / "_config.yml").read_text(), re.MULTILINE).group(1)
    markup = root / "_build" / "pdf" / "book.html"
    markup.parent.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        markup.write_text(joined(browser, built, printed, title, code), encoding="utf-8")
        part = out.with_suffix(".part")
        print_pdf(browser, markup, part)
    sheets = len(re.findall(rb"/Type\s*/Page\b", part.read_bytes()))
    part.replace(out)
    return sheets


def main(argv=None):
    """`python -m llmbook pdf`: build the pages and print them; exit 1 where nothing can print."""
    parser = argparse.ArgumentParser(
        prog="python -m llmbook pdf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("page", nargs="*", help="names of pages, such as attention (default: the whole book)")
    add("--out", type=Path, metavar="FILE", help="default: _build/pdf/book.pdf")
    add("--code", action="store_true", help="print the code that pages fold, too")
    add("--no-build", action="store_true", help="print the pages as they were last built")
    args = parser.parse_args(argv)
    try:
        root = find_root()
        chosen(root, args.page)
        out = args.out or root / "_build" / "pdf" / "book.pdf"
        if not args.no_build and (
            status := subprocess.run([sys.executable, "-c", BUILD, "build", str(root)]).returncode
        ):
            return status
        printed = make(root, out, args.page, args.code)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    except NotPrinted as error:
        print(error, file=sys.stderr)
        return 1
    print(
        json.dumps({"file": str(out), "pages": printed, "mb": round(out.stat().st_size / 1e6, 1)})
    )
    return 0
