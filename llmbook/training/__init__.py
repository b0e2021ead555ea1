"""Training: one loop for every chapter, and what it stands on.

    from llmbook.training import TrainConfig, train

    history = train(model, batch_at, TrainConfig(steps=500))

loop.py is the loop; optim, schedules, precision, checkpoint, log and distributed are its parts;
`python -m llmbook train` (command.py) trains a GPT from raw text to a model folder.
"""

from llmbook.training.config import DataConfig, ModelConfig, Recipe, TrainConfig
from llmbook.training.log import History, Log
from llmbook.training.loop import Interrupted, TrainingDiverged, Update, train

__all__ = [
    "DataConfig",
    "History",
    "Interrupted",
    "Log",
    "ModelConfig",
    "Recipe",
    "TrainConfig",
    "TrainingDiverged",
    "Update",
    "train",
]
