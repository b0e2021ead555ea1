"""Whole models, one file each, that read and write the checkpoints that the world keeps.

`load(path_or_name)` chooses the class; `model.save(path)` writes a folder that `transformers`
reads. Classes are in llmbook.models.gpt, .bert, .t5, .bart, .llama, .mixtral, .qwen2_moe and
.transformer.
"""

from llmbook.models.pretrained import load, shipped

__all__ = ["load", "shipped"]
