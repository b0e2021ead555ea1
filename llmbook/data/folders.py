"""Where data lies: the reader's folder (`LLMBOOK_DATA`), the cache folder (`LLMBOOK_CACHE`).

Both variables may be relative. A relative value is resolved at its first use, against the folder
of the program that uses it, and the absolute path is put back into the environment: a notebook
that this program runs in another folder finds the same place. A program that starts notebooks calls
`resolve_folders()` before it starts the first.
"""

import hashlib
import os
import tempfile
import time
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
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path, data):
    """Write bytes so that `path` holds what it held before or all of `data`, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_parts(path.parent)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix="tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def remove_stale_parts(folder):
    """Remove what killed processes left: unfinished files (`tmp…`) older than a day."""
    now = time.time()
    for part in folder.glob("tmp????????"):
        if part.is_file() and now - part.stat().st_mtime > _STALE_SECONDS:
            part.unlink(missing_ok=True)
