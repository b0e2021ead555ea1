"""Whether the table of what is implemented says what is there, and names all of it."""

import importlib
import inspect
import pkgutil
import re

from llmbook.book.implemented import split, systems
from llmbook.book.root import read_notebook

SHARED = {"common", "decoder", "encoder_decoder", "pretrained"}  # of models: what others stand on
COMPLETE = ("models", "alignment", "decoding", "ssm")  # packages whose every module has a row
ROWS = [row for group in systems().values() for row in group]


def problems(row, root):
    """What is not as the row says, as sentences; a right row gives none."""
    found, names = [], []
    for entry in row.where:
        module, own = split(entry)
        try:
            there = importlib.import_module(f"llmbook.{module}")
        except ImportError as error:
            found.append(f"{row.name}: {error}")
            continue
        found += [f"{row.name}: {module} has no {n}" for n in own if not hasattr(there, n)]
        names += [*own, module.rpartition(".")[2]]
    for test in row.tests:
        file = root / "tests" / test
        if not file.is_file():
            found.append(f"{row.name}: there is no tests/{test}")
        elif not any(re.search(rf"\b{n}\b", file.read_text(encoding="utf-8")) for n in names):
            found.append(f"{row.name}: tests/{test} mentions none of {', '.join(names)}")
    for entry in row.taught:
        notebook, _, heading = entry.partition(": ")
        path = root / "chapters" / f"{notebook}.ipynb"
        if not path.is_file():
            found.append(f"{row.name}: there is no chapter {notebook}")
        elif heading and heading not in headings(path):
            found.append(f"{row.name}: {notebook} has no heading {heading!r}")
    return found


def headings(notebook):
    """The headings of a notebook, in order."""
    text = "\n".join(
        "".join(cell["source"])
        for cell in read_notebook(notebook)["cells"]
        if cell["cell_type"] == "markdown"
    )
    return [line.strip("# ") for line in re.findall(r"^#{1,4} .+$", text, re.MULTILINE)]


def missing(listed=ROWS):
    """What the package has and no row names: modules of COMPLETE, public models."""
    from llmbook.models.pretrained import Pretrained

    named = {}
    for row in listed:
        for entry in row.where:
            module, own = split(entry)
            named.setdefault(module, set()).update(own)
    lacking = []
    for package in COMPLETE:
        for info in pkgutil.iter_modules(importlib.import_module(f"llmbook.{package}").__path__):
            module = f"{package}.{info.name}"
            if package == "models" and info.name in SHARED:
                continue
            if module not in named:
                lacking.append(module)
            if package != "models":
                continue
            there = importlib.import_module(f"llmbook.{module}")
            lacking += [
                f"{module}: {name}"
                for name, value in inspect.getmembers(there, inspect.isclass)
                if value.__module__ == there.__name__
                and issubclass(value, Pretrained)
                and name not in named.get(module, ())
            ]
    return lacking
