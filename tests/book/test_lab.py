"""A chapter in JupyterLab: all cells run, figures answer, folds are closed, exercises check."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from helpers.browser import browser  # noqa: F401 - a fixture
from helpers.short_form import code_cells

from llmbook.book.notebook import FOLDS
from llmbook.book.root import find_chapter, find_root

ROOT = find_root(os.path.dirname(__file__))
CHAPTER = "positional_encoding"

CELLS = (
    """() => jupyterapp.shell.currentWidget.content.model.sharedModel.cells.map(c => c.toJSON())"""
)
RUN_ALL = """() => jupyterapp.commands.execute('notebook:run-all-cells')"""
RUN_ONE = """async ([id, source]) => {
  const notebook = jupyterapp.shell.currentWidget.content;
  const index = notebook.widgets.findIndex(w => w.model.id === id);
  notebook.activeCellIndex = index;
  notebook.widgets[index].model.sharedModel.setSource(source);
  await jupyterapp.commands.execute('notebook:run-cell');
  return JSON.stringify(notebook.widgets[index].model.toJSON().outputs);
}"""


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab in a folder with the chapter's notebook."""
    if importlib.util.find_spec("jupyterlab") is None:
        pytest.skip('JupyterLab is missing: pip install -e ".[lab]"')
    shutil.copy(find_chapter(CHAPTER, ROOT), tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
        + ["--ServerApp.port_retries=0", "--IdentityProvider.token=", "--expose-app-in-browser"],
        cwd=tmp_path,
        env=os.environ
        | {"LLMBOOK_PROFILE": "smoke", "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdout=log,
        stderr=log,
    )
    address = f"http://127.0.0.1:{port}/"
    for _ in range(240):
        try:
            urllib.request.urlopen(address + "api/status", timeout=5).close()
            break
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None, (tmp_path / "lab.log").read_text()[-2000:]
            time.sleep(0.5)
    yield address
    server.terminate()
    server.wait(30)
    log.close()


@pytest.mark.slow
@pytest.mark.browser
def test_a_chapter_runs_answers_and_checks_in_jupyterlab(lab, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"{lab}lab/tree/{CHAPTER}.ipynb")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
    page.wait_for_function(
        "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
    )
    page.evaluate(RUN_ALL)
    deadline = time.monotonic() + 400
    while True:
        code = [c for c in page.evaluate(CELLS) if c["cell_type"] == "code"]
        if all(c["execution_count"] for c in code) or time.monotonic() > deadline:
            break
        page.wait_for_timeout(1000)
    wrong = [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    assert wrong == [] and all(c["execution_count"] for c in code)

    # what is closed on the page is closed here
    closed = [c["metadata"].get("jupyter", {}).get("source_hidden", False) for c in code]
    folds = [bool(set(tags) & set(FOLDS)) for tags, _ in code_cells(find_chapter(CHAPTER, ROOT))]
    assert closed[1:] == folds  # the first cell installs the package on Colab

    # markdown shows no markup
    text = page.locator(".jp-Notebook").inner_text()
    assert "{cite" not in text and "```" not in text and "Vaswani" in text

    # the figure answers, by its own slider and by a button in the text
    figure = page.locator('.llm-ia[data-figure="rotary"]')
    figure.scroll_into_view_if_needed()
    figure.locator("svg").first.wait_for()
    slider = figure.locator('[data-name="base"]')
    slider.click(position={"x": slider.bounding_box()["width"] - 3, "y": 15})
    assert figure.locator(".readout").inner_text().startswith("Base 500,000")
    page.locator('a[href*="#figure:rotary?base=8"]').first.click()
    page.wait_for_function(
        "document.querySelector('.llm-ia[data-figure=rotary] .readout').textContent"
        ".startsWith('Base 8')"
    )

    # an answer is checked
    given = next(c for c in code if "later_shuffle = ..." in c["source"])
    for answer, words in (("none", "not yet"), ("all but the last", "✓ right")):
        source = given["source"].replace("...", repr(answer))
        assert words in page.evaluate(RUN_ONE, [given["id"], source])
    page.close()
