"""`{status}`: for each chapter, when and how it last ran and what it settled."""

from docutils import nodes

from llmbook.book import gpu, report
from llmbook.book.directives.base import Report, link, table
from llmbook.provenance import in_words


class Status(Report):
    """`{status}`: for each chapter, when and how it last ran and what it settled."""

    def draw(self):
        chapters = self.chapters()
        runs = [chapter.run for chapter in chapters]
        spreads = {chapter.name: run for chapter, run in report.recorded_runs(chapters)}
        columns = {
            "Chapter": [link(self.address(c), c.title) for c in chapters],
            "Executed": [run.get("date", "") for run in runs],
            "Time": [f"{run.get('seconds', 0):.0f} s" for run in runs],
            "Peak memory": [f"{run.get('peak_memory_mb', 0):,.0f} MB" for run in runs],
            "Claims settled": [f"{c.settled} of {len(c.rows)}" for c in chapters],
            "Ran at": [self.setting(run) for run in runs],
            "Spreads over seeds, recorded": [
                self.spread(spreads.get(c.name), c) for c in chapters
            ],
        }
        below = []
        if len(set(columns["Ran at"])) == 1:
            told = f"Every chapter ran at {columns.pop('Ran at')[0]}."
            below = [nodes.paragraph("", told)]
        rows = zip(*columns.values(), strict=True)
        return [table(columns, rows, "chapter-status"), *below, *self.on_gpus()]

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

    @staticmethod
    def setting(run):
        """At what profile, on what and with which versions a chapter ran."""
        return (
            f"{run.get('profile', '')}, on {run.get('device', '')}, with "
            f"{in_words(run.get('versions', {}))}"
        )

    @staticmethod
    def spread(run, chapter):
        """How the spreads of a chapter's trained claims were recorded, in a line."""
        if not run:
            return ""
        told = f"{len(run['seeds'])} seeds at {run['profile']}, {run['date']}, {run['hardware']}"
        told += f", commit {run['commit'][:12]}"
        others = run["versions"] != chapter.run.get("versions")
        return told + (f"; {in_words(run['versions'])}" if others else "")
