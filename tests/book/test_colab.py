"""The chapters in Colab's environment: its package versions, an installed wheel, an empty folder.

`colab/packages.txt` holds Colab's versions. The environment gets exactly these and torch; llmbook comes as
a wheel, not editable, and must change none of them. Then each notebook runs from its first cell on, which
installs the package from a repository's tag as it would on Colab.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llmbook
from llmbook.book.address import set_address
from llmbook.book.root import chapters, find_root

pytestmark = pytest.mark.colab
ROOT = find_root(Path(__file__).parent)
PACKAGES = Path(__file__).parent / "colab" / "packages.txt"
TORCH = re.search(r"^torch==\S+", (ROOT / "requirements.txt").read_text(), re.MULTILINE).group()

# What a notebook finds on Colab: a module google.colab, imported before the first cell runs.
GOOGLE_COLAB = "class output:\n    enable_custom_widget_manager = staticmethod(lambda: None)\n"
KERNEL = "import google.colab, runpy; runpy.run_module('ipykernel_launcher', run_name='__main__', alter_sys=True)"


def run(*command, cwd="/"):
    """Run a command, away from this repository; its output, or a failure that shows it."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def versions(python):
    """{package: version} of an environment."""
    listed = json.loads(
        run(python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check")
    )
    return {re.sub(r"[-_.]+", "-", p["name"]).lower(): p["version"] for p in listed}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A copy of the repository whose address is itself, tagged with the version."""
    copy = tmp_path_factory.mktemp("colab") / "book"
    for name in run("git", "ls-files", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    set_address(copy, f"file://{copy}")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    run(*git, "init", "-q", cwd=copy), run(*git, "add", "-A", cwd=copy)
    (
        run(*git, "commit", "-q", "-m", "book", cwd=copy),
        run(*git, "tag", f"v{llmbook.__version__}", cwd=copy),
    )
    return copy


@pytest.fixture(scope="module")
def environment(tmp_path_factory, repository):
    """The python of an environment with Colab's versions and our wheel, and its versions before the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder / "env")
    python = folder / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-r", PACKAGES)
    run(python, "-m", "pip", "install", "-q", TORCH)
    before = versions(python)
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, repository)
    run(python, "-m", "pip", "install", "-q", next(folder.glob("llmbook-*.whl")))
    return python, before


def test_the_environment_is_colabs_and_installing_the_wheel_changes_no_version(environment):
    python, before = environment
    after = versions(python)
    wanted = dict(re.findall(r"^([\w.-]+)==(\S+)", PACKAGES.read_text(), re.MULTILINE))
    assert {name: before.get(name) for name in wanted} == wanted
    assert after.pop("llmbook") == llmbook.__version__
    assert after == before


@pytest.mark.parametrize("name", [path.stem for path in chapters(ROOT)])
def test_a_chapter_runs_on_colab_from_its_first_cell_on(
    name, environment, repository, tmp_path, monkeypatch
):
    import papermill

    python, before = environment
    (tmp_path / "fake" / "google").mkdir(parents=True)
    (tmp_path / "fake" / "google" / "colab.py").write_text(GOOGLE_COLAB)
    spec = tmp_path / "jupyter" / "kernels" / "colab" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(
        json.dumps(
            {
                "argv": [str(python), "-c", KERNEL, "-f", "{connection_file}"],
                "display_name": "colab",
                "language": "python",
            }
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.delenv("LLMBOOK_DATA", raising=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    run(
        python, "-m", "pip", "uninstall", "-q", "-y", "llmbook"
    )  # as on Colab: the first cell installs it
    papermill.execute_notebook(
        str(repository / "chapters" / f"{name}.ipynb"),
        str(tmp_path / "out.ipynb"),
        cwd=str(empty),
        kernel_name="colab",
        parameters={"profile": "smoke"},
        progress_bar=False,
        execution_timeout=600,
    )
    after = versions(python)
    assert after.pop("llmbook") == llmbook.__version__ and after == before
    code = "import importlib.metadata as m; print(m.distribution('llmbook').read_text('direct_url.json'))"
    origin = run(python, "-c", code)
    assert json.loads(origin)["vcs_info"]["requested_revision"] == f"v{llmbook.__version__}"
