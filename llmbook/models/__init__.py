"""Whole models, one file each, that read and write the checkpoints that the world keeps.

`load(path_or_name)` chooses the class; `model.save(path)` writes a folder that `transformers`
reads. Which class is in which file: the table of llmbook/models/pretrained/architectures.py.
"""

from llmbook.models.pretrained import load, shipped

__all__ = ["load", "shipped"]
