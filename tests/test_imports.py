"""Imports point one way: read from every module's text, those inside functions too.

`ORDER` is the house's order, the ground first: a module imports from its own floor or from below,
and no modules import each other in a circle.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ORDER = (
    ("the package itself", ["llmbook"]),
    ("the ground", ["checks", "backends", "seeds", "provenance", "device"]),
    ("kernels", ["kernels"]),
    (
        "ideas and data",
        "attention multihead latent positions layers cache losses recurrent moe ssm quantization "
        "ngram tokenization scaling data native ragged".split(),
    ),
    ("whole networks", ["models"]),
    ("decoding", ["decoding"]),
    ("training", ["training"]),
    ("alignment", ["alignment", "evaluation"]),
    ("what was trained once", ["experiments"]),
    ("what shows it", ["figures", "bench"]),
    ("the book", ["book"]),
    ("the command line", ["__main__"]),
)


def modules(root):
    """{module's name: its file} of the package in a folder."""
    found = {}
    for file in sorted((root / "llmbook").rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file, name, known):
    """(imported module of the package, line number) for every import statement in a file."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            # `from package import name`: the name may be a module of it
            targets = [
                full if (full := f"{base}.{alias.name}") in known else base for alias in node.names
            ]
        else:
            continue
        for target in targets:
            while (
                target and target != name and not name.startswith(target + ".")
            ):  # the packages around it run, too
                if target in known:
                    yield target, node.lineno
                target = target.rpartition(".")[0]


def floor(name):
    """The place in `ORDER` of a module."""
    first = name.split(".")[1] if "." in name else name
    for place, (_, members) in enumerate(ORDER):
        if first in members:
            return place
    raise LookupError(f"{name} stands on no floor: write it into ORDER")


def problems(root):
    """A line for each import that points up, and for each circle."""
    known = modules(root)
    found, arrows = [], {}
    for name, file in known.items():
        arrows[name], lines = {}, set()
        for target, line in imports(file, name, known):
            arrows[name].setdefault(target, line)
            if floor(target) > floor(name) and line not in lines:
                lines.add(line)
                floors = f"{ORDER[floor(name)][0]} → {ORDER[floor(target)][0]}"
                where = f"{file.relative_to(root)}:{line}"
                found.append(f"{where} imports {target}: {floors} points up")
    for circle in circles(arrows):
        lines = [
            f"{known[one].relative_to(root)}:{arrows[one][other]} imports {other}"
            for one, other in zip(circle, circle[1:] + circle[:1], strict=True)
        ]
        found.append("a circle: " + ", ".join(lines))
    return found


def circles(arrows):
    """The circles in a graph {node: its targets}, each once: depth first, path by path."""
    found, done = [], set()

    def visit(node, path):
        if node in path:
            circle = path[path.index(node) :]
            if set(circle) not in map(set, found):
                found.append(circle)
        elif node not in done:
            for target in arrows[node]:
                visit(target, [*path, node])
            done.add(node)

    for node in arrows:
        visit(node, [])
    return found


def test_no_import_points_up_and_no_modules_import_each_other_in_a_circle():
    found = problems(ROOT)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "file, text, expected",
    [
        ("layers.py", "def f():\n    from llmbook.models import load", "layers.py:2 imports"),
        ("models/__init__.py", "from llmbook.book import start", "__init__.py:1 imports"),
        ("seeds.py", "import llmbook.training", "seeds.py:1 imports llmbook.training"),
        ("positions.py", "from . import layers", "a circle: llmbook/layers.py:2 imports"),
        ("training/__init__.py", "from llmbook import layers, book", "imports llmbook.book"),
    ],
)
def test_an_import_that_points_up_or_round_is_named_with_its_line(tmp_path, file, text, expected):
    package = tmp_path / "llmbook"
    clean = {
        "__init__.py": "",
        "seeds.py": "",
        "layers.py": "import torch\nfrom llmbook import seeds, positions",
        "positions.py": "from .seeds import seeded",
        "models/__init__.py": "from llmbook.layers import RMSNorm",
        "training/__init__.py": "from llmbook.models import load",
        "book/__init__.py": "from ..training import train",
    }
    for name, content in clean.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(content)
    assert problems(tmp_path) == []
    (package / file).write_text(text)
    found = problems(tmp_path)
    assert found and expected in found[0], found


def test_a_module_on_no_floor_is_refused(tmp_path):
    (tmp_path / "llmbook").mkdir()
    (tmp_path / "llmbook/novel.py").write_text("import llmbook.novel_too")
    (tmp_path / "llmbook/novel_too.py").write_text("")
    with pytest.raises(LookupError, match="write it into ORDER"):
        problems(tmp_path)
