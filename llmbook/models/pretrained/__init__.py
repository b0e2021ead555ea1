"""Reading and writing models as the world keeps them: `load(path_or_name)`, `model.save(path)`.

A checkpoint is a folder with config.json and safetensors, as on the Hugging Face hub. The class is
chosen by config.json's `architectures`, or by its `model_type` where that is missing
(architectures.py). How each class's weights are named there is its `layout` (layout.py); how
folders are read, files.py; whether two read the same tokens, vocabulary.py.
"""

import re
from pathlib import Path

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import llmbook
from llmbook.data.downloads import DownloadFailed
from llmbook.models.pretrained.architectures import model_class
from llmbook.models.pretrained.files import CONFIG, Checkpoint, dtype_named, write_checkpoint
from llmbook.models.pretrained.generation import GENERATION, generation_from, generation_to
from llmbook.models.pretrained.layout import fill, stored_tensors

SHIPPED = Path(llmbook.__file__).parent / "weights"
SHARD_BYTES = 5 * 10**9
TOKENIZER = "tokenizer.json"

_WANTED = [
    CONFIG,
    GENERATION,
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
]
_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


class Pretrained:
    """What makes a module loadable and savable. `config` is the config that it was built from.

    A class gives what follows, up to `save`. generation_config: how it asks to be decoded, the
    content of generation_config.json (or what config.json says in its place:
    generation_in_config), or None; see llmbook/decoding/generation_config.py. tokenizer_file: of
    the folder that it was loaded from, or None: which words its ids stand for.
    """

    generation_config = None
    generation_in_config = False
    tokenizer_file = None

    @property
    def architecture(self):
        """Its name in config.json: the class's, unless an attribute of the class says another."""
        return type(self).__name__

    @property
    def layout(self):
        """How its tensors are named in checkpoint files: a `Layout`."""
        raise NotImplementedError

    @classmethod
    def config_from(cls, stored, checkpoint=None):
        """Our config from config.json's content, a dict.

        checkpoint: the open `Checkpoint`, for what only the files tell (which tensors there are);
        None where there are none. Raises TypeError or ValueError, naming the key, for content that
        makes no model or one that we do not compute.
        """
        raise NotImplementedError

    def config_to(self):
        """config.json's content, a dict, without architectures and dtype."""
        raise NotImplementedError

    def save(self, path, *, dtype=None, shard_bytes=SHARD_BYTES):
        """Write config.json and model.safetensors into the folder `path`; tied weights once.

        Where there is a `generation_config`, it is written too.

        dtype: of the file ("float16" halves it); the weights' own when None. Above shard_bytes the
        weights are split over several files with an index. Killed at any moment, an existing
        folder keeps its old weights or has the new; a new one appears whole.
        """
        dtype = None if dtype is None else dtype_named(dtype)
        tensors = stored_tensors(self, dtype)
        name = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
        config = {**self.config_to(), "architectures": [self.architecture], "dtype": name}
        generation, config = generation_to(
            self.generation_config, self.generation_in_config, config
        )
        others = {} if generation is None else {GENERATION: generation}
        write_checkpoint(Path(path), config, tensors, shard_bytes, others)

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
    with Checkpoint(folder) as checkpoint:
        try:
            stored = checkpoint.config
            if stored.get("quantization_config") is not None:
                raise ValueError("quantization_config: quantised weights are not supported")
            cls = model_class(stored, architecture)
            config = cls.config_from(stored, checkpoint)
            with torch.device("meta"), _WithoutDraws():
                model = cls(config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / CONFIG}: {error}") from error
        fill(model, checkpoint, dtype, torch.device(device))
    model.generation_config, model.generation_in_config = generation_from(folder, stored)
    if (folder / TOKENIZER).is_file():
        model.tokenizer_file = folder / TOKENIZER
    return model.eval()


def shipped():
    """Names of the models that come with the book."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


class _WithoutDraws(TorchFunctionMode):
    """A model is built without drawing its weights, which the files are about to give it.

    On the meta device there is nothing to fill, and finding that out takes longer than reading.
    """

    _DRAWS = {nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_}
    _DRAWS |= {torch.Tensor.normal_, torch.Tensor.uniform_}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in self._DRAWS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


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
