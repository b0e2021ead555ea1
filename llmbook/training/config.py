"""What a training run is made of: three small configs, for the loop, the model and the data.

A config file is JSON with the sections "data", "model" and "training", each with some of the
fields below; what is left out has its default.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from llmbook import checks
from llmbook.data.corpus import SIZES
from llmbook.training.precision import PRECISIONS
from llmbook.training.schedules import SCHEDULES

OPTIMIZERS = ("adamw", "adamw_reference", "muon")
PARALLEL = ("auto", "none", "ddp", "fsdp")
CHOICES = {  # of the fields that are one of several names
    "optimizer": OPTIMIZERS,
    "schedule": tuple(SCHEDULES),
    "precision": PRECISIONS,
    "parallel": PARALLEL,
    "size": SIZES,
}

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
        for name in ("steps", "batch_size", "accumulate", "log_every", "keep", "evaluate_windows"):
            checks.whole(name, getattr(self, name), least=1)
        for name in ("warmup", "evaluate_every", "checkpoint_every", "seed"):
            checks.whole(name, getattr(self, name), least=0)
        for name in ("lr", "eps"):
            checks.positive(name, getattr(self, name))
        for name in ("weight_decay", "clip"):
            checks.number(name, getattr(self, name), least=0)
        for name in ("beta1", "beta2"):
            checks.share(name, getattr(self, name), one=False)
        for name in ("final_lr", "cooldown"):
            checks.share(name, getattr(self, name))
        for name in ("compile", "checkpoint_activations"):
            checks.flag(name, getattr(self, name))
        for name in ("optimizer", "schedule", "precision", "parallel"):
            checks.one_of(name, getattr(self, name), CHOICES[name])
        checks.divides("accumulate", self.accumulate, "batch_size", self.batch_size)

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
    "smoke", "quick" or "full". tokenizer: "bpe" (trained on the training side, vocab_size tokens),
    "characters", or the path of a tokenizer.json.
    """

    source: str = "documentation"
    size: str = "quick"
    tokenizer: str = "bpe"
    vocab_size: int = 1024

    def __post_init__(self):
        checks.text("source", self.source)
        checks.text("tokenizer", self.tokenizer)
        checks.one_of("size", self.size, SIZES)
        checks.whole("vocab_size", self.vocab_size, least=2)


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
