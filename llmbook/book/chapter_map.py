"""The map of chapters: a picture of the book's parts, every chapter in it a link.

It is drawn twice, for wide pages and for phones; the style sheet shows one. Colours are the style
sheet's, so light and dark follow the theme.
"""

import dataclasses
import html
import itertools
import textwrap

from llmbook.book import contents

GAP, TOP, LINE, PAD = 12, 34, 17, 12  # pixels: between boxes, a caption, a line of text, inside
LETTER = 7.1  # pixels that a letter of a title takes, on the safe side


@dataclasses.dataclass(frozen=True)
class Shape:
    """How wide the picture is, and how many chapters stand side by side."""

    name: str
    width: int
    columns: int

    @property
    def box(self):
        """The width of a chapter's box."""
        return (self.width - GAP * (self.columns - 1)) / self.columns

    @property
    def letters(self):
        """How many letters of a title fit in a line."""
        return int((self.box - 2 * PAD) / LETTER)


SHAPES = (Shape("wide", 760, 5), Shape("narrow", 340, 2))


def svg(parts, address, shape):
    """The map as markup; address(entry) is where a chapter's page lies."""
    body, y, count = [], 0, itertools.count(1)
    for number, part in enumerate(parts, 1):
        body.append(
            f'<text class="part part-{number}" x="0" y="{y + 20}">{_safe(part.caption)}</text>'
        )
        y += TOP
        for start in range(0, len(part.chapters), shape.columns):
            row = part.chapters[start : start + shape.columns]
            titles = [textwrap.wrap(entry.title, shape.letters) for entry in row]
            height = LINE * (max(map(len, titles)) + 1) + 2 * PAD + 4
            body.append(_track(len(row), y + height / 2, shape, number))
            for column, (entry, lines) in enumerate(zip(row, titles, strict=True)):
                x = column * (shape.box + GAP)
                name = f"{next(count)}"
                place = x, y, height
                body.append(_box(entry, name, lines, place, shape, number, address(entry)))
            y += height + GAP
        y += GAP
    told = "Map of the chapters: " + "; ".join(
        f"{part.caption}: {', '.join(entry.title for entry in part.chapters)}" for part in parts
    )
    return (
        f'<svg class="chapter-map chapter-map-{shape.name}" role="group" '
        f'aria-label="{_safe(told)}" '
        f'viewBox="0 0 {shape.width} {y - GAP:g}" xmlns="http://www.w3.org/2000/svg">'
        f"{''.join(body)}</svg>"
    )


def _track(boxes, y, shape, number):
    end = boxes * (shape.box + GAP) - GAP
    return f'<line class="track part-{number}" x1="0" y1="{y:g}" x2="{end:g}" y2="{y:g}"/>'


def _box(entry, name, lines, place, shape, part, address):
    x, y, height = place
    rows = "".join(
        f'<text x="{x + PAD:g}" y="{y + PAD + 12 + LINE * i:g}">{_safe(line)}</text>'
        for i, line in enumerate(lines)
    )
    time, foot = contents.in_words(entry.minutes), y + height - PAD
    dot = ""
    if contents.WEEKEND in entry.routes:
        dot = f'<circle class="dot" cx="{x + shape.box - PAD - 3:g}" cy="{foot - 4:g}" r="4.5"/>'
    short = ", on the short route" if dot else ""
    said = f"{name}. {entry.title}, {time}{short}"
    return (
        f'<a href="{_safe(address)}" aria-label="{_safe(said)}" class="part-{part}">'
        f'<rect x="{x:g}" y="{y:g}" width="{shape.box:g}" height="{height:g}" rx="8"/>{rows}'
        f'<text class="small" x="{x + PAD:g}" y="{foot:g}">{name} · {time}</text>'
        f"{dot}</a>"
    )


def _safe(text):
    return html.escape(text, quote=True)
