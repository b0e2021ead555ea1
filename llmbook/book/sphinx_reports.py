"""Parts of pages that are drawn from all executed chapters, as Sphinx directives.

`{claims}` and `{status}`: what was settled, and how each chapter last ran. `{map}`, `{routes}`
and `{course}`: the chapters with their times (`contents.py`). `{implemented}`: what the package
has (`implemented.py`). `{benchmarks}`: recorded races (`benchmarks.py`). `{live}`: a chapter's
interactive figure.
Each page that holds one is read again when any chapter was executed again. At the head of every
chapter's page a line says how long it takes and leads to the page on running it.
"""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.util.docutils import SphinxDirective

from llmbook import __version__
from llmbook.book import benchmarks, chapter_map, contents, gpu, implemented, report
from llmbook.book.claims import format_value
from llmbook.book.root import address
from llmbook.book.root import chapters as listed_chapters
from llmbook.book.typeset import to_html


def setup(app):
    """Connect the directives; `llmbook.book.sphinx` calls this."""
    app.add_directive("claims", Claims)
    app.add_directive("status", Status)
    app.add_directive("map", Map)
    app.add_directive("routes", Routes)
    app.add_directive("course", Course)
    app.add_directive("benchmarks", Benchmarks)
    app.add_directive("implemented", Implemented)
    app.add_directive("colab", Colab)
    app.add_directive("live", Live)
    app.connect("env-purge-doc", forget)
    app.connect("doctree-read", put_head)


def forget(app, env, docname):
    """A page that is read again says anew whether it reports on executions."""
    getattr(env, "llmbook_reports", set()).discard(docname)


RUN_IT = "chapters/run_it"
GITHUB, COLAB = "https://github.com/", "https://colab.research.google.com/github"


def put_head(app, doctree):
    """A line under a chapter's title: how long it takes, and the way to running it oneself."""
    page = app.env.docname
    if page not in app.env.llmbook_executed or RUN_IT not in app.env.found_docs:
        return
    title = next(iter(doctree.findall(nodes.title)), None)
    if title is None:
        return
    listed = contents.parts(app.srcdir, app.env.llmbook_executed)
    entry = next((e for e in contents.entries(listed) if e.page == page), None)
    line = nodes.paragraph(classes=["chapter-head"])
    if entry is not None and entry.minutes is not None:
        line += nodes.Text(f"{contents.in_words(entry.minutes)} with the exercises · ")
    line += link(app.builder.get_relative_uri(page, RUN_IT), "run this chapter yourself")
    if entry is not None and entry.seconds is not None:
        line += nodes.Text(f": it took {entry.seconds:.0f} s of one core here")
    title.parent.insert(title.parent.index(title) + 1, line)


# --- what all of them share


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


# --- the contents


class Map(Report):
    """`{map}`: the chapters as a picture, each a link."""

    def draw(self, chapters):
        listed = contents.parts(self.env.srcdir, self.env.llmbook_executed)
        drawn = [
            nodes.raw("", chapter_map.svg(listed, self.address, shape), format="html")
            for shape in chapter_map.SHAPES
        ]
        legend = (
            "Below each title: its number, and the time for reading and exercises together. "
            "A dot marks the short route."
        )
        return [*drawn, nodes.paragraph("", legend, classes=["map-legend"])]


class Contents(Report):
    """A part of a page that lists chapters with their times."""

    def listed(self):
        return contents.entries(contents.parts(self.env.srcdir, self.env.llmbook_executed))

    def linked(self, entries):
        return joined([link(self.address(entry), entry.title) for entry in entries], ", ")

    @staticmethod
    def silent(entries):
        """A line on the chapters that do not say how long they take."""
        if not (silent := contents.silent(entries)):
            return []
        names = ", ".join(entry.title for entry in silent)
        return [nodes.paragraph("", f"Counted as the mean of the others: {names}.")]


class Routes(Contents):
    """`{routes}`: the short route and the long one, with their times."""

    HEAD = ("Route", "Chapters", "Reading", "Exercises", "Running every notebook")

    def draw(self, chapters):
        listed = self.listed()
        short = [entry for entry in listed if contents.WEEKEND in entry.routes]
        rows = [self.cells(name, route) for name, route in (("short", short), ("long", listed))]
        return [table(self.HEAD, rows, "routes"), *self.silent(listed)]

    def cells(self, name, route):
        return (
            name,
            str(len(route)) if name == "long" else self.linked(route),
            contents.in_words(contents.total(route, "reading")),
            contents.in_words(contents.total(route, "exercises")),
            f"{contents.total(route, 'seconds') / 60:.1f} min",
        )


class Course(Contents):
    """`{course} NAME N`: the route of that name, or `all`, shared out over N weeks or days."""

    required_arguments = 2
    option_spec = {"names": directives.unchanged}
    HEAD = ("Chapters", "Reading", "Exercises", "Running", "To hand in")

    def draw(self, chapters):
        route, groups = self.arguments
        listed = [e for e in self.listed() if route == "all" or route in e.routes]
        shares = contents.shared_out(listed, int(groups))
        names = self.options.get("names", "").split() or [str(i + 1) for i in range(len(shares))]
        rows = [self.cells(*one) for one in zip(names, shares, strict=False)]
        rows.append(("all", *self.sums(listed)))
        first = "Day" if self.options.get("names") else "Week"
        return [table((first, *self.HEAD), rows, "course"), *self.silent(listed)]

    def cells(self, name, share):
        return (name, self.linked(share), *self.sums(share)[1:])

    @staticmethod
    def sums(share):
        checked = sum(entry.checked for entry in share)
        return (
            f"{len(share)} chapters",
            contents.in_words(contents.total(share, "reading")),
            contents.in_words(contents.total(share, "exercises")),
            f"{contents.total(share, 'seconds'):.0f} s",
            f"{len(share)} notebook{'s' * (len(share) > 1)}, {checked} exercises",
        )


class Benchmarks(Report):
    """`{benchmarks}`: the recorded races, who won where, and on what they were run."""

    HEAD = ("Race", "Case", "Peer", "Speed", "Peer's time / ours: 1/16 … 1 … 16")

    def draw(self, chapters):
        self.env.note_dependency(str(benchmarks.FILE))
        found = benchmarks.recorded()
        if found is None:
            command = nodes.literal("", "python -m llmbook bench")
            return [nodes.paragraph("", "No races are recorded yet. Run them: ", command)]
        rows = [self.cells(name, one) for name, one in benchmarks.cases(found)]
        return [
            self.where(found),
            self.lost(found),
            table(self.HEAD, rows, "benchmarks"),
            *self.others(found),
        ]

    @staticmethod
    def cells(name, one):
        speed = one["speed"]
        drawn = nodes.raw("", benchmarks.picture(speed), format="html")
        return name, f"{one['case']}, {one['ours']}", one["peer"], f"{speed['median']:.2f}", drawn

    @staticmethod
    def where(found):
        seconds = sum(race["seconds"] for race in found["races"].values())
        threads = found["threads"]
        text = (
            f"Recorded on {found['date'][:10]} at commit {found['commit'][:12]}, on "
            f"{found['hardware']}, with {threads} thread{'s' * (threads > 1)}; "
            f"{shown(found['versions'] | found['peers'])}; {seconds / 60:.1f} minutes in all. "
        )
        if benchmarks.shared(found):
            text += (
                f"The machine was shared: {found['waiting'][0]:.0f} other processes ran or waited "
                "for its cores. The two of a race take turns, so that others' work meets both; "
                "still, small differences mean nothing here."
            )
        return nodes.paragraph("", text)

    @staticmethod
    def lost(found):
        lost, n = benchmarks.lost(found), len(benchmarks.cases(found))
        line = nodes.paragraph()
        line += nodes.strong("", f"The peer is faster in {len(lost)} of {n} cases")
        if lost:
            worst = "; ".join(
                f"{one['peer']} in {one['case']} against {one['ours']} "
                f"({one['speed']['median']:.2f})"
                for _, one in lost[:5]
            )
            plain = sum(one["ours"] == "reference" for _, one in lost)
            even = sum(one["speed"]["p80"] >= 1 for _, one in lost)
            line += nodes.Text(
                f"; in {plain} of these, ours is the reference, a formula written to be read; in "
                f"{even} the spread reaches 1 (drawn grey). The farthest: {worst}."
            )
        return line

    @staticmethod
    def others(found):
        """What was not raced, with the reason, and what was refused."""
        listed = nodes.bullet_list()
        for name, race in found["races"].items():
            told = [race["note"]] if race["note"] else []
            told += [
                f"{case}: wrong result, no speed: {why}" for case, why in race["wrong"].items()
            ]
            for text in told:
                listed += nodes.list_item("", nodes.paragraph("", f"{name}: {text}"))
        title = nodes.paragraph("", "Not raced here:")
        return [title, listed] if listed.children else []


class Implemented(Report):
    """`{implemented}`: a table for each group of systems."""

    HEAD = ("System", "Taught in", "Lives in llmbook", "Held to account by")

    def draw(self, chapters):
        drawn = []
        for group, rows in implemented.systems().items():
            section = nodes.section(ids=[nodes.make_id(group)], names=[])
            section += nodes.title("", group)
            section += table(self.HEAD, [self.cells(row) for row in rows], "implemented")
            drawn.append(section)
        return drawn

    def cells(self, row):
        return row.name, self.taught(row.taught), self.where(row.where), self.tests(row)

    def taught(self, entries):
        places = []
        for entry in entries:
            notebook, _, heading = entry.partition(": ")
            if notebook in self.pages:
                where = self.env.llmbook_executed[self.pages[notebook]]
                chapter = report.chapter(notebook, where)
                anchor = nodes.make_id(heading)
                places.append(link(self.address(chapter, anchor), chapter.title))
        return joined(places) if places else "no chapter of its own"

    @staticmethod
    def where(entries):
        places = []
        for entry in entries:
            module, names = implemented.split(entry)
            place = nodes.inline("", "", nodes.literal("", module))
            if names:
                place += nodes.Text(": " + ", ".join(names))
            places.append(place)
        return joined(places)

    @staticmethod
    def tests(row):
        files = joined([nodes.literal("", f"tests/{test}") for test in row.tests])
        if row.peer:
            files += nodes.Text(f", against {row.peer}")
        return files


class Colab(Report):
    """`{colab}`: each chapter's link to Colab, or how to get one."""

    def draw(self, chapters):
        root = Path(self.env.srcdir)
        where = address(root)
        if not where.startswith(GITHUB):
            text = (
                "This copy of the book does not know the address of its repository yet, so it has "
                "no Colab links. One command writes it everywhere it belongs:"
            )
            command = nodes.literal("", "python -m llmbook address https://github.com/OWNER/NAME")
            return [nodes.paragraph("", text), nodes.paragraph("", "", command)]
        start = f"{COLAB}/{where.removeprefix(GITHUB)}/blob/v{__version__}"
        listed = nodes.bullet_list()
        for entry in contents.entries(contents.parts(root)):
            there = link(f"{start}/{entry.page}.ipynb", entry.title)
            there["internal"] = False
            listed += nodes.list_item("", nodes.paragraph("", "", there))
        text = (
            "A link opens the notebook there. Its first cell installs the package from the tag "
            "that these pages belong to, and leaves Colab's torch alone. A free T4 is enough."
        )
        return [nodes.paragraph("", text), listed]


# --- a chapter's figure on another page


class Live(Report):
    """`{live} NAME`: the first interactive figure of that name that a chapter holds.

    It comes from the executed copy, so it is the chapter's, with its weights. `:from:` names the
    chapter, `:caption:` replaces what stands below.
    """

    required_arguments = 1
    option_spec = {"from": directives.unchanged_required, "caption": directives.unchanged}

    def draw(self, chapters):
        chapter = self.options["from"]
        if chapter not in self.pages:
            raise self.error(f"{chapter} is not in this book")
        executed = self.env.llmbook_executed[self.pages[chapter]]
        found = report.figure(executed, self.arguments[0])
        if found is None:
            raise self.error(f"{chapter} has no figure {self.arguments[0]}")
        view, state = found
        if "caption" in self.options:
            state["state"][view["model_id"]]["state"]["caption"] = self.options["caption"]
        self.scripts(state)
        alt = state["state"][view["model_id"]]["state"]["alt"]
        script = f'<script type="{report.VIEW_MIME}">{_in_script(view)}</script>'
        box = nodes.container(classes=["cell", "cell_output", "live"])
        box += nodes.container(
            "", nodes.raw("", script, format="html"), classes=["output", "widget_html"]
        )
        box += nodes.raw("", f"<noscript>[interactive: {alt}]</noscript>", format="html")
        return [box]

    def scripts(self, state):
        """The page's scripts: the widget's state and what draws it, as for a notebook."""
        add = NbMetadataCollector.add_js_file
        body = {"type": report.STATE_MIME, "body": _in_script(state)}
        add(self.env, self.env.docname, "ipywidgets_state", None, body)
        for number, (path, options) in enumerate(self.env.config.nb_ipywidgets_js.items()):
            add(self.env, self.env.docname, f"ipywidgets_{number}", path, dict(options))


def _in_script(data):
    """JSON that may stand in a script of a page."""
    return json.dumps(data).replace("<", "\\u003c")


# --- the Claims and Status pages


class Claims(Report):
    """`{claims}`: every row of the ledger that an existing chapter has, with what was measured.

    By verdict, those first that change a belief; the correct ones are folded. Buttons and a field
    choose among them (static/llmbook.js), where scripts run.
    """

    ORDER = ("wrong", "dated", "debatable", "loose", "correct")
    FILTER = """<form class="claims-filter" role="search" hidden>
<div role="group" aria-label="Verdicts to show">{buttons}</div>
<label>Words <input type="search" name="words" autocomplete="off"></label>
<output aria-live="polite"></output></form>"""
    BUTTON = (
        '<button type="button" class="claim-verdict claim-verdict-{verdict}" aria-pressed="false" '
        'data-verdict="{verdict}">{verdict} {count}</button>'
    )

    def draw(self, chapters):
        counts = report.verdicts(chapters)
        verdicts = [verdict for verdict in self.ORDER if verdict in counts]
        buttons = "".join(self.BUTTON.format(verdict=v, count=counts[v]) for v in verdicts)
        choose = nodes.raw("", self.FILTER.format(buttons=buttons), format="html")
        found = [(chapter, row, record) for chapter in chapters for row, record in chapter.rows]
        sections = [self.section(verdict, found) for verdict in verdicts]
        open_rows = [one for one in found if one[2] is None]
        if open_rows:
            sections.append(self.titled("open", "Not settled yet", open_rows))
        return [self.summary(chapters), choose, *sections]

    def summary(self, chapters):
        total = sum(chapter.settled for chapter in chapters)
        box = nodes.container(classes=["claims-overview"])
        box += nodes.paragraph("", f"{total} statements are settled.", classes=["claims-summary"])
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

    def section(self, verdict, found):
        own = [one for one in found if one[1]["verdict"] == verdict and one[2] is not None]
        return self.titled(verdict, verdict.capitalize(), own, folded=verdict == "correct")

    def titled(self, name, title, found, folded=False):
        section = nodes.section(ids=[f"claims-{name}"], names=[], classes=["claims-list"])
        section += nodes.title("", title)
        rows = [self.row(*one) for one in found]
        if folded:
            begin = f"<details><summary>The {len(found)} that hold as stated</summary>"
            rows = [
                nodes.raw("", begin, format="html"),
                *rows,
                nodes.raw("", "</details>", format="html"),
            ]
        section += rows
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
        foot = nodes.paragraph("", classes=["claim-foot"])
        foot += link(self.address(chapter), chapter.title)
        if record:
            where = link(self.address(chapter, f"claim-{row['id']}"), row["id"])
            foot += [nodes.Text(": measured in cell "), where]
        else:
            foot += nodes.Text(f": not settled yet: {row['id']}")
        box += foot
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
        "Spreads over seeds, recorded",
    )

    def draw(self, chapters):
        spreads = {chapter.name: run for chapter, run in report.recorded_runs(chapters)}
        rows = [self.cells(c, spreads.get(c.name)) for c in chapters]
        return [table(self.HEAD, rows, "chapter-status"), *self.on_gpus()]

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

    def cells(self, chapter, spread):
        run = chapter.run
        return (
            link(self.address(chapter), chapter.title),
            run.get("date", ""),
            f"{run.get('seconds', 0):.0f} s",
            f"{run.get('peak_memory_mb', 0):,.0f} MB",
            f"{chapter.settled} of {len(chapter.rows)}",
            f"{run.get('profile', '')}: {run.get('device', '')}",
            shown(run.get("versions", {})),
            self.spread(spread) if spread else "",
        )

    @staticmethod
    def spread(run):
        """How the spreads of a chapter's trained claims were recorded, in a line."""
        told = f"{len(run['seeds'])} seeds at {run['profile']}, {run['date']}, {run['hardware']}"
        return f"{told}, commit {run['commit'][:12]}; {shown(run['versions'])}"


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


def joined(parts, between="; "):
    """Inline nodes in one line, with a sign between them."""
    line = nodes.inline()
    for part in parts:
        line += [nodes.Text(between), part] if line.children else [part]
    return line


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
