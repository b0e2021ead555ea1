"""The corpus that is on every machine: the documentation of Python and of the libraries installed.

It differs between versions, so every document has a side that does not: it is validation when
sha256(name) mod 20 = 0, on every machine. A model trained on it says which corpus it was
(`Corpus.card()`).
"""

import hashlib
import json
import platform
import re
import sys
import time
import warnings
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from llmbook.checks import one_of
from llmbook.data import docstrings
from llmbook.data.folders import cache_folder, write_atomically

_LIBRARIES = {
    "smoke": (),
    "quick": (),
    "full": ("numpy", "matplotlib", "torch", "sympy", "networkx"),
}
SIZES = tuple(_LIBRARIES)
_REQUIRED = ("numpy", "matplotlib", "torch")
_SPLITS = ("train", "validation", "all")
_QUICK_BUDGET = 2_000_000  # characters (bytes: the text is ASCII) of standard-library docstrings
_SHORTEST_DOCUMENT = 80  # characters
_REPEATABLE = 60  # characters; a paragraph shorter than this may occur in many documents
_LONGEST_SUMMARY = 200  # characters
_CALL = re.compile(r"[\w.]+\(")  # a "summary" that only shows how to call the function

QuestionAnswer = namedtuple("QuestionAnswer", "name question answer")


@dataclass(frozen=True)
class Document:
    """One docstring or topic: qualified name, text, a function's signature, one-line summary."""

    name: str
    text: str
    signature: str = ""
    summary: str = ""

    @property
    def split(self):
        return split_of(self.name)


class Corpus(Sequence):
    """Documents ordered by name, with what identifies them.

    `text`: the documents joined by an empty line; `characters`: their total without the joints;
    `sha256`: of names and texts; `versions`: what was read; `split` and `size` as asked for.
    """

    def __init__(self, documents, versions, split="all", size="quick"):
        self.documents, self.versions = tuple(documents), dict(versions)
        self.split, self.size = split, size

    def __len__(self):
        return len(self.documents)

    def __getitem__(self, index):
        return self.documents[index]

    def __repr__(self):
        return (
            f"<Corpus {self.size}, {self.split}: {len(self):,} documents, "
            f"{self.characters:,} characters, sha256 {self.sha256[:12]}>"
        )

    @cached_property
    def text(self):
        return self.join("\n\n")

    def join(self, separator):
        """The documents' texts as one string with `separator` between them."""
        return separator.join(document.text for document in self.documents)

    @cached_property
    def characters(self):
        return sum(len(document.text) for document in self.documents)

    @cached_property
    def sha256(self):
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(f"{document.name}\0{document.text}\0".encode())
        return digest.hexdigest()

    def card(self):
        """What a model card says of its training text, JSON-able."""
        return {
            "source": "documentation installed with Python",
            "size": self.size,
            "split": self.split,
            "documents": len(self),
            "characters": self.characters,
            "sha256": self.sha256,
            "versions": self.versions,
        }


def split_of(name):
    """`"validation"` when sha256(name) mod 20 = 0, else `"train"`: about one name in twenty."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return "validation" if int(digest, 16) % 20 == 0 else "train"


def documentation(split="train", size="quick"):
    """The documentation installed here, as a `Corpus` of printable ASCII text and newlines.

    `size="smoke"`: Python's topics alone, half a MB, read at once; `"quick"`: also at most 2 MB of
    standard-library docstrings, a few CPU-seconds when first read; `"full"`: all of those, and of
    numpy, matplotlib and torch, of sympy and networkx where installed, about a CPU-minute. Later
    calls read the cache folder. `split`: `"train"`, `"validation"` or `"all"`.

    A paragraph of 60 characters or more occurs once in the corpus, in the first document by name
    that has it, so no such paragraph is on both sides. Documents below 80 characters are left out.

    Raises ValueError for an unknown split or size, and where a library of `"full"` is missing.
    """
    entries, versions = _entries(split, size)
    kept = (entry for entry in entries if len(entry.text) >= _SHORTEST_DOCUMENT)
    return Corpus(kept, versions, split, size)


def question_answers(split="train", size="quick"):
    """Real question and answer pairs: what a public function does, from its documented summary.

    A list of `(name, question, answer)`: the question holds the function's qualified name and its
    signature, the answer is its one-line summary of at most 200 characters. No answer occurs twice
    in the corpus, so none is on both sides. Splits and sizes as for `documentation`.
    """
    one_of("split", split, _SPLITS)
    entries, _ = _entries("all", size)
    pairs, seen = [], set()
    for entry in entries:
        public = not any(part.startswith("_") for part in entry.name.split("."))
        key = entry.summary.lower().rstrip(".")
        asked = entry.signature and public and not _CALL.match(entry.summary)
        if not (asked and entry.summary) or key in seen:
            continue
        seen.add(key)
        if split in ("all", entry.split):
            question = f"What does {entry.name}{entry.signature} do?"
            pairs.append(QuestionAnswer(entry.name, question, entry.summary))
    return pairs


def _entries(split, size):
    """Documents and shorter entries of a split, from the cache or read now, and the versions."""
    one_of("split", split, _SPLITS)
    one_of("size", size, SIZES)
    versions = _versions(size)
    path = _cache_path(size, versions)
    entries = _load(path)
    if entries is None:
        entries = _unique(_read(size, versions))
        _store(path, entries)
    return [e for e in entries if split in ("all", e.split)], versions


def _versions(size):
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES[size]:
        if docstrings.package_folder(name) is not None:
            versions[name] = version(name)
        elif name in _REQUIRED:
            raise ValueError(f"size='full' reads the documentation of {name}: install it first")
    return versions


def _cache_path(size, versions):
    """One file for each set of versions and each revision of the code that reads and cleans."""
    digest = hashlib.sha256(json.dumps(versions).encode())
    for source in (Path(__file__), Path(docstrings.__file__)):
        digest.update(source.read_bytes())
    name = f"documentation-{size}-{versions['python']}-{digest.hexdigest()[:16]}.json"
    return cache_folder() / "corpus" / name


def _read(size, versions):
    """All `(name, signature, text)`, from the sources: topics, standard library, packages."""
    found = docstrings.topics()
    if size == "smoke":
        return found
    standard = docstrings.library(docstrings.standard_library())
    found += _within_budget(standard) if size == "quick" else standard
    for name in list(versions)[1:]:
        label = f"{name} {versions[name]}"
        folder = docstrings.package_folder(name)
        found += docstrings.library(folder, name, _Progress(f"reading documentation: {label}"))
    return found


class _Progress:
    """Plain lines, at most one in five seconds and one at the end: for notebooks and logs."""

    def __init__(self, label):
        self.label, self.next = label, time.monotonic() + 5

    def __call__(self, done, of):
        if done == of or time.monotonic() > self.next:
            print(f"{self.label}: {done:,} of {of:,} files", file=sys.stderr, flush=True)
            self.next = time.monotonic() + 5


def _within_budget(entries):
    """At most 2 MB, chosen by the hash of the name: nearly the same ones on every version."""
    chosen, total = [], 0
    for entry in sorted(entries, key=lambda e: hashlib.sha256(e[0].encode()).digest()):
        if total + len(entry[2]) <= _QUICK_BUDGET:
            chosen.append(entry)
            total += len(entry[2])
    return chosen


def _unique(found):
    """Documents ordered by name, each name once, each long paragraph only where it comes first."""
    entries, names, texts, seen = [], set(), set(), set()
    for name, signature, text in sorted(found):
        if name in names:
            continue
        names.add(name)
        paragraphs = text.split("\n\n")
        keys = [" ".join(paragraph.lower().split()) for paragraph in paragraphs]
        kept = [p for p, key in zip(paragraphs, keys) if len(key) < _REPEATABLE or key not in seen]
        seen.update(keys)
        text = "\n\n".join(kept)
        if text in texts or (kept != paragraphs and len(text) < _SHORTEST_DOCUMENT):
            continue  # earlier documents say it all, or all but a few words
        texts.add(text)
        entries.append(Document(name, text, signature, _summary(paragraphs[0])))
    return entries


def _summary(paragraph):
    """A first paragraph as one line; where it is long, its first sentence; else nothing."""
    line = " ".join(paragraph.split())
    if len(line) > _LONGEST_SUMMARY:
        line = re.split(r"(?<=[a-z)`\"']\.) (?=[A-Z])", line)[0]
    return line if len(line) <= _LONGEST_SUMMARY else ""


def _store(path, entries):
    body = json.dumps([[e.name, e.text, e.signature, e.summary] for e in entries]).encode()
    head = json.dumps({"sha256": hashlib.sha256(body).hexdigest()}).encode()
    try:
        write_atomically(path, head + b"\n" + body)
    except OSError as error:
        warnings.warn(
            f"the corpus could not be kept in {path.parent} ({error}): it will be read again next "
            "time; name a writable folder in LLMBOOK_CACHE",
            stacklevel=2,
        )


def _load(path):
    """The entries of a cache file; None where there is none or it is damaged (with a warning)."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        warnings.warn(f"{path} can't be read ({error}): reading the sources again", stacklevel=2)
        return None
    try:
        expected = json.loads(head)["sha256"]
    except (ValueError, KeyError, TypeError):
        expected = "no checksum"
    got = hashlib.sha256(body).hexdigest()
    if got != expected:
        warnings.warn(
            f"{path} is damaged (sha256 {got}, expected {expected}): rebuilding it", stacklevel=2
        )
        return None
    return [Document(*fields) for fields in json.loads(body)]
