"""What a training run is made of: three small configs, for the loop, the model and the data.

A config file is JSON with the sections "data", "model" and "training", each with some of the
fields below; what is left out has its default.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path

from llmbook.training.schedules import SCHEDULES

OPTIMIZERS = ("adamw", "adamw_reference", "muon")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
PARALLEL = ("auto", "none", "ddp", "fsdp")

# What a resumed run may change: none of it touches what the next update computes. More steps or
# another cooldown change the schedule, which is the wish of whoever asks for them.
FREE_TO_CHANGE = frozenset(
    {
        "steps",
        "cooldown",
        "log_every",
        "evaluate_every",
        "evaluate_windows",
        "checkpoint_every",
        "keep",
        "compile",
        "checkpoint_activations",
        "parallel",
    }
)


@dataclass(frozen=True)
class TrainConfig:
    """How to train: what `llmbook.training.train` reads.

    batch_size: sequences an update sees, over all micro-batches and processes. accumulate: into
    how many micro-batches each process cuts its part. lr: at the peak of the schedule. warmup:
    steps. final_lr: the factor that the schedule ends at. cooldown: the share of the steps in
    which the trapezoid falls to it. weight_decay: on matrices alone. clip: the largest norm of the
    whole gradient, 0 for none. precision: "auto" is the device's own.
    compile, checkpoint_activations: torch.compile; less memory for one more forward pass.
    The *_every count steps, 0 is never; keep: how many checkpoints. parallel: "auto" is "ddp" in
    several processes and "none" in one. seed: of weights, order and dropout.
    """

    steps: int = 1000
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    schedule: str = "cosine"
    warmup: int = 100
    final_lr: float = 0.1
    cooldown: float = 0.2
    precision: str = "auto"
    compile: bool = False
    checkpoint_activations: bool = False
    log_every: int = 10
    evaluate_every: int = 250
    evaluate_windows: int = 256
    checkpoint_every: int = 500
    keep: int = 2
    parallel: str = "auto"
    seed: int = 0

    def __post_init__(self):
        _whole(
            self, 1, "steps", "batch_size", "accumulate", "log_every", "keep", "evaluate_windows"
        )
        _whole(self, 0, "warmup", "evaluate_every", "checkpoint_every", "seed")
        _number(self, "lr", "eps", above=0)
        _number(self, "weight_decay", "clip", least=0)
        _number(self, "beta1", "beta2", least=0, below=1)
        _number(self, "final_lr", "cooldown", least=0, most=1)
        _flag(self, "compile", "checkpoint_activations")
        _choice(self, "optimizer", OPTIMIZERS)
        _choice(self, "schedule", tuple(SCHEDULES))
        _choice(self, "precision", PRECISIONS)
        _choice(self, "parallel", PARALLEL)
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide batch_size: got batch_size={self.batch_size}, "
                f"accumulate={self.accumulate}"
            )

    def factor(self, step):
        """The schedule's factor at a step."""
        shape = {"decay": self.cooldown} if self.schedule == "trapezoid" else {}
        return SCHEDULES[self.schedule](step, self.steps, self.warmup, self.final_lr, **shape)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a GPT, without what the tokenizer decides."""

    max_len: int = 128
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    dropout: float = 0.0

    def __post_init__(self):
        self.gpt(vocab_size=1)

    def gpt(self, vocab_size, eos_id=None):
        """The `GPTConfig` for a vocabulary."""
        from llmbook.models.gpt import GPTConfig

        return GPTConfig(vocab_size=vocab_size, eos_id=eos_id, **dataclasses.asdict(self))


@dataclass(frozen=True)
class DataConfig:
    """What to read and how to cut it into tokens.

    source: "documentation", "shakespeare", or the path of a text file. size: of the documentation,
    "quick" or "full". tokenizer: "bpe" (trained on the training side, with vocab_size tokens),
    "characters", or the path of a tokenizer.json.
    """

    source: str = "documentation"
    size: str = "quick"
    tokenizer: str = "bpe"
    vocab_size: int = 1024

    def __post_init__(self):
        for name in ("source", "tokenizer"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name} must be a name or a path: got {getattr(self, name)!r}")
        _choice(self, "size", ("quick", "full"))
        _whole(self, 2, "vocab_size")


@dataclass(frozen=True)
class Recipe:
    """Data, model and training: all that `python -m llmbook train` needs to know."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainConfig = field(default_factory=TrainConfig)

    @classmethod
    def from_dict(cls, content):
        """A recipe from sections of fields. Raises ValueError for an unknown section or field."""
        return cls().changed(content)

    @classmethod
    def load(cls, path):
        """A recipe from a JSON file. Raises ValueError that names the file."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"there is no config file {path}") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no JSON file: {error}") from error
        try:
            return cls.from_dict(content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    def changed(self, content):
        """This recipe with some fields changed, given in sections."""
        if not isinstance(content, dict):
            raise ValueError(f"a config must be a JSON object: got {type(content).__name__}")
        sections = {}
        for section, values in content.items():
            if section not in SECTIONS or not isinstance(values, dict):
                raise ValueError(
                    f"a config has the sections {', '.join(SECTIONS)}, each an object: "
                    f"got {section!r}"
                )
            known = {f.name for f in dataclasses.fields(SECTIONS[section])}
            for name in values:
                if name not in known:
                    raise ValueError(
                        f"unknown field {name!r} in section {section!r}: it has "
                        f"{', '.join(sorted(known))}"
                    )
            sections[section] = dataclasses.replace(getattr(self, section), **values)
        return dataclasses.replace(self, **sections)

    def to_dict(self):
        """Sections of fields, JSON-able."""
        return dataclasses.asdict(self)


SECTIONS = {"data": DataConfig, "model": ModelConfig, "training": TrainConfig}


def _whole(config, least, *names):
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}: got {value!r}")


def _number(config, *names, least=None, above=None, most=math.inf, below=math.inf):
    bounds = [("at least", least), ("above", above), ("at most", most), ("below", below)]
    text = " and ".join(f"{word} {b}" for word, b in bounds if b not in (None, math.inf))
    for name in names:
        value = getattr(config, name)
        good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if good:
            good = (least is None or value >= least) and (above is None or value > above)
            good = good and value <= most and value < below
        if not good:
            raise ValueError(f"{name} must be a number {text}: got {value!r}")


def _flag(config, *names):
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"{name} must be true or false: got {getattr(config, name)!r}")


def _choice(config, name, choices):
    if getattr(config, name) not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}: got {getattr(config, name)!r}"
        )
