"""`{map}`, `{routes}`, `{course}`, `{colab}`: chapters with their times; a line at each head."""

from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives

from llmbook.book import address, chapter_map, contents, root
from llmbook.book.directives.base import Report, joined, link, table

RUN_IT = "chapters/run_it"


def put_head(app, doctree):
    """A line under a chapter's title: how long it takes, and the way to running it oneself."""
    page = app.env.docname
    if page not in app.env.llmbook_executed or RUN_IT not in app.env.found_docs:
        return
    title = next(iter(doctree.findall(nodes.title)), None)
    if title is None:
        return
    entry = contents.entry(app.srcdir, page, app.env.llmbook_executed[page])
    line = nodes.paragraph(classes=["chapter-head"])
    line += nodes.Text(f"{contents.in_words(entry.minutes)} with the exercises · ")
    line += link(app.builder.get_relative_uri(page, RUN_IT), "run this chapter yourself")
    line += nodes.Text(f": it took {entry.seconds:.0f} s of one core here")
    title.parent.insert(title.parent.index(title) + 1, line)


class Map(Report):
    """`{map}`: the chapters as a picture, each a link."""

    def draw(self):
        drawn = [
            nodes.raw("", chapter_map.svg(self.parts(), self.address, shape), format="html")
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
        return contents.entries(self.parts())

    def linked(self, entries):
        return joined([link(self.address(entry), entry.title) for entry in entries], ", ")


class Routes(Contents):
    """`{routes}`: the short route and the long one, with their times."""

    HEAD = ("Route", "Chapters", "Reading", "Exercises", "Running every notebook")

    def draw(self):
        listed = self.listed()
        short = [entry for entry in listed if contents.WEEKEND in entry.routes]
        rows = [self.cells(name, route) for name, route in (("short", short), ("long", listed))]
        return [table(self.HEAD, rows, "routes")]

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

    def draw(self):
        route, groups = self.arguments
        listed = [e for e in self.listed() if route == "all" or route in e.routes]
        shares = contents.shared_out(listed, int(groups))
        names = self.options.get("names", "").split() or [str(i + 1) for i in range(len(shares))]
        if len(names) != len(shares):
            raise self.error(f"{len(shares)} groups need as many names: got {names}")
        rows = [self.cells(*one) for one in zip(names, shares, strict=True)]
        rows.append(("all", *self.sums(listed)))
        first = "Day" if self.options.get("names") else "Week"
        return [table((first, *self.HEAD), rows, "course")]

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


class Colab(Report):
    """`{colab}`: each chapter's link to Colab, or how to get one."""

    def draw(self):
        where = root.address(Path(self.env.srcdir))
        if not where.startswith(address.GITHUB):
            text = (
                "This copy of the book does not know the address of its repository yet, so it has "
                "no Colab links. One command writes it everywhere it belongs:"
            )
            command = nodes.literal("", "python -m llmbook address https://github.com/OWNER/NAME")
            return [nodes.paragraph("", text), nodes.paragraph("", "", command)]
        listed = nodes.bullet_list()
        for entry in contents.entries(self.parts()):
            there = link(address.colab(where, entry.page), entry.title)
            there["internal"] = False
            listed += nodes.list_item("", nodes.paragraph("", "", there))
        text = (
            "A link opens the notebook there. Its first cell installs the package from the tag "
            "that these pages belong to, and leaves Colab's torch alone. A free T4 is enough."
        )
        return [nodes.paragraph("", text), listed]
