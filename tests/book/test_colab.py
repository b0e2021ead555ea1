"""The chapters in Colab's environment: its package versions, an installed wheel, an empty folder.

`colab/packages.txt` holds Colab's versions. The environment gets exactly these and torch;
llmbook comes as a wheel, not editable, and must change none of them. Then each notebook runs
from its first cell on, which installs the package from a repository's tag as it would on Colab:
side by side, each in an environment of its own that lies over the common one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import llmbook
from llmbook.book.address import set_address
from llmbook.book.execute import ONE_THREAD, how_many
from llmbook.book.root import chapters, find_root

pytestmark = pytest.mark.colab
ROOT = find_root(Path(__file__).parent)
PACKAGES = Path(__file__).parent / "colab" / "packages.txt"
TORCH = re.search(r"^torch==\S+", (ROOT / "requirements.txt").read_text(), re.MULTILINE).group()

# What a notebook finds on Colab: a module google.colab, imported before the first cell runs.
GOOGLE_COLAB = "class output:\n    enable_custom_widget_manager = staticmethod(lambda: None)\n"
KERNEL = (
    "import google.colab, runpy; "
    "runpy.run_module('ipykernel_launcher', run_name='__main__', alter_sys=True)"
)
ORIGIN = (
    "import importlib.metadata as m; print(m.distribution('llmbook').read_text('direct_url.json'))"
)


def run(*command, cwd="/", env=None):
    """Run a command, away from this repository; its output, or a failure that shows it."""
    words = [str(c) for c in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)
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
def environment(tmp_path_factory):
    """The python of an environment with Colab's versions, without llmbook, and its versions."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder / "env")
    python = folder / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-r", PACKAGES)
    run(python, "-m", "pip", "install", "-q", TORCH)
    return python, versions(python)


def over(python, folder):
    """The python of a new, empty environment that has all of another one's packages below it."""
    below = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    run(python, "-m", "venv", "--without-pip", folder)
    above = folder / "bin" / "python"
    own = run(above, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(own, "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
    return above


def test_the_environment_is_colabs_and_installing_the_wheel_changes_no_version(
    environment, repository, tmp_path
):
    base, before = environment
    wanted = dict(re.findall(r"^([\w.-]+)==(\S+)", PACKAGES.read_text(), re.MULTILINE))
    assert {name: before.get(name) for name in wanted} == wanted
    python = over(base, tmp_path / "env")
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, repository)
    run(python, "-m", "pip", "install", "-q", next(tmp_path.glob("llmbook-*.whl")))
    after = versions(python)
    assert after.pop("llmbook") == llmbook.__version__
    assert after == before


def run_on_colab(name, base, repository, folder):
    """Run a chapter as Colab does; its environment's versions afterwards, and llmbook's origin."""
    python = over(base, folder / "env")
    (folder / "fake" / "google").mkdir(parents=True)
    (folder / "fake" / "google" / "colab.py").write_text(GOOGLE_COLAB)
    spec = folder / "jupyter" / "kernels" / "colab" / "kernel.json"
    spec.parent.mkdir(parents=True)
    kernel = [str(python), "-c", KERNEL, "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": kernel, "display_name": "colab", "language": "python"}))
    (folder / "empty").mkdir()
    env = os.environ | ONE_THREAD
    env |= {"JUPYTER_PATH": str(folder / "jupyter"), "PYTHONPATH": str(folder / "fake")}
    env.pop("LLMBOOK_DATA", None)
    papermill = (sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "colab")
    options = ("-p", "profile", "smoke", "--execution-timeout", "600", "--cwd", folder / "empty")
    notebook = repository / "chapters" / f"{name}.ipynb"
    run(*papermill, *options, notebook, folder / "out.ipynb", env=env)
    return versions(python), json.loads(run(python, "-c", ORIGIN))


@pytest.fixture(scope="module")
def executions(request, environment, repository, tmp_path_factory):
    """{chapter: what `run_on_colab` gives, once it is there}, for the chapters to be tested."""
    with ThreadPoolExecutor(how_many([])) as pool:
        yield {
            name: pool.submit(
                run_on_colab, name, environment[0], repository, tmp_path_factory.mktemp(name)
            )
            for item in request.session.items
            if item.path == request.path and "name" in getattr(item, "fixturenames", ())
            for name in [item.callspec.params["name"]]
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", [path.stem for path in chapters(ROOT)])
def test_a_chapter_runs_on_colab_from_its_first_cell_on(name, environment, executions):
    after, origin = executions[name].result()
    assert after.pop("llmbook") == llmbook.__version__ and after == environment[1]
    assert origin["vcs_info"]["requested_revision"] == f"v{llmbook.__version__}"
