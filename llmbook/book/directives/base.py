"""What every directive shares: a part of a page drawn from executed chapters, and its nodes."""

from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from llmbook.book import contents, report
from llmbook.book.root import chapters as listed_chapters


class Report(SphinxDirective):
    """A part of a page that is drawn from all executed chapters."""

    def run(self):
        if not hasattr(self.env, "llmbook_reports"):
            self.env.llmbook_reports = set()
        self.env.llmbook_reports.add(self.env.docname)
        self.executed = self.env.llmbook_executed
        self.pages = {Path(name).name: name for name in self.executed}
        return self.draw()

    def chapters(self):
        """What the executed chapters tell (`report.chapter`), in the book's order."""
        order = {path.stem: i for i, path in enumerate(listed_chapters(self.env.srcdir))}
        names = sorted(self.pages, key=lambda name: order.get(name, len(order)))
        return [report.chapter(name, self.executed[self.pages[name]]) for name in names]

    def parts(self):
        """The book's parts with their chapters' times (`contents.parts`)."""
        return contents.parts(self.env.srcdir, self.executed)

    def address(self, chapter, anchor=""):
        here = self.env.docname
        page = self.env.app.builder.get_relative_uri(here, self.pages[chapter.name])
        return f"{page}#{anchor}" if anchor else page

    def parsed(self, text):
        """MyST text as nodes."""
        holder = nodes.container()
        self.state.nested_parse([text], 0, holder)
        return holder.children


# --- nodes


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
