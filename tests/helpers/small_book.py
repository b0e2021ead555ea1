"""Small notebooks and books, written for one test."""

import json
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = 'profile = "auto"\nseed = 0'


def code_notebook(*sources, language="python"):
    """A notebook of a parameters cell and one code cell for each source."""
    cells = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "metadata": {"tags": ["parameters"]} if i == 0 else {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for i, source in enumerate((PARAMETERS, *sources))
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": language}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def write_chapter(root, name, *sources):
    """Write such a notebook as `chapters/<name>.ipynb`; its path."""
    path = root / "chapters" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(code_notebook(*sources)), encoding="utf-8")
    return path


def write_pages(root, **pages):
    """Write a book of pages without notebooks, {name: markdown}, with this book's settings."""
    (root / "chapters").mkdir(parents=True)
    shutil.copy(ROOT / "_config.yml", root)
    shutil.copy(ROOT / "chapters/references.bib", root / "chapters")
    (root / "requirements.txt").write_text("")
    for name, text in {"intro": "# A small book\n\nA few pages.\n", **pages}.items():
        (root / f"chapters/{name}.md").write_text(text, encoding="utf-8")
    listed = "".join(f"  - file: chapters/{name}\n" for name in pages)
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: chapters/intro\nchapters:\n{listed}")
    if (ROOT / "_build/web").is_dir():
        shutil.copytree(ROOT / "_build/web", root / "_build/web")
