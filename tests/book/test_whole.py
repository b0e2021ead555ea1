"""A build is whole or fails; what one left half done is not taken as good by the next."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest
from helpers.built_book import BUILD, ROOT, build
from helpers.small_book import write_chapter, write_pages
from sphinx.errors import ExtensionError

from llmbook.book import sphinx_whole
from llmbook.book.execute import executed_path

PAGES = {name: f"# {name}\n\nThe last word of {name}.\n" for name in ("one", "two")}
STRICT = ("-W", "-n", "--keep-going")


@pytest.fixture
def root(tmp_path):
    """A book of pages without notebooks; its path has spaces and letters of two scripts."""
    write_pages(tmp_path / "ein Büchlein мой", **PAGES)
    return tmp_path / "ein Büchlein мой"


def whole(root):
    """Whether each page of the small book is there to its end."""
    pages = [root / f"_build/html/chapters/{name}.html" for name in PAGES]
    return all(
        page.is_file()
        and f"The last word of {page.stem}." in page.read_text("utf-8")
        and page.read_text("utf-8").rstrip().endswith("</html>")
        for page in pages
    )


def make(root, *options):
    return build(root, *options, env={"PYTHONPATH": str(ROOT)})


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), STRICT], ids=["plain", "strict"])
def test_a_full_disk_fails_the_build_and_the_next_one_makes_every_page_anew(root, options):
    page = root / "_build/html/chapters/one.html"
    page.parent.mkdir(parents=True)
    page.symlink_to("/dev/full")
    done = make(root, *options)
    assert done.returncode != 0 and "No space left on device" in done.stdout, done.stdout[-3000:]
    assert "1 of its files could not be written" in done.stdout
    page.unlink()
    page.write_text("<html><body>cut sh")  # as a disk that fills up leaves it
    picture = root / "_build/jupyter_execute/0123.png"
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(b"cut sh")
    done = make(root, *options)
    assert done.returncode == 0 and whole(root), done.stdout[-3000:]
    assert "the last build did not end well" in done.stdout and not picture.exists()
    done = make(root, *options)
    assert done.returncode == 0 and "no targets are out of date" in done.stdout


@pytest.mark.slow
def test_a_build_waits_for_another_one_and_makes_up_for_one_that_was_killed(root):
    command = [sys.executable, "-u", "-c", BUILD, "build", *STRICT, str(root)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = lambda: subprocess.Popen(
        command, cwd=root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    first, begin = start(), time.monotonic()
    while not (root / "_build" / sphinx_whole.MARK).exists():
        assert first.poll() is None and time.monotonic() - begin < 300
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # in the middle of it
    second, said = start(), []
    while "waiting" not in "".join(said[-1:]):
        line = second.stdout.readline()
        assert line, "".join(said)
        said.append(line)
    assert second.poll() is None and not whole(root)
    first.kill()
    said.append(second.communicate(timeout=300)[0])
    assert second.returncode == 0 and whole(root), "".join(said)
    assert "the last build did not end well" in said[-1]
    first.communicate()


def app_in(folder, **options):
    """As much of Sphinx's application as the hooks use."""
    (folder / ".doctrees").mkdir(exist_ok=True)
    given = {"keep_going": False, "warningiserror": False, "_warncount": 0} | options
    app = SimpleNamespace(outdir=folder / "html", doctreedir=folder / ".doctrees", **given)
    app.connect = lambda *args, **kwargs: None
    sphinx_whole.setup(app)
    return app


@pytest.mark.parametrize(
    ("error", "options", "well"),
    [
        (None, {}, True),
        (None, {"_warncount": 1}, True),  # a plain build may have warnings
        (None, {"_warncount": 1, "keep_going": True}, False),  # and would not find them again
        (None, {"_warncount": 1, "warningiserror": True}, False),
        (ValueError(), {}, False),
    ],
)
def test_pages_are_read_anew_after_a_build_that_did_not_end_well(tmp_path, error, options, well):
    environment = tmp_path / ".doctrees" / sphinx_whole.ENVIRONMENT
    app = app_in(tmp_path, **options)
    sphinx_whole.begin(app, None)
    environment.write_text("what was read")
    sphinx_whole.fail_if_unwritten(app, error)
    sphinx_whole.end(app, error)
    again = app_in(tmp_path)
    sphinx_whole.begin(again, None)
    assert environment.exists() == well
    sphinx_whole.end(again, None)


def test_a_file_that_was_not_written_fails_the_build_and_other_warnings_do_not(tmp_path):
    log = logging.getLogger("sphinx.sphinx.builders.html")
    app = app_in(tmp_path)
    log.warning("a warning of %s", "another kind")
    sphinx_whole.fail_if_unwritten(app, None)
    app = app_in(tmp_path)
    log.warning("error writing file %s: %s", "a.html", OSError(28, "No space left on device"))
    log.warning("cannot copy static file %r", OSError(28, "No space left on device"))
    with pytest.raises(ExtensionError, match="2 of its files .*error writing file a.html.*space"):
        sphinx_whole.fail_if_unwritten(app, None)
    sphinx_whole.fail_if_unwritten(app_in(tmp_path), None)


def test_a_build_takes_the_lock_and_gives_it_back(tmp_path):
    app = app_in(tmp_path)
    sphinx_whole.begin(app, None)
    other = filelock.FileLock(tmp_path / "build.lock")
    with pytest.raises(filelock.Timeout):
        other.acquire(timeout=0)
    sphinx_whole.end(app, None)
    other.acquire(timeout=0)
    other.release()


# --- executions


LIMITED = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))  # a write beyond it fails: a full disk
from llmbook.book.run import main
sys.exit(main(["one", "--profile", "smoke"]))
"""


def test_a_copy_that_cannot_be_written_fails_its_chapter_and_leaves_none(tmp_path):
    (tmp_path / "_toc.yml").write_text("root: x\nchapters:\n- file: chapters/one\n")
    (tmp_path / "requirements.txt").write_text("")
    one = write_chapter(tmp_path, "one", "print('x' * 10)")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "File too large" in done.stdout, done.stdout + done.stderr
    assert not executed_path(one, "smoke").is_file()
    assert not list(Path(tmp_path / "_build/executed").glob("*.part.ipynb"))
