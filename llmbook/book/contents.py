"""The book's contents: its parts and chapters, and how long each takes.

Parts and their order stand in `_toc.yml`, a chapter's title and the time that reading and
exercises take in the notebook's own words ("**Time:** fifty minutes of reading, an hour of
exercises"), the time that running it takes in its executed copy. A notebook whose metadata say
`book.routes: ["weekend"]` belongs to the short route.
"""

import dataclasses
import re
from pathlib import Path

from llmbook.book.root import listed, read_notebook

WEEKEND = "weekend"
_SAID = re.compile(r"\*\*Time:\*\* (.+?) of reading, (.+?) (?:of|for the) exercises")
_CHECK = re.compile(r"""^\s*check\(\s*["']([\w./-]+)["']""", re.MULTILINE)
_TENS = dict(
    zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 91, 10))
)
_ONES = dict(zip("one two three four five six seven eight nine ten".split(), range(1, 11)))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A chapter: `page` as `_toc.yml` names it, minutes as it states them.

    seconds: of one core, in which it ran; None where nothing was executed.
    """

    page: str
    title: str
    reading: int
    exercises: int
    seconds: float | None
    routes: tuple
    checked: int = 0  # exercises that the notebook checks

    @property
    def name(self):
        """The notebook's name."""
        return self.page.rpartition("/")[2]

    @property
    def minutes(self):
        """Reading and exercises together."""
        return self.reading + self.exercises


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the book: its caption and its chapters."""

    caption: str
    chapters: tuple


def parts(root, executed=None):
    """The parts of the book in `root` that hold notebooks, in order.

    executed: {page: path of the executed copy}, which tells how long each ran.
    """
    found, executed = [], executed or {}
    for caption, pages in listed(Path(root)):
        notebooks = [page for page in pages if (Path(root) / f"{page}.ipynb").is_file()]
        if notebooks:
            found.append(
                Part(caption, tuple(entry(root, page, executed.get(page)) for page in notebooks))
            )
    return found


def entries(listed):
    """All chapters of some parts, in order."""
    return [entry for part in listed for entry in part.chapters]


def entry(root, page, copy=None):
    """The chapter that `page` names; copy: its executed copy. ValueError where it says no time."""
    source = read_notebook(Path(root) / f"{page}.ipynb")
    text = "\n".join("".join(c["source"]) for c in source["cells"] if c["cell_type"] == "markdown")
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    said = _SAID.search(" ".join(text.split()))
    if said is None:
        raise ValueError(f"{page} must say '**Time:** an hour of reading, an hour of exercises.'")
    ran = read_notebook(copy)["metadata"].get("llmbook", {}) if copy else {}
    return Entry(
        page,
        title.group(1).strip() if title else page.rpartition("/")[2],
        minutes(said[1]),
        minutes(said[2]),
        ran.get("cpu_seconds"),
        tuple(source["metadata"].get("book", {}).get("routes", ())),
        len({id for c in source["cells"] for id in _CHECK.findall("".join(c["source"]))}),
    )


def minutes(words):
    """Minutes that words say: "an hour and a quarter", "forty-five minutes", "45 minutes".

    Raises ValueError for words that say something else.
    """
    total, number, unit = 0, None, None
    for word in words.lower().replace("-", " ").split():
        if word in ("hour", "hours"):
            total, number, unit = total + 60 * (1 if number is None else number), None, "hours"
        elif word in ("minute", "minutes"):
            total, number, unit = total + (number or 0), None, "minutes"
        elif word in ("half", "quarter") and unit == "hours":
            total += 30 if word == "half" else 15
        elif word.isdigit() or word in _TENS or word in _ONES:
            value = int(word) if word.isdigit() else _TENS.get(word) or _ONES[word]
            number = (number or 0) + value
        elif word not in ("a", "an", "and", "about"):
            raise ValueError(f"a time reads like 'an hour' or 'fifty minutes': got {words!r}")
    total += number or 0
    if not total:
        raise ValueError(f"a time reads like 'an hour' or 'fifty minutes': got {words!r}")
    return total


# --- sums


def total(chapters, what):
    """The sum of `what` ("reading", "exercises", "seconds", "minutes") over chapters."""
    return sum(getattr(chapter, what) for chapter in chapters)


def shared_out(chapters, groups):
    """Chapters in at most `groups` runs of neighbours, the longest run as short as can be."""
    lengths = [chapter.minutes for chapter in chapters]
    groups = min(groups, len(chapters))
    # best[k][n]: (the longest run, where the last begins) of the first n chapters in k runs
    best = [{0: (0, 0)}]
    for k in range(1, groups + 1):
        row = {}
        for n in range(k, len(chapters) + 1):
            row[n] = min(
                (max(best[k - 1][m][0], sum(lengths[m:n])), m)
                for m in range(k - 1, n)
                if m in best[k - 1]
            )
        best.append(row)
    found, end = [], len(chapters)
    for k in range(groups, 0, -1):
        start = best[k][end][1]
        found.insert(0, chapters[start:end])
        end = start
    return found


def in_words(minutes):
    """Minutes as a reader plans with them: to five minutes, "1 h 50 min"."""
    rounded = 5 * round(minutes / 5)
    hours, rest = divmod(rounded, 60)
    return " ".join(filter(None, [f"{hours} h" if hours else "", f"{rest} min" if rest else ""]))
