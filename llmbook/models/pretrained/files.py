"""Checkpoint folders: config.json and safetensors, whole or in shards, read and written safely.

A folder holds config.json and either model.safetensors or shards with
model.safetensors.index.json, which says in which shard each tensor is. Pickle files
(pytorch_model.bin) are refused: reading one can run any code.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
import uuid
from pathlib import Path

import torch

from llmbook.checks import wholes
from llmbook.data.folders import plain_number, write_atomically

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-([0-9a-f]{8}-)?\d{5}-of-\d{5}\.safetensors")
_FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class Checkpoint:
    """The tensors of a folder, by name; nothing but the files' heads is read on opening.

    Use it in a `with` block. `config`: config.json's content; `names`: the stored names, in order.
    Raises ValueError for a missing, truncated or unsafe file, and for an index that doesn't
    describe its shards.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.config = read_json(self.folder / CONFIG)
        self._stack = contextlib.ExitStack()
        self._where, self._bytes = {}, {}
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        self.names = list(self._where)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()

    def shape(self, name):
        """A tensor's shape, from the file's head."""
        return tuple(self._where[name].get_slice(name).get_shape())

    def dtype(self, name):
        """A tensor's dtype, from the file's head.

        Raises ValueError for anything but float16, bfloat16, float32 and float64.
        """
        dtype = self._where[name].get_slice(name).get_dtype()
        if dtype not in _FLOATS:
            raise ValueError(
                f"{name} in {self.folder} must be one of {', '.join(sorted(_FLOATS))}: got {dtype}"
            )
        return _FLOATS[dtype]

    def tensor(self, name):
        """A tensor as stored, on the CPU: a window into the file, where what is written stays in
        this process. Nothing is read before it is looked at. Raises as `dtype` does.
        """
        self.dtype(name)
        return self._where[name].get_tensor(name)

    def read(self, name, out):
        """Copy a tensor into `out`, of its shape, on any device and in any dtype.

        Plain reading, where it can be: what is copied through a window stays in memory besides.
        """
        plain = out.device.type == "cpu" and out.is_contiguous() and out.dtype == self.dtype(name)
        if not plain or not out.numel():
            out.copy_(self.tensor(name))
            return
        file, begin = self._bytes[name]
        left = memoryview(out.detach().flatten().view(torch.uint8).numpy())
        file.seek(begin)
        while left:
            n = file.readinto(left)
            if not n:
                raise ValueError(
                    f"{file.name} is cut off: {len(left)} bytes of {name} are missing"
                )
            left = left[n:]

    def _open(self):
        index = self.folder / INDEX
        if (self.folder / SINGLE).is_file():
            self._add(SINGLE, None)
        elif index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise ValueError(f"{index} has no weight_map from tensors to files")
            for shard in dict.fromkeys(weight_map.values()):
                _check_shard_name(index, shard)
                if not (self.folder / shard).is_file():
                    raise ValueError(f"{index} names {shard}, which is not in {self.folder}")
                self._add(shard, {n for n, file in weight_map.items() if file == shard})
        else:
            raise ValueError(_no_weights(self.folder))

    def _add(self, name, expected):
        """Open one file; `expected`: the tensors that the index says it has, None without one."""
        from safetensors import SafetensorError, safe_open

        path = self.folder / name
        try:
            file = self._stack.enter_context(safe_open(path, framework="pt", device="cpu"))
        except SafetensorError as error:
            raise ValueError(
                f"{path} is cut off, damaged or no safetensors file: {error}"
            ) from error
        plain = self._stack.enter_context(open(path, "rb", buffering=0))
        self._bytes.update((name, (plain, begin)) for name, begin in _begins(plain))
        held = list(file.keys())
        if expected is not None and set(held) != expected:
            odd = sorted(set(held) ^ expected)
            raise ValueError(
                f"{self.folder / INDEX} doesn't describe {name}: they differ in {odd[0]}"
            )
        self._where.update(dict.fromkeys(held, file))


def _begins(file):
    """(name, where its bytes begin in the file) of each tensor of an open safetensors file."""
    head = int.from_bytes(file.read(8), "little")
    for name, facts in json.loads(file.read(head)).items():
        if name != "__metadata__":
            yield name, 8 + head + facts["data_offsets"][0]


def read_json(path):
    """A JSON file's object; ValueError where there is none or it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent} has no {path.name}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object: got {type(content).__name__}")
    return content


def write_checkpoint(folder, config, tensors, shard_bytes, others=None):
    """Write config.json and the tensors, in several files where they exceed shard_bytes.

    others: {name: content} of further JSON files.

    A new folder appears whole or not at all. In an existing one the new shards are written under
    free names first, and one rename (of the index, or of the single file) makes them count: killed
    at any moment, the folder holds the old weights or the new. Other files are left alone.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"path must be a folder: got the file {folder}")
    shards = _shards(tensors, shard_bytes)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            part.chmod(0o777 & ~_umask())
            _write(part, config, shards, others or {})
            os.replace(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return
    _write(folder, config, shards, others or {})


def _write(folder, config, shards, others):
    before = _weight_files(folder)
    if len(shards) == 1:
        names, index = [SINGLE], None
    else:
        stem = "model"
        if any(_shard(stem, i, len(shards)) in before for i in range(len(shards))):
            stem = f"model-{uuid.uuid4().hex[:8]}"
        names = [_shard(stem, i, len(shards)) for i in range(len(shards))]
        total = sum(t.numel() * t.element_size() for shard in shards for t in shard.values())
        weight_map = {k: n for n, s in zip(names, shards, strict=True) for k in s}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}

    text = _json(config)
    for name, content in others.items():
        write_atomically(folder / name, _json(content))
    if index is None:
        part = _write_tensors(folder, shards[0])
        write_atomically(folder / CONFIG, text)
        os.replace(part, folder / SINGLE)
    else:
        for name, shard in zip(names, shards, strict=True):
            os.replace(_write_tensors(folder, shard), folder / name)
        write_atomically(folder / CONFIG, text)
        write_atomically(folder / INDEX, (json.dumps(index, indent=2) + "\n").encode())
        (folder / SINGLE).unlink(missing_ok=True)  # read in preference to an index
    for old in before - set(names) - ({INDEX} if index else set()):
        (folder / old).unlink(missing_ok=True)


def _json(content):
    text = json.dumps(content, indent=2, sort_keys=True, default=plain_number)
    return (text + "\n").encode()


def _write_tensors(folder, tensors):
    """Write a safetensors file under a name that nothing reads; return its path."""
    from safetensors.torch import save_file

    handle, part = tempfile.mkstemp(dir=folder, prefix="tmp")
    os.close(handle)
    try:
        save_file(tensors, part, metadata={"format": "pt"})
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(part, 0o666 & ~_umask())
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return part


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _shard(stem, i, of):
    return f"{stem}-{i + 1:05}-of-{of:05}.safetensors"


def _shards(tensors, shard_bytes):
    """The tensors in order, packed into groups of at most shard_bytes (or of one tensor)."""
    wholes(1, shard_bytes=shard_bytes)
    shards, room = [{}], shard_bytes
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor
        room -= size
    return shards


def _weight_files(folder):
    """Names of the files in a folder that hold its weights now: single, index, shards."""
    found = {name for name in (SINGLE, INDEX) if (folder / name).is_file()}
    if INDEX in found:
        weight_map = read_json(folder / INDEX).get("weight_map", {})
        for shard in set(weight_map.values()):
            _check_shard_name(folder / INDEX, shard)
            found.add(shard)
    # and what an unfinished save left
    return found | {p.name for p in folder.glob("model-*.safetensors") if _SHARD.fullmatch(p.name)}


def _check_shard_name(index, name):
    """A shard is a file beside its index: a name with a path could read or write anywhere."""
    plain = isinstance(name, str) and name == Path(name).name and "\\" not in name
    if not plain or not name.endswith(".safetensors"):
        raise ValueError(
            f"{index} must name .safetensors files in its own folder, without a path: got {name!r}"
        )


def _no_weights(folder):
    pickles = sorted(
        p.name
        for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
        for p in folder.glob(pattern)
    )
    if pickles:
        return (
            f"{folder} has its weights only as pickle ({pickles[0]}), which is refused because "
            "reading it can run any code: use a revision with model.safetensors, or convert it"
        )
    return f"{folder} has no {SINGLE} and no {INDEX}"


def dtype_named(dtype):
    """A floating-point dtype given as itself or by name ("float16"); ValueError otherwise."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype or its name: got {dtype!r}")
    return found
