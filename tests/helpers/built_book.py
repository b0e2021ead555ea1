"""The built book, shared by all tests and all workers; and small books built to be broken."""

import contextlib
import functools
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest

from llmbook.book.pdf import BUILD

ROOT = Path(__file__).resolve().parents[2]


def build(root, *options, env=None):
    """Run `jupyter-book build` on a folder; returns the finished process with its output."""
    return subprocess.run(
        [sys.executable, "-c", BUILD, "build", *options, str(root)],
        cwd=root,
        env={**os.environ, **(env or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="session")
def book():
    """The folder of the book's pages, built if anything changed: once for all workers of a run."""
    pages = ROOT / "_build" / "html"
    pages.parent.mkdir(exist_ok=True)
    stamp = pages.parent / "tests.stamp"
    this_run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    with filelock.FileLock(pages.parent / "tests.lock"):
        if not (stamp.is_file() and stamp.read_text() == this_run and pages.is_dir()):
            done = build(ROOT, "-W", "-n", "--keep-going")
            assert done.returncode == 0, done.stdout[-6000:]
            stamp.write_text(this_run)
    return pages


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Nothing: the tests look at the browser's side."""


@contextlib.contextmanager
def served(folder):
    """The folder at a local address, for the length of the block."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
