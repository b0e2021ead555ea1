"""Executed copies are valid while nothing changed of what they were made of, and no longer."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.compare_copies import CLAIM_MIME, differences
from helpers.small_book import code_notebook, write_chapter

from llmbook.book.copies import Tree, job_of, last_run, why_stale
from llmbook.book.execute import ensure_executed, executed_path
from llmbook.book.root import find_root, read_notebook, with_ids
from llmbook.book.run import listed
from llmbook.figures import LSTMGates

ROOT = find_root(Path(__file__).parent)
SCRIPT = Path(sys.modules[LSTMGates.__module__].__file__).relative_to(ROOT).with_suffix(".js")

USES_MUCH = """
from llmbook.book import check, claim, start
run = start("recurrent", profile, seed)
claim("rnn-cell-formula", 0.0, holds=True)
from llmbook.figures import LSTMGates
shown = LSTMGates
from llmbook.models import load
_ = load("small")
_ = check("recurrent/last", ...)
"""
USES_LITTLE = """
from llmbook.book import start
run = start("attention", profile, seed)
print(run.seed)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the package with two executed chapters: `recurrent` uses much."""
    root = tmp_path_factory.mktemp("tree")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "llmbook", root / "llmbook", ignore=skip)
    (root / "requirements.txt").write_text("torch\n")
    (root / "_toc.yml").write_text(
        "root: x\nchapters:\n- file: chapters/recurrent\n- file: chapters/attention\n"
    )
    write_chapter(root, "recurrent", USES_MUCH)
    write_chapter(root, "attention", USES_LITTLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root))
        ensure_executed(notebooks(root), "smoke")
    return root


def notebooks(root):
    return [root / "chapters" / f"{name}.ipynb" for name in ("recurrent", "attention")]


def would_run(root):
    """The chapters that would be executed, each with the reason."""
    reasons = {n.stem: why_stale(job_of(n, "smoke")) for n in notebooks(root)}
    told = listed(notebooks(root), "smoke", 0)
    assert [line.split()[0] for line in told.splitlines() if "would run" in line] == [
        name for name, why in reasons.items() if why
    ]
    return {name: why for name, why in reasons.items() if why}


EDITS = {  # a file of each kind: which chapters run again when it changes
    "a module that both use": ("llmbook/book/claims.py", {"recurrent", "attention"}),
    "a module that one uses": ("llmbook/models/gpt.py", {"recurrent"}),
    "a module that none uses": ("llmbook/kernels/flash_attention.py", set()),
    "the executing side": ("llmbook/book/execute.py", set()),
    "the script of a figure": (SCRIPT.as_posix(), {"recurrent"}),
    "the checks of a chapter": ("llmbook/book/exercises/recurrent.py", {"recurrent"}),
    "the checks of another": ("llmbook/book/exercises/tokenization.py", set()),
    "weights": ("llmbook/weights/small/model.safetensors", {"recurrent"}),
    "weights that none loads": ("llmbook/weights/encoder/model.safetensors", set()),
    "a chapter's ledger": ("llmbook/book/ledger/recurrent.json", {"recurrent"}),
    "another chapter's ledger": ("llmbook/book/ledger/moe.json", set()),
    "what was recorded": ("llmbook/book/recorded/recurrent.json", {"recurrent"}),
    "what was recorded of another": ("llmbook/book/recorded/mamba.json", set()),
    "the requirements": ("requirements.txt", {"recurrent", "attention"}),
    "a notebook": ("chapters/attention.ipynb", {"attention"}),
}


@pytest.mark.parametrize("file, expected", EDITS.values(), ids=EDITS)
def test_an_edit_makes_only_the_chapters_run_again_that_used_the_file(tree, file, expected):
    path = tree / file
    before = path.read_bytes()
    try:
        if path.suffix == ".ipynb":
            path.write_text(before.decode().replace("run.seed", "run.seed + 1"))
        else:
            path.write_bytes(before + b"\n")
        found = would_run(tree)
        assert set(found) == expected
        name = "the notebook" if path.suffix == ".ipynb" else file
        assert all(name in why for why in found.values()), found
    finally:
        path.write_bytes(before)
    assert would_run(tree) == {}


def test_what_ships_is_opened_where_the_recorder_hears_it():
    """safetensors maps files by itself; these modules open a JSON file beside it, or read none
    that ships."""
    known = {"models/pretrained/files", "alignment/lora", "training/checkpoint", "quantization"}
    maps = re.compile(r"\b(load_file|safe_open)\b")
    package, found = ROOT / "llmbook", set()
    for file in [*package.rglob("*.py"), *ROOT.glob("chapters/*.ipynb")]:
        if maps.search(file.read_text(encoding="utf-8")) and package / "bench" not in file.parents:
            inside = file.relative_to(package) if package in file.parents else file
            found.add(inside.with_suffix("").as_posix())
    assert found == known


def test_new_files_count_where_they_hide_a_used_one_and_not_elsewhere(tree):
    for file, expected in (
        ("llmbook/models/gpt/__init__.py", {"recurrent"}),  # a package hides the module beside it
        ("llmbook/models/brand_new.py", set()),
        ("llmbook/book/ledger/brand_new.json", set()),
        ("llmbook/weights/brand_new/config.json", {"recurrent"}),  # `load` lists what ships
    ):
        path = tree / file
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        assert set(would_run(tree)) == expected, file
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    assert would_run(tree) == {}


def test_a_file_that_goes_away_counts(tree):
    script = tree / SCRIPT
    script.rename(script.with_suffix(".gone"))
    assert SCRIPT.name in would_run(tree)["recurrent"]
    script.with_suffix(".gone").rename(script)


def test_a_copy_tells_what_it_was_made_of_and_how_it_ran(tree):
    told = last_run(job_of(notebooks(tree)[0], "smoke"))
    assert {"the notebook", "requirements.txt", SCRIPT.as_posix()} <= set(told["made_of"])
    assert told["unseen"] == [] and told["seconds"] > 0 and told["cpu_seconds"] > 0
    copy = read_notebook(executed_path(notebooks(tree)[0], "smoke"))
    sources = ["".join(c["source"]) for c in copy["cells"]]
    assert not any("_llmbook_usage" in source for source in sources)
    assert not any("vnd.llmbook.used" in json.dumps(c) for c in copy["cells"])


def test_a_copy_without_a_record_is_stale_and_says_so(tree):
    copy = executed_path(notebooks(tree)[1], "smoke")
    before = copy.read_text()
    notebook = json.loads(before)
    del notebook["metadata"]["llmbook"]["made_of"]
    copy.write_text(json.dumps(notebook))
    assert "does not say what it was made of" in would_run(tree)["attention"]
    copy.write_text("{")
    assert "attention" in would_run(tree)
    copy.write_text(before)
    assert would_run(tree) == {}


@pytest.mark.parametrize(
    "source, reason",
    [
        ("import subprocess, sys; subprocess.run([sys.executable, '-c', '0'])", "it starts"),
        ("import os; _ = os.system('python3 -c 0')", "it starts"),
        ("import os\nif os.fork() == 0:\n    os._exit(0)", "it forks"),
        ("import subprocess; subprocess.run(['git', '--version'])", None),
        ("import subprocess; subprocess.run('true && python3 -c 0', shell=True)", "it starts"),
        ("import multiprocessing, os", None),
    ],
)
def test_a_chapter_whose_other_processes_may_use_the_book_counts_as_using_all(
    tmp_path, source, reason
):
    found = in_a_python(tmp_path, source)["unseen"]
    assert any(reason in why for why in found) if reason else found == [], found


def in_a_python(root, source):
    """What the recorder finds in a fresh Python that runs the source in the folder."""
    from llmbook.book import usage

    code = (
        f"space = {{}}\nexec(open({usage.__file__!r}).read(), space)\n"
        f"usage = space['Usage']({str(root)!r})\n{source}\n"
        "import json; print(json.dumps(usage.found()))"
    )
    run = [sys.executable, "-P", "-c", code]
    done = subprocess.run(run, cwd=root, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_everything_opened_in_the_folder_is_recorded_and_nothing_of_the_environment(tmp_path):
    for name in ("a.txt", "_build/b.txt", ".venv/c.txt", "lib/site-packages/d.py", "sub/e.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = in_a_python(
        tmp_path,
        "import os, pathlib\n"
        "for path in pathlib.Path('.').rglob('*.txt'): path.read_text()\n"
        "pathlib.Path('lib/site-packages/d.py').read_text()\n"
        "try: open('missing.json')\nexcept FileNotFoundError: pass\n"
        "os.chdir('sub'); open('e.txt'); os.listdir('../lib'); open(os.devnull)",
    )
    assert found["files"] == ["a.txt", "missing.json", "sub/e.txt"]
    assert "lib" in found["folders"]


def test_a_file_that_was_read_and_then_replaced_counts(tmp_path):
    (tmp_path / "log.txt").write_text("before")
    found = in_a_python(
        tmp_path,
        "from pathlib import Path; import os\nPath('log.txt').read_text()\n"
        "Path('new').write_text('after'); os.replace('new', 'log.txt')",
    )
    assert found["files"] == ["log.txt"]


def test_a_file_given_to_another_program_counts(tmp_path):
    (tmp_path / "scan.c").write_text("int f(void) { return 1; }")
    found = in_a_python(
        tmp_path, "import subprocess; subprocess.run(['cat', 'scan.c'], capture_output=True)"
    )
    assert found["files"] == ["scan.c"] and found["unseen"] == []


def test_what_a_chapter_makes_itself_is_not_what_it_was_made_of(tmp_path):
    (tmp_path / "old.txt").write_text("overwritten, never read")
    found = in_a_python(
        tmp_path,
        "import os, pathlib\nfrom pathlib import Path\n"
        "Path('new.txt').write_text('1'); Path('new.txt').read_text()\n"
        "Path('old.txt').write_text('1'); Path('old.txt').read_text()\n"
        "Path('touched').touch(); os.mkdir('out'); Path('out/a').write_text('1')\n"
        "os.listdir('out'); os.rename('out', 'moved'); Path('moved/a').read_text()",
    )
    assert found["files"] == [] and found["folders"] == []


def test_an_import_that_finds_nothing_counts_once_there_is_something(tmp_path):
    (tmp_path / "llmbook").mkdir()
    (tmp_path / "llmbook/__init__.py").write_text("")
    source = (
        "import sys; sys.path.insert(0, '.')\nimport llmbook\n"
        "try: import llmbook.absent\nexcept ImportError: pass"
    )
    found = in_a_python(tmp_path, source)["files"]
    assert found == ["llmbook/__init__.py", "llmbook/absent.py", "llmbook/absent/__init__.py"]


def test_a_file_that_changes_during_the_execution_makes_its_copy_stale(tmp_path):
    (tmp_path / "_toc.yml").write_text("root: x\nchapters:\n- file: chapters/one\n")
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "data.txt").write_text("before")
    one = write_chapter(
        tmp_path,
        "one",
        "from pathlib import Path\nfile = Path('../data.txt')\nfile.read_text()\n"
        "if file.read_text() == 'before': file.write_text('after')",
    )
    ensure_executed([one], "smoke")
    assert why_stale(job_of(one, "smoke")) == "changed: data.txt"
    ensure_executed([one], "smoke")
    assert why_stale(job_of(one, "smoke")) == "" and executed_path(one, "smoke").is_file()


def test_each_file_is_read_once_for_a_look_at_the_tree(tmp_path):
    (tmp_path / "a").write_text("1")
    tree = Tree(tmp_path)
    before = tree.digest("a")
    (tmp_path / "a").write_text("2")
    assert tree.digest("a") == before != Tree(tmp_path).digest("a")


def test_cells_without_ids_or_with_one_id_twice_get_ids_of_their_own():
    cells = code_notebook("1", "2", "3")["cells"]
    for cell, id in zip(cells, ("a", "a", None), strict=False):
        cell["id"] = id
    ids = [cell["id"] for cell in with_ids({"cells": cells})["cells"]]
    assert ids[0] == "a" and len(set(ids)) == len(ids) and all(ids)
    assert [c["id"] for c in with_ids(with_ids({"cells": cells}))["cells"]] == ids


def test_copies_are_compared_by_what_their_cells_print_times_excepted():
    def cell(id, text, **claim):
        outputs = [{"output_type": "stream", "name": "stdout", "text": text}]
        if claim:
            record = {"id": "a", "measured": list(claim.items())}
            outputs.append({"output_type": "display_data", "data": {CLAIM_MIME: record}})
        return {"cell_type": "code", "id": id, "metadata": {}, "outputs": outputs}

    before = {"cells": [cell("x", "loss 1.25\nit took 3.1 s\n<f at 0x7fab12345678>", error=0.5)]}
    slower = {"cells": [cell("x", "loss 1.25\nit took 9.9 s\n<f at 0x7fab87654321>", error=0.5)]}
    other = {"cells": [cell("x", "loss 1.26\nit took 3.1 s\n", error=0.75), cell("new", "")]}
    assert differences(before, slower) == []
    found = differences(before, other)
    assert "new: only after" in found and "x: +loss 1.26" in found
    assert "x: -a: error = 0.5" in found and "x: +a: error = 0.75" in found
