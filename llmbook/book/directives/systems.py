"""`{implemented}`: what the package has, where it is taught and what holds it to account."""

from docutils import nodes

from llmbook.book import contents, implemented
from llmbook.book.directives.base import Report, joined, link, table


class Implemented(Report):
    """`{implemented}`: a table for each group of systems."""

    HEAD = ("System", "Taught in", "Lives in llmbook", "Held to account by")

    def draw(self):
        self.named = {entry.name: entry for entry in contents.entries(self.parts())}
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
            if chapter := self.named.get(notebook):
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
