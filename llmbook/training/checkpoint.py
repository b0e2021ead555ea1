"""Checkpoints that a killed process cannot break: safetensors and JSON, checked when read.

    FOLDER/step-00000500/  model.safetensors  optimizer.safetensors  random.safetensors
                           state.json  manifest.json

A checkpoint is written into a folder of another name, each file forced to the disk, the manifest
with every file's size and sha256 last; then the folder is renamed. So whatever bears the name
`step-…` is whole, and what a killed process left behind does not bear it. Never pickle.
"""

import json
import os
import re
import shutil
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from llmbook.checks import whole
from llmbook.data.folders import plain_number, sha256_of

MANIFEST, STATE = "manifest.json", "state.json"
FORMAT = 2  # of a state.json; 1 had no number
RUN_FILES = ("log.jsonl", "recipe.json")  # what a run writes before its first checkpoint
_NAME = re.compile(r"step-(\d{8,})")
_PART = "part-"


class DamagedCheckpoint(ValueError):
    """A checkpoint lacks a file, or a file is not what its manifest says."""


class CheckpointNotWritten(OSError):
    """A checkpoint could not be written; those before it are as they were."""


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds: tensors in named groups, and JSON-able state."""

    step: int
    tensors: dict
    state: dict


def check_there_is_a_run(folder):
    """Raise ValueError unless a folder holds a run to go on with: what --resume asks for.

    A run that was stopped before its first checkpoint is one; it starts from the beginning.
    """
    found = Checkpoints(Path(folder) / "checkpoints").steps()
    if not found and not any((Path(folder) / name).is_file() for name in RUN_FILES):
        seen = "" if Path(folder).is_dir() else ", which is not there"
        raise ValueError(
            f"there is no run to resume in {folder}{seen}: name the folder of one, or leave out "
            "--resume to start one"
        )


class Checkpoints:
    """The checkpoints of one run: `save`, `load`; the newest `keep` are kept.

    folder: made when the first is saved. One process writes at a time.
    """

    def __init__(self, folder, keep=2):
        self.folder, self.keep = Path(folder), whole("keep", keep, least=1)

    def steps(self):
        """The steps of which there is a checkpoint, in order."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def path(self, step):
        """The folder of a step's checkpoint."""
        return self.folder / f"step-{step:08}"

    def save(self, snapshot):
        """Write a checkpoint; then delete the oldest above `keep`. Returns its folder.

        Raises CheckpointNotWritten where the disk is full or cannot be written to: what was saved
        before is untouched.
        """
        from safetensors import SafetensorError

        part = self.folder / f"{_PART}{uuid.uuid4().hex[:8]}"
        try:
            self._clear_parts()
            part.mkdir(parents=True)
            self._fill(part, snapshot)
            self._publish(part, self.path(snapshot.step))
        except (OSError, SafetensorError) as error:
            shutil.rmtree(part, ignore_errors=True)
            last = self.steps()
            kept = f"the last one is {self.path(last[-1])}" if last else "there is none before it"
            raise CheckpointNotWritten(
                f"the checkpoint of step {snapshot.step} could not be written to {self.folder}: "
                f"{error}; {kept}"
            ) from error
        for step in self.steps()[: -self.keep]:
            self._remove(self.path(step))
        return self.path(snapshot.step)

    def load(self, step=None):
        """The newest whole checkpoint, or that of a step, as a `Snapshot`; None without any.

        A damaged one is refused: with a step named DamagedCheckpoint is raised; without one the
        checkpoint before it is taken, with a warning that names both. One of another version's
        format is refused with ValueError.
        """
        if step is not None:
            return self._read(self.path(step), step)
        reasons = []
        for candidate in reversed(self.steps()):
            try:
                snapshot = self._read(self.path(candidate), candidate)
            except DamagedCheckpoint as error:
                reasons.append(str(error))
                continue
            if reasons:
                warnings.warn(
                    f"{'; '.join(reasons)}: using the one of step {candidate}", stacklevel=2
                )
            return snapshot
        if reasons:
            raise DamagedCheckpoint(f"no checkpoint can be used: {'; '.join(reasons)}")
        return None

    # --- writing

    def _fill(self, part, snapshot):
        for group, tensors in snapshot.tensors.items():
            _write_tensors(part / f"{group}.safetensors", tensors)
        state = {"format": FORMAT, "step": snapshot.step, **snapshot.state}
        _write_text(part / STATE, json.dumps(state, indent=1, default=plain_number))
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(part.iterdir())
        }
        _write_text(part / MANIFEST, json.dumps({"step": snapshot.step, "files": files}, indent=1))
        _sync(part)

    def _publish(self, part, path):
        if path.exists():  # left from a run that went further and was damaged since
            _rename(path, self.folder / f"{_PART}{uuid.uuid4().hex[:8]}")
        _rename(part, path)
        _sync(self.folder)

    def _remove(self, path):
        """Rename first: a half-deleted checkpoint must not bear the name of a whole one."""
        away = self.folder / f"{_PART}{uuid.uuid4().hex[:8]}"
        _rename(path, away)
        _delete(away)

    def _clear_parts(self):
        if self.folder.is_dir():
            for path in self.folder.glob(f"{_PART}*"):
                _delete(path)

    # --- reading

    def _read(self, path, step):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        files = _checked_files(path, step)
        try:
            tensors = {
                name.removesuffix(".safetensors"): load_file(path / name)
                for name in files
                if name.endswith(".safetensors")
            }
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError, SafetensorError) as error:
            raise DamagedCheckpoint(f"{path} can't be read: {error}") from error
        written = state.pop("format", 1)
        if written != FORMAT:
            raise ValueError(
                f"{path} was written by another version of llmbook: its format is {written}, this "
                f"version reads {FORMAT}; go on with that version, or start a new run"
            )
        state.pop("step")
        return Snapshot(step, tensors, state)


def _checked_files(path, step):
    """The files that the manifest names, after a look at every byte of them."""
    manifest = path / MANIFEST
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        files = {str(name): (f["bytes"], f["sha256"]) for name, f in content["files"].items()}
        named = content["step"]
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path} has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{manifest} is damaged: {error!r}") from error
    if named != step or STATE not in files:
        raise DamagedCheckpoint(f"{manifest} is not that of step {step}: it says {named}")
    for name, (size, sha256) in files.items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise DamagedCheckpoint(f"{path} has no {name}, which its manifest lists")
        if file.stat().st_size != size:
            raise DamagedCheckpoint(
                f"{file} is cut off or changed: {file.stat().st_size} bytes, {size} expected"
            )
        if sha256_of(file) != sha256:
            raise DamagedCheckpoint(f"{file} was changed: its sha256 is not the manifest's")
    return files


# --- what touches the disk, one step each


def _write_tensors(path, tensors):
    from safetensors.torch import save_file

    save_file({name: _plain(t) for name, t in tensors.items()}, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _write_text(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _rename(path, to):
    os.rename(path, to)


def _delete(path):
    shutil.rmtree(path)


def _sync(folder):
    """Force a folder's list of names to the disk; Windows has no such thing."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _plain(tensor):
    return tensor.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
