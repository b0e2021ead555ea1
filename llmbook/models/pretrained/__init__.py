"""Reading and writing models as the world keeps them: `load(path_or_name)`, `model.save(path)`.

A checkpoint is a folder with config.json and safetensors, as on the Hugging Face hub. The class is
chosen by config.json's `architectures`, or by its `model_type` where that is missing. How each
class's weights are named there is its `layout` (layout.py); how folders are read, files.py.
"""

import importlib
import re
from pathlib import Path

import torch

import llmbook
from llmbook.data.downloads import DownloadFailed
from llmbook.models.pretrained.files import (
    CONFIG,
    Checkpoint,
    dtype_named,
    read_json,
    write_checkpoint,
)
from llmbook.models.pretrained.layout import fill, stored_tensors

SHIPPED = Path(llmbook.__file__).parent / "weights"
SHARD_BYTES = 5 * 10**9

# architecture in config.json: where its class is, under llmbook.models
ARCHITECTURES = {
    "GPT2LMHeadModel": "gpt.GPT",
    "BertModel": "bert.Bert",
    "BertForMaskedLM": "bert.BertForMaskedLM",
    "BertForPreTraining": "bert.BertForPreTraining",
    "BertForNextSentencePrediction": "bert.BertForNextSentencePrediction",
    "BertForSequenceClassification": "bert.BertForSequenceClassification",
    "BertForTokenClassification": "bert.BertForTokenClassification",
    "BertForQuestionAnswering": "bert.BertForQuestionAnswering",
    "RobertaModel": "bert.Roberta",
    "RobertaForMaskedLM": "bert.RobertaForMaskedLM",
    "RobertaForSequenceClassification": "bert.RobertaForSequenceClassification",
    "RobertaForTokenClassification": "bert.RobertaForTokenClassification",
    "RobertaForQuestionAnswering": "bert.RobertaForQuestionAnswering",
    "T5ForConditionalGeneration": "t5.T5",
    "BartForConditionalGeneration": "bart.Bart",
    "LlamaForCausalLM": "llama.Llama",
    "Transformer": "transformer.Transformer",
}
# what a config.json without `architectures` holds, and what other names of a body stand for
_BY_TYPE = {
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "t5": "T5ForConditionalGeneration",
    "bart": "BartForConditionalGeneration",
    "llama": "LlamaForCausalLM",
}
_SAME = {
    "GPT2Model": "GPT2LMHeadModel",
    "T5WithLMHeadModel": "T5ForConditionalGeneration",
    "T5Model": "T5ForConditionalGeneration",
    "BartModel": "BartForConditionalGeneration",
    "LLaMAForCausalLM": "LlamaForCausalLM",
}
_WANTED = [CONFIG, "model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


class Pretrained:
    """What makes a module loadable and savable.

    A class has `layout`, `config_from(dict)` and `config_to()`, and `config`, its own config.
    `architecture` is its name in config.json: the class's own unless it says another.
    """

    architecture = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.architecture = cls.__dict__.get("architecture", cls.__name__)

    @classmethod
    def settle(cls, config, checkpoint):
        """The config, after a look at which tensors the files hold."""
        return config

    def save(self, path, *, dtype=None, shard_bytes=SHARD_BYTES):
        """Write config.json and model.safetensors into the folder `path`; tied weights once.

        dtype: of the file ("float16" halves it); the weights' own when None. Above shard_bytes the
        weights are split over several files with an index. Killed at any moment, an existing
        folder keeps its old weights or has the new; a new one appears whole.
        """
        dtype = None if dtype is None else dtype_named(dtype)
        tensors = stored_tensors(self, dtype)
        name = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
        config = {**self.config_to(), "architectures": [self.architecture], "dtype": name}
        write_checkpoint(Path(path), config, tensors, shard_bytes)

    @property
    def n_parameters(self):
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.parameters())


def load(path_or_name, *, dtype=torch.float32, device="cpu", revision=None, architecture=None):
    """A model with its weights, in evaluation mode.

    path_or_name: a folder; the name of a model that comes with the book ("small"); or a name on
    the Hugging Face hub ("openai-community/gpt2"), where the network allows, at `revision`. A name
    without a slash that both a shipped model and a folder have is the shipped model's: write
    "./name" for the folder.

    dtype: what the weights become; "auto" keeps the file's. architecture: another of a family's
    classes than config.json names ("BertForPreTraining").

    Raises ValueError for a folder that lacks a file, a damaged or unsafe file, an unknown
    architecture, weights that don't fit config.json, and pickle; `llmbook.data.DownloadFailed` (an
    OSError) for a name that is nowhere and could not be fetched. Nothing is returned half-loaded.
    """
    dtype = None if dtype == "auto" else dtype_named(dtype)
    folder = _folder(path_or_name, revision)
    stored = read_json(folder / CONFIG)
    if "quantization_config" in stored:
        raise ValueError(f"{folder / CONFIG}: quantised weights are not supported")
    cls = model_class(stored, architecture)
    with Checkpoint(folder) as checkpoint:
        try:
            config = cls.config_from(stored)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / CONFIG}: {error}") from error
        config = cls.settle(config, checkpoint)
        with torch.device("meta"):
            model = cls(config)
        fill(model, checkpoint, dtype, torch.device(device))
    return model.eval()


def model_class(config, architecture=None):
    """The class for a config.json's content: by `architectures`, else by `model_type`.

    Raises ValueError for one that is not known.
    """
    names = config.get("architectures") or [_BY_TYPE.get(config.get("model_type"))]
    name = architecture or (names[0] if isinstance(names, list) else None)
    name = _SAME.get(name, name)
    if name not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {name!r} (model_type {config.get('model_type')!r}): known are "
            f"{', '.join(ARCHITECTURES)}"
        )
    module, _, cls = ARCHITECTURES[name].partition(".")
    return getattr(importlib.import_module(f"llmbook.models.{module}"), cls)


def shipped():
    """Names of the models that come with the book."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def _folder(path_or_name, revision):
    """The folder that a path or name stands for; hub names are fetched."""
    name, path = str(path_or_name), Path(path_or_name).expanduser()
    if name in shipped():
        return SHIPPED / name
    if path.is_dir():
        return path
    if path.is_file():
        kind = "a pickle file, which is refused" if path.suffix != ".safetensors" else "a file"
        raise ValueError(f"path_or_name must be a folder with {CONFIG}: got {kind}, {path}")
    if isinstance(path_or_name, Path) or not _HUB_NAME.fullmatch(name):
        raise ValueError(f"there is no folder {path}")
    return _from_hub(name, revision)


def _from_hub(name, revision):
    known = ", ".join(shipped()) or "none"
    hint = (
        f"{name!r} is no folder here and no model that comes with the book ({known}), so it was "
        "looked for on the Hugging Face hub"
    )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise DownloadFailed(f"{hint}: that needs `pip install huggingface_hub`") from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED))
    except Exception as error:  # its errors share no base class, nor do the network library's
        reason = str(error).strip().splitlines()
        raise DownloadFailed(
            f"{hint} (revision {revision or 'main'}), without success: {type(error).__name__}: "
            f"{reason[0] if reason else 'no reason given'}"
        ) from error
