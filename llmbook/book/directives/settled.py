"""`{claims}`: every row of the ledger, with what was measured."""

from docutils import nodes

from llmbook.book import report
from llmbook.book.claims import format_value
from llmbook.book.directives.base import Report, link
from llmbook.book.typeset import to_html


class Claims(Report):
    """`{claims}`: every row of the ledger that an existing chapter has, with what was measured.

    By verdict, those first that change a belief; the correct ones are folded. Buttons and a field
    choose among them (static/llmbook.js), where scripts run.
    """

    FILTER = """<form class="claims-filter" role="search" hidden>
<div role="group" aria-label="Verdicts to show">{buttons}</div>
<label>Words <input type="search" name="words" autocomplete="off"></label>
<output aria-live="polite"></output></form>"""
    BUTTON = (
        '<button type="button" class="claim-verdict claim-verdict-{verdict}" aria-pressed="false" '
        'data-verdict="{verdict}">{verdict} {count}</button>'
    )

    def draw(self):
        chapters = self.chapters()
        verdicts = report.verdicts(chapters)
        buttons = "".join(self.BUTTON.format(verdict=v, count=n) for v, n in verdicts.items())
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
            how = "settled by its sources in cell" if record.get("by") else "measured in cell"
            foot += [nodes.Text(f": {how} "), where]
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


def badge(verdict):
    """The coloured word that gives a claim's verdict."""
    return nodes.inline("", verdict, classes=["claim-verdict", f"claim-verdict-{verdict}"])


def typeset(text):
    """A text of the ledger with its formulas set."""
    return nodes.raw("", to_html(text), format="html")
