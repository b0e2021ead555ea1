"""`{live}`: a chapter's interactive figure on another page."""

import html
import json

from docutils import nodes
from docutils.parsers.rst import directives
from myst_nb.sphinx_ import NbMetadataCollector

from llmbook.book import report
from llmbook.book.directives.base import Report


class Live(Report):
    """`{live} NAME`: the first interactive figure of that name that a chapter holds.

    It comes from the executed copy, so it is the chapter's, with its weights. `:from:` names the
    chapter, `:caption:` replaces what stands below.
    """

    required_arguments = 1
    option_spec = {"from": directives.unchanged_required, "caption": directives.unchanged}

    def draw(self):
        chapter = self.options["from"]
        if chapter not in self.pages:
            raise self.error(f"{chapter} is not in this book")
        executed = self.executed[self.pages[chapter]]
        found = report.figure(executed, self.arguments[0])
        if found is None:
            raise self.error(f"{chapter} has no figure {self.arguments[0]}")
        view, state = found
        if "caption" in self.options:
            state["state"][view["model_id"]]["state"]["caption"] = self.options["caption"]
        self.scripts(state)
        alt = state["state"][view["model_id"]]["state"]["alt"]
        script = f'<script type="{report.VIEW_MIME}">{json.dumps(view)}</script>'
        box = nodes.container(classes=["cell", "cell_output", "live"])
        box += nodes.container(
            "", nodes.raw("", script, format="html"), classes=["output", "widget_html"]
        )
        box += nodes.raw(
            "", f"<noscript>[interactive: {html.escape(alt)}]</noscript>", format="html"
        )
        return [box]

    def scripts(self, state):
        """The page's scripts: the widget's state and what draws it, as for a notebook."""
        add = NbMetadataCollector.add_js_file
        body = {"type": report.STATE_MIME, "body": json.dumps(state)}
        add(self.env, self.env.docname, "ipywidgets_state", None, body)
        for number, (path, options) in enumerate(self.env.config.nb_ipywidgets_js.items()):
            add(self.env, self.env.docname, f"ipywidgets_{number}", path, dict(options))
