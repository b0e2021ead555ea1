"""Reading documentation from what is installed: Python's topics, and docstrings through `ast`.

No module is imported for it: its source is parsed, so nothing runs and nothing is compiled.
"""

import ast
import importlib.util
import re
import sysconfig
import unicodedata
import warnings
from pathlib import Path

# Not documentation of a library: tests, vendored packages, demonstrations; and what newer versions
# of Python lack (so that the corpus differs less between versions).
_SKIPPED = {
    "test",
    "tests",
    "testing",
    "_internal",
    "site-packages",
    "dist-packages",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "ensurepip",
    "distutils",
    "__pycache__",
}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_SHORTEST = 15  # characters; a docstring below this says nothing

_TYPOGRAPHIC = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        "–": "-",
        "—": "-",
        "−": "-",
        "…": "...",
        "≤": "<=",
        "≥": ">=",
        "≠": "!=",
        "×": "x",
        "→": "->",
        "←": "<-",
        "•": "*",
        "·": "*",
        "ß": "ss",
    }
)
_CONTROL = re.compile(r"[^\n -~]")
_UNDERLINE = re.compile(r"(?m)(?<=\S\n)[ ]*([-=*~^#\"'`+.:])\1{2,}$\n?")
_ROLE = re.compile(r":[a-z][a-z:+-]*:`[~!]?([^`<]+?)(?:\s*<[^`]*>)?`")
_LITERAL = re.compile(r"``([^`\n]+)``")
_EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}(\w(?:[^*\n]*\w)?)\*{1,2}(?![\w*])")


def clean(text, emphasis=False):
    """One docstring or topic as plain text: printable ASCII and newlines, and nothing else.

    Typographic characters become ASCII ones, other letters lose their accents, what remains is
    dropped; markup goes (underlines of headings, Sphinx roles, double backquotes, and `*emphasis*`
    where `emphasis=True`); no tab, no blank at the end of a line, at most one empty line in a row.
    """
    text = unicodedata.normalize("NFKD", text.translate(_TYPOGRAPHIC))
    text = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    text = re.sub(r"(?m) +$", "", _CONTROL.sub("", text))
    text = _UNDERLINE.sub("", text)
    text = _LITERAL.sub(r"`\1`", _ROLE.sub(r"`\1`", text))
    if emphasis:
        text = _EMPHASIS.sub(r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n").rstrip()


def topics():
    """Python's language reference by topic, `[(name, signature, text), …]`: `help()` shows it."""
    from pydoc_data.topics import topics as found

    return [(f"pydoc_data.topics.{k}", "", clean(v, emphasis=True)) for k, v in found.items()]


def standard_library():
    """Folder of the standard library's source; ValueError where it is not there as files."""
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "argparse.py").is_file():
        raise ValueError(
            f"the standard library's source files are not in {folder}: the corpus is read from "
            "them; use a Python that has them (not an embedded or zipped one)"
        )
    return folder


def package_folder(package):
    """Folder of an installed package, found without importing it; None where there is none."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def source_files(folder):
    """The Python files of a library, without its tests, in a fixed order."""
    files = [(path.relative_to(folder).parts, path) for path in folder.rglob("*.py")]
    return [path for parts, path in sorted(files) if not _SKIPPED & set(parts[:-1])]


def docstrings(path, module):
    """Docstrings of one file, `[(qualified name, signature, text), …]`; [] where it can't be read.

    `signature` is `(obj, *, indent=None)` for a function, without `self` or `cls`, else empty. A
    name defined twice (an overload, a property's setter) counts once: its first docstring.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's source
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []  # templates and files for another version of Python lie among the modules
    found = {}

    def visit(node, name):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, _DEFINITIONS):
                record(child, f"{name}.{child.name}")
                visit(child, f"{name}.{child.name}")
            elif isinstance(child, (ast.stmt, ast.ExceptHandler)):
                visit(child, name)

    def record(node, name):
        text = ast.get_docstring(node)
        if text and name not in found:
            text = clean(text)
            if len(text) >= _SHORTEST:
                found[name] = (name, _signature(node), text)

    record(tree, module)
    visit(tree, module)
    return list(found.values())


def _signature(node):
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return ""
    for group in (node.args.posonlyargs, node.args.args):
        if group and group[0].arg in ("self", "cls", "mcs"):
            del group[0]
            break
    return f"({ast.unparse(node.args)})"


def library(folder, name="", progress=None):
    """All docstrings below a folder. `name`: the package's, empty for the standard library.

    `progress(done, of)` is called after each file.
    """
    files = source_files(folder)
    found = []
    for i, path in enumerate(files):
        parts = [name] * bool(name) + list(path.relative_to(folder).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found += docstrings(path, ".".join(parts))
        if progress:
            progress(i + 1, len(files))
    return found
