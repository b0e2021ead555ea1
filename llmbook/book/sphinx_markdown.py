"""Plain markdown on the page: links become citations and buttons, block quotes become boxes.

A notebook's markdown holds nothing that only this program reads:

* a citation is a link to the paper whose title is its key in the bibliography:
  `[Vaswani et al. 2017](https://arxiv.org/abs/1706.03762 "vaswani2017attention")`. On the page it
  leads to the entry among the references;
* a link to another chapter whose title is a row of the ledger leads to that claim's box there:
  `[judged there](scaling.ipynb "scale-few-shot-appears")`;
* a box is a block quote that begins with bold words, which become its title;
* `[set the base to 100](#figure:rotary?base=100)` sets a figure, `[this](#claim-ID)` opens the
  claim with that id: see static/llmbook.js.

The other links, and `<details>`, are what the parser makes of them.
"""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinxcontrib.bibtex.citation_target import CitationTarget
from sphinxcontrib.bibtex.roles import CitationRef

logger = logging.getLogger(__name__)
KEY = re.compile(r"[a-z][a-z0-9]*\d{4}[a-z0-9]*")  # bahdanau2015neural
ROW = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")  # tok-skip-gram
LEADS_TO = "leads-to-claim-"
KINDS = {"predict first": "tip", "how far does this go?": "warning", "beware": "warning"}


def setup(app):
    """Connect the transforms; `llmbook.book.sphinx` calls this."""
    app.add_transform(PlainMarkdown)
    app.add_post_transform(CitationsToReferences)
    app.add_post_transform(LinksToClaims)


class PlainMarkdown(SphinxTransform):
    """Citations, boxes and buttons of one page, before links are resolved."""

    default_priority = 200

    def apply(self, **kwargs):
        for link in list(self.document.findall(nodes.reference)):
            self.citation(link)
            self.button(link)
        for link in list(self.document.findall(addnodes.pending_xref)):
            self.claim(link)
        for quote in list(self.document.findall(nodes.block_quote)):
            self.box(quote)

    def citation(self, link):
        key = link.get("reftitle", "")
        if not KEY.fullmatch(key):
            return
        domain = self.env.get_domain("cite")
        if key not in domain.bibdata.data.entries:
            logger.warning("no entry of the bibliography has the key %s", key, location=link)
            return
        link["cites"] = key
        where = CitationRef("", self.env.docname, link.line or 0, [CitationTarget(key, "", "")])
        domain.citation_refs.append(where)

    def button(self, link):
        target = link.get("refuri", "")
        for start, name in (("#figure:", "figure-button"), ("#claim-", "claim-link")):
            if target.startswith(start):
                link.attributes.pop("id_link", None)  # there is no such place for the parser
                link["classes"].append(name)
                link["internal"] = True

    def claim(self, link):
        row = link.get("title", "")
        if ROW.fullmatch(row):  # around it: once its page is known another stands in its place
            around = nodes.inline(classes=[LEADS_TO + row])
            link.replace_self(around)
            around += link

    def box(self, quote):
        first = quote.children[0] if quote.children else None
        if not isinstance(first, nodes.paragraph):
            return
        while first.children and not first.children[0].astext():
            first.remove(first.children[0])  # the parser begins a line with an empty text
        bold = first.children[0] if first.children else None
        if not isinstance(bold, nodes.strong):
            return
        words = bold.astext().rstrip(".:")
        box = nodes.admonition(classes=[KINDS.get(words.lower(), "note")])
        box.line, box.source = quote.line, quote.source
        box += nodes.title("", words)
        first.remove(bold)
        if first.children and isinstance(first.children[0], nodes.Text):
            rest = first.children[0].astext().lstrip(" .:\n")
            first.replace(first.children[0], [nodes.Text(rest)] if rest else [])
        if not first.children:
            quote.remove(first)
        box += list(quote.children)
        quote.replace_self(box)


class CitationsToReferences(SphinxPostTransform):
    """Citations lead to their entries, once it is known on which page those stand."""

    default_priority = 5

    def run(self, **kwargs):
        entries = {c.key: c for c in self.env.get_domain("cite").citations}
        for link in list(self.document.findall(nodes.reference)):
            entry = entries.get(link.get("cites"))
            if entry is None:  # a book without a list of references: the link to the paper stays
                continue
            page = entry.bibliography_key.docname
            start = self.app.builder.get_relative_uri(self.env.docname, page)
            link["refuri"] = f"{start}#{entry.citation_id}"
            link["internal"] = True
            link["reftitle"] = re.sub(r"[{}]", "", entry.entry.fields.get("title", ""))
            link["classes"].append("citation")


class LinksToClaims(SphinxPostTransform):
    """A link to another chapter leads to the claim that it names, once it has an address."""

    default_priority = 15  # behind Sphinx's own resolving of links

    def run(self, **kwargs):
        for around in list(self.document.findall(nodes.inline)):
            name = next(iter(around["classes"]), "")
            if name.startswith(LEADS_TO):
                for link in around.findall(nodes.reference):
                    link["refuri"] += "#claim-" + name.removeprefix(LEADS_TO)
                around.parent.replace(around, around.children)
