"""What the search page needs so that a result is a section: the text of each section of the book.

Sphinx's index knows pages. `static/search.js` takes its results and looks up here which sections
of a page hold the words. The texts lie in a script of the search page alone, so that it works in
pages opened from a file, too, where no page may read another.
"""

import json
from pathlib import Path

FILE = "sections.js"
_BLOCKS = {"blockquote", "details", "div", "li", "p", "pre", "summary", "td", "th", "tr"}
_LEFT_OUT = {"script", "style", "svg", "nav", "button", "section"}  # a section within is its own


def setup(app):
    """Connect it; `sphinx.setup` calls this."""
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", write_sections)


def add_scripts(app, pagename, templatename, context, doctree):
    """Give the search page its two scripts, which run before Sphinx begins to search."""
    if pagename == "search":
        app.add_js_file(FILE, loading_method="defer", priority=900)
        app.add_js_file("search.js", loading_method="defer", priority=901)


def write_sections(app, error):
    """Write `_static/sections.js`: {page: [[id, title, text] of each section]}."""
    if error or app.builder.format != "html":
        return
    out = Path(app.outdir)
    pages = {name: out / f"{name}.html" for name in sorted(app.env.found_docs)}
    pages = {name: path for name, path in pages.items() if path.is_file()}
    target = out / "_static" / FILE
    begun = max(path.stat().st_mtime_ns for path in pages.values())
    if target.is_file() and target.stat().st_mtime_ns > begun:
        return  # no page was written since
    found = {name: sections(path.read_text(encoding="utf-8")) for name, path in pages.items()}
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    target.write_text(f"window.LLMBOOK_SECTIONS = {text};\n", encoding="utf-8")


def sections(page):
    """[id, title, text] of each section of a page's HTML, in order; the first is its top.

    A section's text ends where a section within it begins.
    """
    from lxml import html

    found = []
    for main in html.document_fromstring(page).xpath('//*[@role="main"]'):
        for section in main.iter("section"):
            title, text = "", []
            for part in section:
                if part.tag in ("h1", "h2", "h3", "h4", "h5", "h6") and not title:
                    title = _squeezed(_texts(part))
                elif part.tag != "section":
                    text += [*_texts(part), " "]
            if section.get("id"):
                found.append([section.get("id"), title, _squeezed(text)])
    return found


def _texts(element):
    """The texts that a reader sees of an element, piece by piece."""
    if not isinstance(element.tag, str) or element.tag in _LEFT_OUT:
        return
    if {"headerlink", "section-number"} & set(element.get("class", "").split()):
        return
    if element.tag == "summary" and element.get("aria-label"):  # of a folded cell
        return
    yield element.text or ""
    for child in element:
        yield from _texts(child)
        yield " " if child.tag in _BLOCKS else ""  # the next word is another paragraph's
        yield child.tail or ""


def _squeezed(texts):
    """The pieces as one text, without the marks that formulas stand between."""
    text = "".join(texts)
    for mark in (r"\(", r"\)", r"\[", r"\]"):
        text = text.replace(mark, " ")
    return " ".join(text.split())
