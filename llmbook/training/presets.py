"""Recipes by name, for `python -m llmbook train --preset NAME`."""

from llmbook.checks import one_of
from llmbook.training.config import Recipe

PRESETS = {
    # Seconds: does everything run?
    "smoke": {
        "data": {"size": "smoke", "vocab_size": 300},
        "model": {"max_len": 32, "d_model": 32, "n_layers": 2, "n_heads": 2},
        "training": {
            "steps": 20,
            "batch_size": 8,
            "warmup": 5,
            "log_every": 5,
            "evaluate_every": 10,
            "evaluate_windows": 16,
            "checkpoint_every": 10,
        },
    },
    # A minute on two CPU cores: 0.9 M parameters, 0.8 M tokens.
    "quick": {
        "data": {"vocab_size": 1024},
        "model": {"max_len": 64, "d_model": 128, "n_layers": 4, "n_heads": 4},
        "training": {
            "steps": 400,
            "batch_size": 32,
            "lr": 2e-3,
            "warmup": 40,
            "evaluate_every": 100,
            "checkpoint_every": 200,
        },
    },
    # Under two hours of one CPU core, 1.27 M parameters, 20 M tokens: the book's own small model.
    "small": {
        "data": {"size": "full", "vocab_size": 384},
        "model": {"max_len": 256, "d_model": 128, "n_layers": 6, "n_heads": 4},
        "training": {
            "steps": 10000,
            "batch_size": 8,
            "optimizer": "muon",
            "lr": 5e-3,
            "schedule": "linear",
            "warmup": 200,
            "final_lr": 0.0,
            "evaluate_every": 500,
            "checkpoint_every": 500,
        },
    },
    # Minutes on one GPU from a T4 up: 11 M parameters.
    "gpu": {
        "data": {"size": "full", "vocab_size": 4096},
        "model": {"max_len": 256, "d_model": 384, "n_layers": 6, "n_heads": 6, "dropout": 0.1},
        "training": {
            "steps": 5000,
            "batch_size": 64,
            "lr": 1e-3,
            "warmup": 200,
            "evaluate_every": 250,
            "checkpoint_every": 500,
        },
    },
    # A large GPU: GPT-2's smallest shape.
    "full": {
        "data": {"size": "full", "vocab_size": 16384},
        "model": {"max_len": 512, "d_model": 768, "n_layers": 12, "n_heads": 12, "dropout": 0.1},
        "training": {
            "steps": 3000,
            "batch_size": 128,
            "lr": 6e-4,
            "warmup": 200,
            "compile": True,
            "evaluate_every": 250,
            "checkpoint_every": 500,
        },
    },
    # Characters of Shakespeare: sizes that others have published losses for.
    "shakespeare-cpu": {
        "data": {"source": "shakespeare", "tokenizer": "characters"},
        "model": {"max_len": 64, "d_model": 128, "n_layers": 4, "n_heads": 4},
        "training": {
            "steps": 2000,
            "batch_size": 12,
            "lr": 1e-3,
            "beta2": 0.99,
            "warmup": 100,
            "evaluate_every": 250,
        },
    },
    "shakespeare": {
        "data": {"source": "shakespeare", "tokenizer": "characters"},
        "model": {"max_len": 256, "d_model": 384, "n_layers": 6, "n_heads": 6, "dropout": 0.2},
        "training": {
            "steps": 5000,
            "batch_size": 64,
            "lr": 1e-3,
            "beta2": 0.99,
            "warmup": 100,
            "compile": True,
            "evaluate_every": 250,
        },
    },
}


def preset(name):
    """The recipe of a name; ValueError for one that is not there."""
    return Recipe.from_dict(PRESETS[one_of("preset", name, PRESETS)])
