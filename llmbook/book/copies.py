"""Executed copies: where they lie, and whether what they were made of is still the same.

A copy lies in `_build/executed/`, under its chapter, profile, seed and a hash. At its execution
it was recorded what it used (`usage.py`): modules of `llmbook` and files opened, beside
`requirements.txt` and the notebook's own source. The copy carries that record, each file with its
digest, and is valid while none of them changed. Where the record cannot be complete (another
process may have used more), it holds every file and folder of `llmbook/`. A new file counts where
it hides a used one, where an import looked for it in vain, or where its folder was listed.
"""

import dataclasses
import hashlib
import json
import time
from pathlib import Path

import llmbook
from llmbook.book.root import find_root, read_notebook
from llmbook.book.usage import FORMAT

GONE = ""  # the digest of a file that is not there
_DIGITS = 16


@dataclasses.dataclass(frozen=True)
class Job:
    """One execution: a notebook at a profile with a seed."""

    notebook: Path
    profile: str
    seed: int

    @property
    def root(self):
        """The book whose package the notebook uses: the one it lies in, or else the one here."""
        here = Path(llmbook.__file__).parents[1]
        for start in (self.notebook.parent, None, here):
            try:
                return find_root(start)
            except FileNotFoundError:
                continue
        raise FileNotFoundError(
            f"no book here: go to the book's folder to execute {self.notebook}"
        )

    @property
    def folder(self):
        """Where the book keeps executed copies."""
        return self.root / "_build" / "executed"

    @property
    def name(self):
        """What the files of this job begin with; two notebooks of one name have two."""
        stem = self.notebook.stem
        if self.notebook.parent != self.root / "chapters":
            stem += "-" + _digest(str(self.notebook).encode())[:8]
        return f"{stem}.{self.profile}.seed{self.seed}"

    def __str__(self):
        return f"{self.notebook.stem}, profile {self.profile}, seed {self.seed}"


def job_of(notebook, profile="quick", seed=0):
    """The job of executing a notebook, given its path."""
    return Job(Path(notebook).resolve(), profile, seed)


def valid_copy(job, tree=None):
    """The job's executed copy that was made of what is there now, or None."""
    tree = tree or Tree(job.root)
    return next((path for path, why in _judged(job, tree) if not why), None)


def why_stale(job, tree=None):
    """Why the job would be executed: "" when there is a valid copy."""
    reasons = [why for _, why in _judged(job, tree or Tree(job.root))]
    return "" if "" in reasons else (reasons[-1] if reasons else "never executed")


def last_run(job):
    """What was noted about the job's last finished execution, valid or not; {} when none was."""
    for path in copies(job):
        try:
            return read_notebook(path)["metadata"]["llmbook"]
        except (KeyError, ValueError, OSError):
            continue
    return {}


def failed_path(job):
    """Where what ran before an error is kept."""
    return job.folder / f"{job.name}.failed.ipynb"


def copies(job):
    """The job's finished copies, oldest first."""
    found = []
    for path in job.folder.glob(f"{job.name}.*.ipynb"):
        middle = path.name.removeprefix(job.name + ".").removesuffix(".ipynb")
        if len(middle) == _DIGITS:  # others are failed or unfinished
            found.append(path)
    return sorted(found, key=lambda path: path.stat().st_mtime)


class Tree:
    """The files of a book's folder as they are now: each is read once."""

    def __init__(self, root):
        self.root = root
        self._known, self._made = {}, time.time()

    def look_at_everything(self, notebook):
        """Read package and notebook now, before an execution: they may change during it."""
        for name in ["requirements.txt", *self.package()]:
            self.digest(name)
        self._known["the notebook"] = source_digest(notebook)

    def digest(self, name):
        """The digest of a file, or of the names in a folder (its name ends with "/")."""
        if name not in self._known:
            self._known[name] = self._look(name)
        return self._known[name]

    def digest_before(self, name):
        """The digest that a file had when this was made; a word where it changed since."""
        path = self.root / name
        if name not in self._known and path.is_file() and path.stat().st_mtime > self._made:
            return "changed during the execution"
        return self.digest(name)

    def _look(self, name):
        path = self.root / name
        if name.endswith("/"):
            names = sorted(p.name for p in path.glob("*") if _counts(p)) if path.is_dir() else ()
            return _digest("\0".join(names).encode()) if names else GONE
        if not path.is_file():
            return GONE
        content = path.read_bytes()
        if path.suffix == ".py" and (path.with_suffix("") / "__init__.py").is_file():
            content += b"\0hidden by the package beside it"
        return _digest(content)

    def package(self):
        """Every file of `llmbook/`."""
        files = (self.root / "llmbook").rglob("*")
        return [p.relative_to(self.root).as_posix() for p in files if p.is_file() and _counts(p)]

    def folders(self):
        """Every folder of `llmbook/`."""
        return sorted({file.rpartition("/")[0] for file in self.package()})


def made_of(used, tree):
    """{name: digest} of what an execution was made of, given what it used.

    `used` is what `usage.Usage.found` tells, or None when nothing was recorded. `tree` has looked
    at everything before the execution: a file changed meanwhile makes the copy stale at once.
    """
    complete = used and used.get("format") == FORMAT and not used["unseen"]
    names = {"the notebook", "requirements.txt"}
    if complete:
        names |= set(used["files"]) | {f"{folder}/" for folder in used["folders"]}
        weights = {n.rpartition("/")[0] for n in names if n.startswith("llmbook/weights/")}
        names |= {n for n in tree.package() if n.rpartition("/")[0] in weights}
    else:
        names |= {*tree.package(), *(f"{folder}/" for folder in tree.folders())}
    return {name: tree.digest_before(name) for name in sorted(names)}


def source_digest(notebook):
    """The digest of a notebook's cells; outputs do not count."""
    cells = read_notebook(notebook)["cells"]
    parts = [
        [c["cell_type"], "".join(c["source"]), c.get("metadata", {}).get("tags", [])]
        for c in cells
    ]
    return _digest(json.dumps(parts).encode())


def hash_of(made):
    """The hash under which a copy made of this lies."""
    return _digest(json.dumps(sorted(made.items())).encode())


def _judged(job, tree):
    """(path, why it is stale or "") for each finished copy."""
    copies_there = copies(job)
    source = source_digest(job.notebook) if copies_there else ""
    for path in copies_there:
        try:
            made = dict(read_notebook(path)["metadata"]["llmbook"]["made_of"])
        except (KeyError, TypeError, ValueError, OSError):
            yield path, "its copy does not say what it was made of"
            continue
        changed = [
            n for n, digest in made.items() if n != "the notebook" and tree.digest(n) != digest
        ]
        if made.get("the notebook") != source:
            changed.insert(0, "the notebook")
        yield path, _told(changed) if changed else ""


def _told(names):
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"changed: {', '.join(names[:3])}{more}"


def _counts(path):
    return "__pycache__" not in path.parts and path.suffix != ".pyc"


def _digest(content):
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
