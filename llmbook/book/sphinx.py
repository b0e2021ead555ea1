"""Everything that knows Sphinx: the extension that `_config.yml` loads.

It gives the pages their executed notebooks (and executes what is missing first), the `{claims}`
and `{status}` directives, web files that need no network, pages that lead from old names to new
ones (`llmbook_moved` in `_config.yml`), and the fixes that this version of the theme and of its
companions need. To move the book to another program, rewrite this file.
"""

import base64
import hashlib
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from llmbook.book import assets, execute, gpu, references, report, sphinx_markdown
from llmbook.book.claims import format_value
from llmbook.book.root import chapters as listed_chapters
from llmbook.book.typeset import to_html
from llmbook.figures.forward import page_script

logger = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static"
PLACEHOLDER_ADDRESS = "https://github.com/executablebooks/jupyter-book"


def setup(app):
    """Connect the extension; Sphinx calls this."""
    app.add_config_value("llmbook_static", "", "html")
    app.add_config_value("llmbook_moved", {}, "html")
    app.add_directive("claims", Claims)
    app.add_directive("status", Status)
    sphinx_markdown.setup(app)
    references.register()
    app.connect("config-inited", configure, priority=900)
    app.connect("env-get-outdated", execute_chapters)
    app.connect("source-read", put_executed)
    app.connect("env-purge-doc", forget)
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


def forget(app, env, docname):
    """A page that is read again says anew whether it reports on executions."""
    getattr(env, "llmbook_reports", set()).discard(docname)


# --- the Claims and Status pages


class Report(SphinxDirective):
    """A part of a page that is drawn from all executed chapters."""

    def run(self):
        if not hasattr(self.env, "llmbook_reports"):
            self.env.llmbook_reports = set()
        self.env.llmbook_reports.add(self.env.docname)
        executed = self.env.llmbook_executed
        self.pages = {Path(name).name: name for name in executed}
        chapters = [
            report.chapter(Path(name).name, path) for name, path in self._in_book_order(executed)
        ]
        return self.draw(chapters)

    def _in_book_order(self, executed):
        order = {path.stem: i for i, path in enumerate(listed_chapters(self.env.srcdir))}
        return sorted(executed.items(), key=lambda item: order.get(Path(item[0]).name, len(order)))

    def address(self, chapter, anchor=""):
        here = self.env.docname
        page = self.env.app.builder.get_relative_uri(here, self.pages[chapter.name])
        return f"{page}#{anchor}" if anchor else page

    def parsed(self, text):
        """MyST text as nodes."""
        holder = nodes.container()
        self.state.nested_parse([text], 0, holder)
        return holder.children


class Claims(Report):
    """`{claims}`: every row of the ledger that an existing chapter has, with what was measured."""

    def draw(self, chapters):
        return [self.summary(chapters), *map(self.section, chapters)]

    def summary(self, chapters):
        counts = report.verdicts(chapters)
        line = nodes.paragraph(classes=["claims-summary"])
        total = sum(c.settled for c in chapters)
        line += nodes.Text(f"{total} settled: ")
        for verdict, count in counts.items():
            line += [badge(verdict, f"{count} {verdict}"), nodes.Text(" ")]
        box = nodes.container("", line, classes=["claims-overview"])
        waiting = report.waiting(chapters)
        if waiting:
            listed = ", ".join(
                f"{name.replace('_', ' ')} ({count})" for name, count in waiting.items()
            )
            box += nodes.paragraph(
                "",
                f"{sum(waiting.values())} more wait for chapters that are not "
                f"written yet: {listed}.",
            )
        return box

    def section(self, chapter):
        section = nodes.section(ids=[f"claims-{chapter.name}"], names=[])
        section += nodes.title("", "", link(self.address(chapter), chapter.title))
        section += [self.row(chapter, row, record) for row, record in chapter.rows]
        return section

    def row(self, chapter, row, record):
        box = nodes.container(classes=["claim", f"claim-{row['verdict']}"])
        box += nodes.paragraph(
            "",
            "",
            badge(row["verdict"]),
            nodes.Text(" "),
            typeset(row["statement"]),
            classes=["claim-head"],
        )
        if row.get("met"):
            box += nodes.paragraph("", row["met"], classes=["claim-met"])
        box += nodes.paragraph("", "", typeset(row["note"]), classes=["claim-note"])
        box += self.evidence(record)
        if record:
            where = link(self.address(chapter, f"claim-{row['id']}"), row["id"])
            box += nodes.paragraph(
                "", "", nodes.Text("Measured in cell "), where, classes=["claim-foot"]
            )
        else:
            box += nodes.paragraph("", f"Not settled yet: {row['id']}", classes=["claim-foot"])
        if row["reference"]:
            box += self.references(row["reference"])
        return box

    def evidence(self, record):
        if record is None:
            return []
        lines = nodes.bullet_list(classes=["claim-evidence"])
        for name, value in record["measured"]:
            bound = record["bounds"].get(name)
            text = f"{name}: {format_value(value)}" + (f" (must be {bound})" if bound else "")
            lines += nodes.list_item("", nodes.paragraph("", text))
        unjudged = (
            []
            if record["judged"]
            else [nodes.paragraph("", "Recorded, not judged at this profile.")]
        )
        return [lines, *unjudged]

    def references(self, keys):
        found = self.parsed(f"See {{cite:t}}`{','.join(keys)}`.")
        for paragraph in found:
            paragraph["classes"].append("claim-references")
        return found


class Status(Report):
    """`{status}`: for each chapter, when and how it last ran and what it settled."""

    HEAD = (
        "Chapter",
        "Executed",
        "Time",
        "Peak memory",
        "Claims settled",
        "Profile and device",
        "Versions",
    )

    def draw(self, chapters):
        drawn = [table(self.HEAD, [self.cells(c) for c in chapters], "chapter-status")]
        runs = report.recorded_runs(chapters)
        if runs:
            drawn.append(
                nodes.paragraph("", "Recorded runs, from which the spreads over seeds come:")
            )
            for chapter, run in runs:
                drawn.append(
                    table(
                        ("Recorded for " + chapter.title, ""),
                        [(key, shown(value)) for key, value in run.items()],
                        "recorded-run",
                    )
                )
        return [*drawn, *self.on_gpus()]

    @staticmethod
    def on_gpus():
        """What is recorded of GPUs, a row a step; or that nothing is, and the command for it."""
        found = gpu.recorded()
        if not found:
            none = "Nothing is recorded on a GPU yet. One command does it, on a machine with one: "
            return [
                nodes.paragraph("", none, nodes.literal("", "python -m llmbook gpu --out FOLDER"))
            ]
        rows = [
            (
                name,
                gpu.told(record) + (" (of earlier kernels)" if record["stale"] else ""),
                record["hardware"],
                shown(record["versions"]),
                f"{record['date'][:10]}, {record['commit'][:12]}",
            )
            for name, record in found.items()
        ]
        head = ("On a GPU", "Result", "Hardware", "Versions", "Date, commit")
        return [table(head, rows, "gpu-status")]

    def cells(self, chapter):
        run = chapter.run
        return (
            link(self.address(chapter), chapter.title),
            run.get("date", ""),
            f"{run.get('seconds', 0):.0f} s",
            f"{run.get('peak_memory_mb', 0):,.0f} MB",
            f"{chapter.settled} of {len(chapter.rows)}",
            f"{run.get('profile', '')}: {run.get('device', '')}",
            shown(run.get("versions", {})),
        )


def badge(verdict, text=None):
    """The coloured word that gives a claim's verdict."""
    return nodes.inline("", text or verdict, classes=["claim-verdict", f"claim-verdict-{verdict}"])


def typeset(text):
    """A text of the ledger with its formulas set."""
    return nodes.raw("", to_html(text), format="html")


def link(address, text, classes=()):
    """A link to a place in the book whose address is known here."""
    return nodes.reference(
        "", "", nodes.Text(text), refuri=address, internal=True, classes=list(classes)
    )


def shown(value):
    """A recorded value as a table shows it."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def table(head, rows, name):
    """A table of text and inline nodes that scrolls sideways where it is too wide."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += nodes.thead("", table_row(head))
    group += nodes.tbody("", *[table_row(row) for row in rows])
    return nodes.container("", nodes.table("", group, classes=[name]), classes=["wide-table"])


def table_row(cells):
    """One row of `table`."""
    row = nodes.row()
    for cell in cells:
        text = (
            nodes.paragraph("", "", cell)
            if isinstance(cell, nodes.Node)
            else nodes.paragraph("", cell)
        )
        row += nodes.entry("", text)
    return row
