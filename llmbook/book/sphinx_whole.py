"""A build is whole or fails, and what a build left half done is never taken as good by the next.

Builds of one book go one after the other: Sphinx's own files are not made for two at a time. A
mark stands in `_build/` while one runs, and stays where it was killed or failed: the next then
reads and writes every page anew (chapters keep their executed copies). A file that could not be
written, as when the disk is full, is only a warning of Sphinx's; here it fails the build.
"""

import logging
import shutil
from pathlib import Path

from sphinx.errors import ExtensionError
from sphinx.util import logging as sphinx_logging

logger = sphinx_logging.getLogger(__name__)
MARK = "build.unfinished"
ENVIRONMENT = "environment.pickle"  # what Sphinx knows of the pages that it has read


class _Unwritten(logging.Handler):
    """Keeps the warnings that an OSError came with."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        args = record.args if isinstance(record.args, tuple) else (record.args,)
        message = record.getMessage()
        if any(isinstance(each, OSError) for each in args) and message not in self.messages:
            self.messages.append(message)  # once: Sphinx may hand a record on twice


def setup(app):
    """Connect it; `sphinx.setup` calls this."""
    app.llmbook_unwritten = _Unwritten()
    logging.getLogger("sphinx").addHandler(app.llmbook_unwritten)
    app.connect("config-inited", begin, priority=1)  # before what Sphinx has read is loaded
    app.connect("build-finished", fail_if_unwritten, priority=998)
    app.connect("build-finished", end, priority=999)


def begin(app, config):
    """Wait for another build of this book, then clear away what one left that did not end well."""
    import filelock

    folder = Path(app.outdir).parent
    folder.mkdir(parents=True, exist_ok=True)
    app.llmbook_lock = filelock.FileLock(folder / "build.lock", is_singleton=True)
    try:
        app.llmbook_lock.acquire(timeout=0)
    except filelock.Timeout:
        print("another build of this book is running: waiting for its end", flush=True)
        app.llmbook_lock.acquire()
    if (folder / MARK).exists():
        logger.info("llmbook: the last build did not end well, so every page is made anew")
        (Path(app.doctreedir) / ENVIRONMENT).unlink(missing_ok=True)
        # pictures lie here under a hash of what they should hold: one cut short would stay
        shutil.rmtree(folder / "jupyter_execute", ignore_errors=True)
    (folder / MARK).touch()


def fail_if_unwritten(app, error):
    """Raise ExtensionError where a file of the pages could not be written."""
    logging.getLogger("sphinx").removeHandler(app.llmbook_unwritten)
    lost = app.llmbook_unwritten.messages
    if lost and not error:
        raise ExtensionError(
            f"the book is not whole: {len(lost)} of its files could not be written. "
            f"The first: {lost[0]}. Once there is room, build it again."
        )


def end(app, error):
    """Take the mark away after a build without errors and, where they count, without warnings."""
    warnings = app._warncount if app.keep_going or app.warningiserror else 0
    if not error and not warnings:
        (Path(app.outdir).parent / MARK).unlink(missing_ok=True)
    app.llmbook_lock.release(force=True)
