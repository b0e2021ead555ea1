"""Larger real sets, optional: pinned files, fetched once, kept whole or not at all.

A file is looked for in the folder that `LLMBOOK_DATA` names, then in the cache folder, then
fetched. Wherever it comes from, its sha256 must be the one in the table (`catalogue.py`). Nothing
is fetched on import.
"""

import shutil
import sys
import time
from pathlib import Path

from llmbook.checks import one_of
from llmbook.data.catalogue import DOWNLOADS
from llmbook.data.folders import cache_folder, data_folder, remove_stale_parts, sha256_of

_WAITS = (1.0, 3.0, 9.0)  # seconds before the second, third and fourth attempt
_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
_KEEP_GOING = "copy a whole file of that name into a folder and name the folder in LLMBOOK_DATA"


class DamagedFile(ValueError):
    """A file whose bytes are not the pinned ones: cut off or changed."""


class DownloadFailed(OSError):
    """A file that is not at hand and could not be fetched."""


def fetch(name):
    """Path of a whole, verified file of `DOWNLOADS`, fetched when it is not at hand.

    Looked for in `LLMBOOK_DATA`, then in the cache folder (a damaged file there is fetched anew),
    then fetched: four attempts, progress on standard error, moved into place only when its sha256
    is right.

    Raises ValueError for an unknown name, `DamagedFile` (a ValueError) for wrong bytes in
    `LLMBOOK_DATA` or from the server, and `DownloadFailed` (an OSError) where nothing came.
    """
    download = _lookup(name)
    local = _in_data_folder(name, download)
    if local is not None:
        return local
    folder = _downloads_folder()
    path = folder / name
    if _is_whole(path, download):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_parts(folder)
    except OSError as error:
        raise DownloadFailed(_no_room(name, folder, error)) from error
    return _retrieve(name, download, folder)


def available(name):
    """Whether a file, or every file of a set ("multi30k"), is at hand, verified. Uses no network.

    Raises ValueError for an unknown name, and `DamagedFile` where `LLMBOOK_DATA` has wrong bytes.
    """
    names = [n for n, download in DOWNLOADS.items() if name in (n, download.collection)]
    if not names:
        collections = sorted({download.collection for download in DOWNLOADS.values()})
        raise ValueError(
            f"name must be a file of llmbook.data.DOWNLOADS or one of the sets "
            f"{', '.join(collections)}: got {name!r}"
        )
    return all(_at_hand(n, DOWNLOADS[n]) for n in names)


def _at_hand(name, download):
    return _in_data_folder(name, download) is not None or _is_whole(
        _downloads_folder() / name, download
    )


def _lookup(name):
    return DOWNLOADS[one_of("name", name, DOWNLOADS)]


def _downloads_folder():
    return cache_folder() / "downloads"


def _is_whole(path, download):
    return (
        path.is_file()
        and path.stat().st_size == download.size
        and sha256_of(path) == download.sha256
    )


def _in_data_folder(name, download):
    """The file in `LLMBOOK_DATA`, verified; None when the variable is unset or it is not there."""
    folder = data_folder()
    if folder is None or not (folder / name).is_file():
        return None
    advice = "Copy it there again, or remove it to have it downloaded"
    _verify(folder / name, download, f"{folder / name} (found through LLMBOOK_DATA)", advice)
    return folder / name


def _verify(path, download, what, advice):
    """Raise DamagedFile unless the file has the pinned size and sha256."""
    size, sha256 = path.stat().st_size, sha256_of(path)
    if (size, sha256) != (download.size, download.sha256):
        kind = "cut off" if size < download.size else "not the pinned file"
        raise DamagedFile(
            f"{what} is {kind}: expected {download.size:,} bytes with sha256 {download.sha256}, "
            f"got {size:,} bytes with sha256 {sha256}. {advice}"
        )


def _retrieve(name, download, folder):
    """Fetch through pooch into `folder`, trying again after whatever may pass."""
    import pooch
    from requests import RequestException

    def verified(url, part, caller):
        progress = _Progress(name, download.size)
        pooch.HTTPDownloader(progress, chunk_size=1 << 15, timeout=_TIMEOUT)(url, part, caller)
        advice = f"Nothing was kept. Try again later, or {_KEEP_GOING}"
        _verify(Path(part), download, f"{name} as sent by {download.url}", advice)

    checksum = f"sha256:{download.sha256}"
    for attempt, wait in enumerate((*_WAITS, None), start=1):
        try:
            pooch.retrieve(download.url, checksum, name, folder, downloader=verified)
            return folder / name
        except (RequestException, DamagedFile) as error:
            if wait is not None and _may_pass(error):
                print(f"{name}: {_brief(error)}; trying again", file=sys.stderr, flush=True)
                time.sleep(wait)
            elif isinstance(error, DamagedFile):
                raise
            else:
                raise DownloadFailed(_why(name, download, folder, error, attempt)) from error
        except OSError as error:
            raise DownloadFailed(_no_room(name, folder, error)) from error


def _may_pass(error):
    """Not so for a client error (404, 403 …) except a time-out and too many requests."""
    status = getattr(getattr(error, "response", None), "status_code", 500)
    return not 400 <= status < 500 or status in (408, 429)


def _brief(error):
    if isinstance(error, DamagedFile):
        return "other bytes than the pinned ones came"
    return f"{type(error).__name__}: {str(error)[:200]}"


def _no_room(name, folder, error):
    return (
        f"{name} can't be kept in {folder}: {error}. Free some space there, or name a folder that "
        "can be written to in LLMBOOK_CACHE"
    )


def _why(name, download, folder, error, attempts):
    looked = data_folder()
    where = f"{folder}; LLMBOOK_DATA is not set"
    if looked:
        where = f"{looked} (LLMBOOK_DATA) or {folder}"
    return (
        f"{name} could not be fetched from {download.url} ({attempts} attempts, the last: "
        f"{_brief(error)}). It is not in {where}. Expected: {download.size:,} bytes with sha256 "
        f"{download.sha256}. Without a network, {_KEEP_GOING}"
    )


class _Progress:
    """The progress bar pooch asks for: a line redrawn in a terminal, plain lines elsewhere."""

    def __init__(self, name, expected, stream=None):
        self.name, self.expected = name, expected
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.total = expected  # pooch overwrites it with the server's number, maybe compressed
        self.done, self.shown = 0, -1

    def update(self, amount):
        self.done = min(self.done + amount, self.expected)
        percent = 100 * self.done // self.expected
        step = percent if self.live else percent // 25
        if step > self.shown:
            self.shown = step
            columns = shutil.get_terminal_size().columns - 1
            size = self.expected / 1e6
            line = f"{self.name}: {percent:3d}% of {size:.2f} MB"[:columns]
            text = f"\r{line}" if self.live else f"{line}\n"
            print(text, end="", file=self.stream, flush=True)

    def reset(self):
        """pooch resets and fills the bar at the end, whatever came; ours counts what came."""
        self.done = 0

    def close(self):
        if self.live:
            print(file=self.stream, flush=True)
