"""`{status}`: for each chapter, when and how it last ran and what it settled."""

from docutils import nodes

from llmbook.book import gpu, report
from llmbook.book.directives.base import Report, link, table
from llmbook.provenance import in_words


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

    def draw(self):
        chapters = self.chapters()
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
                in_words(record["versions"]),
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
            in_words(run.get("versions", {})),
            self.spread(spread) if spread else "",
        )

    @staticmethod
    def spread(run):
        """How the spreads of a chapter's trained claims were recorded, in a line."""
        told = f"{len(run['seeds'])} seeds at {run['profile']}, {run['date']}, {run['hardware']}"
        return f"{told}, commit {run['commit'][:12]}; {in_words(run['versions'])}"
