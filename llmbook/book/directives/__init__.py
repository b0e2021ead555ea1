"""Parts of pages that are drawn from all executed chapters, as Sphinx directives.

Each page that holds one is read again when any chapter was executed again. At the head of every
chapter's page a line says how long it takes and leads to the page on running it.
"""

from llmbook.book.directives.listing import Colab, Course, Map, Routes, put_head
from llmbook.book.directives.live import Live
from llmbook.book.directives.races import Benchmarks
from llmbook.book.directives.settled import Claims
from llmbook.book.directives.status import Status
from llmbook.book.directives.systems import Implemented

DIRECTIVES = (Claims, Status, Map, Routes, Course, Benchmarks, Implemented, Colab, Live)


def setup(app):
    """Connect the directives; `llmbook.book.sphinx` calls this."""
    for directive in DIRECTIVES:
        app.add_directive(directive.__name__.lower(), directive)
    app.connect("env-purge-doc", forget)
    app.connect("doctree-read", put_head)


def forget(app, env, docname):
    """A page that is read again says anew whether it reports on executions."""
    getattr(env, "llmbook_reports", set()).discard(docname)
