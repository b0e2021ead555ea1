"""Whether the table of what is implemented says what is there, and names all of it."""

import importlib
import inspect
import pkgutil
import re

from llmbook.book.implemented import split, systems
from llmbook.book.root import read_notebook

SHARED = {"common", "decoder", "encoder_decoder", "pretrained"}  # of models: what others stand on
COMPLETE = ("models", "alignment", "decoding", "ssm")  # packages whose every module has a row
COMMON = {"and", "the", "with", "from", "layer", "layers", "model", "models", "for", "one", "its"}
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
        elif heading and heading not in sections(path):
            found.append(f"{row.name}: {notebook} has no heading {heading!r}")
        else:
            there = sections(path)
            text = there[heading] if heading else "\n".join(there.values())
            if not any(word.lower() in text.lower() for word in [*names, *words(row.name)]):
                found.append(f"{row.name}: {entry} says nothing of it")
    return found


def words(name):
    """What a text that teaches a system would name: the words of its name, plurals apart."""
    found = re.findall(r"[A-Za-z][\w'’-]{2,}|\w+\d", name)
    return [word.removesuffix("s") for word in found if word.lower() not in COMMON]


def sections(notebook):
    """{heading: its text and code, down to the next one of its level}."""
    lines, found = [], {}
    for cell in read_notebook(notebook)["cells"]:
        text, prose = "".join(cell["source"]), cell["cell_type"] == "markdown"
        lines += [(line, prose) for line in text.splitlines()]
    at = [
        (i, len(line) - len(line.lstrip("#")), line.strip("# "))
        for i, (line, prose) in enumerate(lines)
        if prose and re.match(r"#{1,4} .", line)
    ]
    for n, (first, level, heading) in enumerate(at):
        after = [i for i, other, _ in at[n + 1 :] if other <= level]
        end = after[0] if after else len(lines)
        found[heading] = "\n".join(line for line, _ in lines[first:end])
    return found


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
