"""Small notebooks and books, written for one test."""

import json

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
