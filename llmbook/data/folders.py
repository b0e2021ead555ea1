"""Where data lies: the reader's folder (`LLMBOOK_DATA`), the cache folder (`LLMBOOK_CACHE`).

Both variables may be relative. A relative value is resolved at its first use, against the folder
of the program that uses it, and the absolute path is put back into the environment: a notebook
that this program runs in another folder finds the same place. A program that starts notebooks
calls `resolve_folders()` before it starts the first.
"""

import hashlib
import json
import os
import time
import uuid
from numbers import Integral, Real
from pathlib import Path

_STALE_SECONDS = 24 * 3600


def _folder_from(variable):
    """The absolute folder that an environment variable names, or None where it is unset."""
    value = os.environ.get(variable, "").strip()
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_absolute():
        path = path.resolve()
        os.environ[variable] = str(path)
    return path


def data_folder():
    """The folder in `LLMBOOK_DATA`, looked in before any download; None where it is unset.

    Raises ValueError when it names something that is not a folder.
    """
    folder = _folder_from("LLMBOOK_DATA")
    if folder is not None and not folder.is_dir():
        raise ValueError(
            f"LLMBOOK_DATA must name an existing folder: got {folder}. "
            "Create it, correct the variable, or unset it"
        )
    return folder


def cache_folder():
    """The folder for downloads and prepared corpora: `LLMBOOK_CACHE`, else the system's.

    It need not exist yet. Raises ValueError when something that is not a folder is in its place.
    """
    folder = _folder_from("LLMBOOK_CACHE")
    if folder is None:
        from platformdirs import user_cache_dir

        folder = Path(user_cache_dir("llmbook"))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the cache (LLMBOOK_CACHE) must be a folder: got the file {folder}")
    return folder


def resolve_folders():
    """Make `LLMBOOK_DATA` and `LLMBOOK_CACHE` absolute, now, against the current folder."""
    _folder_from("LLMBOOK_DATA")
    _folder_from("LLMBOOK_CACHE")


def sha256_of(path):
    """sha256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path, data):
    """Write a file so that it holds what it held before or all of `data`, never a part.

    data: bytes, or a text, which is written in UTF-8. The folder is made where it is missing; the
    file may be read by whom the system's settings allow, as any new file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_parts(path.parent)
    part = path.parent / f"tmp{uuid.uuid4().hex[:8]}"
    # not tempfile's: its files are for their owner alone
    handle = os.open(
        part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666
    )
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path, content):
    """Write what JSON can hold, as `write_atomically` does: indented by one, letters as they are.

    NumPy's numbers count as Python's. Raises TypeError for anything else, and ValueError for nan
    and infinity, which are no JSON.
    """
    form = {"indent": 1, "ensure_ascii": False, "allow_nan": False}
    text = json.dumps(content, default=plain_number, **form)
    write_atomically(path, text + "\n")


def plain_number(value):
    """A number of NumPy's as Python's, for `json.dumps(…, default=plain_number)`."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"JSON must hold texts, numbers, lists and tables: got {value!r}")


def remove_stale_parts(folder):
    """Remove what killed processes left: unfinished files (`tmp…`) older than a day."""
    now = time.time()
    for part in folder.glob("tmp????????"):
        if part.is_file() and now - part.stat().st_mtime > _STALE_SECONDS:
            part.unlink(missing_ok=True)
