"""How the page of references is set: by first author and year, as the text cites them.

Each entry is headed as a chapter names it, "Vaswani et al. 2017", and has one address: arXiv's
where a paper is there, else the publisher's, else its own.
"""

import unicodedata
from collections import Counter

from pybtex.plugin import register_plugin
from pybtex.richtext import Text
from pybtex.style.formatting import toplevel
from pybtex.style.formatting.unsrt import Style as Plain
from pybtex.style.formatting.unsrt import date
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.sorting import BaseSortingStyle
from pybtex.style.template import sentence

NAME = "llmbook"


def surname(person):
    """A person's last name, or an organisation's, as it is read."""
    return str(Text.from_latex(" ".join(person.prelast_names + person.last_names)))


def short_name(entry):
    """Vaswani et al. 2017: how the text names a publication."""
    people = entry.persons.get("author", [])
    named = [surname(person) for person in people if str(person) != "others"]
    who = f"{named[0]} et al." if len(people) > 2 else " and ".join(named)
    return f"{who} {entry.fields['year']}"


def letters(text):
    """For the alphabet: small letters without accents."""
    return "".join(
        c for c in unicodedata.normalize("NFKD", text) if c.isalnum() or c == " "
    ).lower()


class ByAuthorAndYear(BaseSortingStyle):
    """The first author's name, then the year, then the others."""

    def sorting_key(self, entry):
        people = [letters(surname(person)) for person in entry.persons.get("author", [])]
        return people[:1], entry.fields["year"], people[1:], letters(entry.fields["title"])


class ShortNames(BaseLabelStyle):
    """`short_name`, with a, b, … where two are alike."""

    def format_labels(self, sorted_entries):
        names = [short_name(entry) for entry in sorted_entries]
        total, seen = Counter(names), Counter()
        for name in names:
            seen[name] += 1
            yield name + (chr(96 + seen[name]) if total[name] > 1 else "")


class Style(Plain):
    """What an entry says, with one address."""

    default_name_style = "lastfirst"
    default_sorting_style = NAME
    default_label_style = NAME

    def get_misc_template(self, entry):
        if entry.fields.get("howpublished") != "arXiv preprint":
            return super().get_misc_template(entry)
        parts = self.format_names("author"), self.format_title(entry, "title"), sentence[date]
        return toplevel[(*parts, self.format_web_refs(entry))]

    def format_web_refs(self, entry):
        fields = entry.fields
        if "eprint" in fields:
            return self.format_eprint(entry)
        return self.format_doi(entry) if "doi" in fields else super().format_web_refs(entry)


def register():
    """Let the bibliography find the style by its name."""
    for group, plugin in (
        ("pybtex.style.formatting", Style),
        ("pybtex.style.sorting", ByAuthorAndYear),
        ("pybtex.style.labels", ShortNames),
    ):
        register_plugin(group, NAME, plugin, force=True)
