"""Everything that knows Sphinx: the extension that `_config.yml` loads.

It gives the pages their executed notebooks (and executes what is missing first), web files that
need no network, pages that lead from old names to new ones (`llmbook_moved` in `_config.yml`), and
the fixes that this version of the theme and of its companions need. What is drawn from all
chapters is in `directives/`, markdown in `sphinx_markdown.py`, the search in `sphinx_search.py`,
and `sphinx_whole.py` sees to it that a build is whole. To move the book to another program,
rewrite these.
"""

import base64
import hashlib
from pathlib import Path

from sphinx.errors import ExtensionError
from sphinx.util import logging

from llmbook.book import (
    assets,
    directives,
    execute,
    references,
    report,
    sphinx_markdown,
    sphinx_search,
    sphinx_whole,
)
from llmbook.figures.forward import page_script

logger = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static"
PLACEHOLDER_ADDRESS = "https://github.com/executablebooks/jupyter-book"


def setup(app):
    """Connect the extension; Sphinx calls this."""
    app.add_config_value("llmbook_static", "", "html")
    app.add_config_value("llmbook_moved", {}, "html")
    sphinx_whole.setup(app)
    sphinx_markdown.setup(app)
    sphinx_search.setup(app)
    directives.setup(app)
    references.register()
    app.connect("config-inited", configure, priority=900)
    app.connect("env-get-outdated", execute_chapters)
    app.connect("source-read", put_executed)
    app.connect("build-finished", write_weights)
    app.connect("build-finished", write_moved)
    app.connect("html-page-context", clean_scripts, priority=900)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}


# --- settings and web files


def configure(app, config):
    """Add this book's style and scripts, and point the pages at local web files.

    Folders are appended to `html_static_path` here, after Jupyter Book has looked through them:
    it would put every script that it finds there into every page.
    """
    try:
        web = assets.obtain(Path(app.outdir).parent)
    except assets.AssetError as error:
        raise ExtensionError(str(error)) from error
    logger.info("llmbook: %s", web.message)
    config.html_static_path.extend([str(STATIC), *map(str, web.folders)])
    config.html_favicon = str(STATIC / "llmbook-icon.svg")
    config.mathjax_path = web.mathjax
    config.nb_ipywidgets_js = {
        web.requirejs: {},
        "llmbook-widgets.js": {"data-manager": web.html_manager.removesuffix("embed-amd.js")},
        web.html_manager: {},
    }
    app.add_css_file("llmbook.css", priority=900)
    app.add_js_file("llmbook.js", priority=5)  # before the theme's scripts, which it configures
    config.llmbook_static = _fingerprint(STATIC)
    config.html_context.setdefault("default_mode", "auto")  # unset, the theme reports an error
    options = config.html_theme_options
    options["navbar_persistent"] = []  # this version of the theme draws a second, empty bar for it
    _set_address(options)


def _fingerprint(folder):
    """A digest of the folder's files: pages are written anew when the style changes."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def _set_address(options):
    """Buttons for the repository and for Colab, only when the book knows its own address."""
    address = options.get("repository_url", "")
    known = bool(address) and address != PLACEHOLDER_ADDRESS
    options["use_repository_button"] = options["use_issues_button"] = known
    if known:
        options["path_to_docs"] = options.get("path_to_docs", "").strip("./")
    else:
        options["repository_url"] = ""
        options["launch_buttons"] = {}


def clean_scripts(app, pagename, templatename, context, doctree):
    """Drop the live-code loader, which nothing uses here, and make the widgets' state safe.

    A text of a widget, a token say, may look like markup: "<!--" and "<script" in the state would
    change where the page's script ends, so no "<" is left in it.
    """
    kept = [js for js in context["script_files"] if "thebe" not in _script_text(js)]
    for script in kept:
        attributes = getattr(script, "attributes", {})
        if "widget-state" in attributes.get("type", ""):
            attributes["body"] = attributes["body"].replace("<", r"\u003c")
    context["script_files"][:] = kept


def _script_text(script):
    body = getattr(script, "attributes", {}).get("body", "")
    return f"{getattr(script, 'filename', script)} {body}"


# --- executed notebooks


def execute_chapters(app, env, added, changed, removed):
    """Execute chapters without a valid copy; returns the pages that must be read again."""
    notebooks = {
        name: Path(env.doc2path(name))
        for name in sorted(env.found_docs)
        if env.doc2path(name).endswith(".ipynb")
    }
    try:
        paths = execute.ensure_executed(list(notebooks.values()), "quick")
    except execute.ExecutionFailed as error:
        raise ExtensionError(f"the book is not built: {error}") from error
    before = getattr(env, "llmbook_executed", {})
    env.llmbook_executed = now = dict(zip(notebooks, map(str, paths)))
    outdated = {name for name in now if now[name] != before.get(name)}
    if now != before:
        outdated |= {
            name for name in getattr(env, "llmbook_reports", set()) if name in env.found_docs
        }
    return sorted(outdated)


def put_executed(app, docname, source):
    """Hand the parser the executed copy in place of the notebook's own text."""
    executed = app.env.llmbook_executed.get(docname)
    if executed:
        source[0] = report.page_source(executed)


def write_weights(app, error):
    """The weights of figures that compute, once for all pages: `_static/weights/NAME.js`."""
    if error or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / "weights"
    for executed in app.env.llmbook_executed.values():
        for name, (shapes, packed) in report.shared_weights(executed).items():
            folder.mkdir(parents=True, exist_ok=True)
            script = page_script(name, shapes, base64.b64decode(packed))
            (folder / f"{name}.js").write_text(script, encoding="utf-8")


MOVED = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Moved</title>
<meta http-equiv="refresh" content="0; url={to}"><link rel="canonical" href="{to}">
<script>location.replace("{to}" + location.hash);</script></head>
<body><p>This page has moved: <a href="{to}">{to}</a>.</p></body></html>
"""


def write_moved(app, error):
    """A page under each old name that leads to the new one, where that is in the book."""
    if error or app.builder.format != "html":
        return
    for old, new in app.config.llmbook_moved.items():
        if old in app.env.found_docs:
            raise ExtensionError(f"llmbook_moved must name pages that are gone: got {old}")
        if new not in app.env.found_docs:
            logger.info("llmbook: %s would lead to %s, which is not in this book", old, new)
            continue
        page = Path(app.outdir) / f"{old}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        to = app.builder.get_relative_uri(old, new)
        page.write_text(MOVED.format(to=to), encoding="utf-8")
