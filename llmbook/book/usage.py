"""What a chapter uses of the book's folder, recorded inside its kernel while it runs.

The text of this file is run by a hidden first cell, before anything of `llmbook` is imported: so
it needs the standard library only, and hears of every file that is opened later. Heard are:
modules that lie in the folder, imports that found nothing, files opened through Python, folders
listed (a new file there may change what the chapter does), and other processes: what those use
is not seen, so a chapter that starts Python, or forks, counts as using everything. What the
chapter itself makes is not counted. Not heard: a mere question whether a file exists, and files
opened by compiled code (safetensors maps its files): of a folder below `llmbook/weights/` every
file counts when one was opened, and their `config.json` always is.
"""

import os
import re
import sys

FORMAT = 1
MIME = "application/vnd.llmbook.used+json"
_STARTS_PYTHON = re.compile(
    r"(?:^|[\s/;&|('\"])(?:python|torchrun|pytest|jupyter)[\d.]*(?:\s|$)|\.sh\b"
)


class Usage:
    """Records from its making on; `found()` tells what was used so far."""

    def __init__(self, root):
        self.root = os.path.join(os.path.realpath(root), "")
        self._opened, self._listed, self._sought, self._unseen = set(), set(), set(), set()
        self._own = set()  # files and folders that the chapter itself made
        self._hears = {
            "open": self._open,
            "os.mkdir": lambda path, *_: self._own.add(_absolute(path)),
            "os.rename": self._rename,
            "os.listdir": self._list,
            "os.scandir": self._list,
            "import": self._import,
            "subprocess.Popen": self._process,
            "os.posix_spawn": self._process,
            "os.exec": self._process,
            "os.system": self._process,
            "os.fork": lambda *_: self._unseen.add("it forks"),
            "os.forkpty": lambda *_: self._unseen.add("it forks"),
        }
        sys.addaudithook(self._hook)

    def _hook(self, event, args):
        hear = self._hears.get(event)
        if hear is not None:
            try:
                hear(*args)
            except Exception as error:  # an error here would stop what the chapter does
                self._unseen.add(f"the recorder failed with {error!r}")

    def _open(self, path, mode, flags):
        if isinstance(path, int):
            return
        path = _absolute(path)
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        if writes and (flags & os.O_TRUNC or not os.path.exists(path)):
            self._own |= {path} - self._opened
        elif not flags & os.O_WRONLY:
            self._opened.add(path)

    def _rename(self, source, target, *_):
        if self._is_own(_absolute(source)):
            self._own |= {_absolute(target)} - self._opened

    def _is_own(self, path):
        return path in self._own or any(path.startswith(one + os.sep) for one in self._own)

    def _list(self, path="."):
        asked_by = sys._getframe(2)  # imports list folders all the time
        by_imports = asked_by.f_code.co_filename.startswith("<frozen importlib")
        by_imports |= asked_by.f_globals.get("__name__", "").startswith("importlib")
        if not isinstance(path, int) and not by_imports:
            self._listed.add(_absolute(path or "."))

    def _import(self, module, *_):
        if module.startswith("llmbook."):
            self._sought.add(module)

    def _process(self, *words):
        words = list(_words(words[:2]))
        self._opened |= {path for path in map(_absolute, words) if os.path.isfile(path)}
        if _STARTS_PYTHON.search(" ".join(words)):
            self._unseen.add(f"it starts {' '.join(words)[:60]!r}")

    def _inside(self, path):
        """The path relative to the folder, or None for what is not part of the book there."""
        if self._is_own(path):
            return None
        path = os.path.realpath(path)
        if not path.startswith(self.root):
            return None
        parts = path.removeprefix(self.root).split(os.sep)
        outside = {"_build", "__pycache__", "site-packages", "dist-packages"} & set(parts)
        hidden = any(part.startswith((".", "__editable__")) for part in parts)
        return None if outside or hidden or path.endswith(".pyc") else "/".join(parts)

    def found(self):
        """{"format", "files", "folders", "unseen"}: paths relative to the folder, and reasons."""
        loaded = list(sys.modules.items())
        modules = {name: getattr(m, "__dict__", {}).get("__file__") for name, m in loaded}
        paths = {self._inside(path) for path in [*filter(None, modules.values()), *self._opened]}
        for name in self._sought - set(modules):  # tried in vain: there once a file is
            stem = name.replace(".", "/")
            paths |= {f"{stem}.py", f"{stem}/__init__.py"}
        unseen = set(self._unseen)
        if modules.get("llmbook") and not self._inside(modules["llmbook"]):
            unseen.add(f"llmbook comes from {os.path.dirname(modules['llmbook'])}")
        if any(name.startswith("multiprocessing.popen_") for name in modules):
            unseen.add("it starts processes")
        return {
            "format": FORMAT,
            "files": sorted(path for path in paths if path),
            "folders": sorted(path for path in map(self._inside, self._listed) if path),
            "unseen": sorted(unseen),
        }

    def publish(self):
        """Display what was used as an output that carries only data."""
        from IPython.display import display

        display({MIME: self.found()}, raw=True)


def _absolute(path):
    return os.path.abspath(os.fsdecode(path))


def _words(value):
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _words(one)
    elif isinstance(value, (str, bytes, os.PathLike)):
        yield os.fsdecode(value)
