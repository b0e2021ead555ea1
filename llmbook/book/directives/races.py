"""`{benchmarks}`: the recorded races, who won where, and on what they were run."""

from docutils import nodes

from llmbook import provenance
from llmbook.book import benchmarks
from llmbook.book.directives.base import Report, table


class Benchmarks(Report):
    """`{benchmarks}`: the recorded races, who won where, and on what they were run."""

    HEAD = ("Race", "Case", "Peer", "Speed", "Peer's time / ours: 1/16 … 1 … 16")

    def draw(self):
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
        threads, versions = found["threads"], found["versions"] | found["peers"]
        text = (
            f"Recorded on {found['date'][:10]} at commit {found['commit'][:12]}, on "
            f"{found['hardware']}, with {threads} thread{'s' * (threads > 1)}; "
            f"{provenance.in_words(versions)}; {seconds / 60:.1f} minutes in all. "
        )
        if benchmarks.shared(found):
            others = round(found["waiting"])
            text += (
                f"The machine was shared: {others} other process{'es' * (others != 1)} ran or "
                "waited for its cores. The two of a race take turns, so that others' work meets "
                "both; still, small differences mean nothing here."
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
        title = nodes.paragraph("", "No speed for:")
        return [title, listed] if listed.children else []
