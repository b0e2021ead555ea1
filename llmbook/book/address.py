"""The repository's address, written by one command into every place that needs it.

The places: `_config.yml` (repository and Colab buttons), each chapter's first cell (the
installation on Colab) and the README's links. `_config.yml` is the one that is read back.
"""

import argparse
import re

import llmbook
from llmbook.book.notebook import as_text, committed_form
from llmbook.book.root import address, chapters, find_root, read_notebook

_MARK = re.compile(
    r"(?P<begin>^(?:#|<!--) address: begin.*\n)"
    r"(?P<body>(?:.*\n)*?)"
    r"(?P<end>^(?:#|<!--) address: end)",
    re.MULTILINE,
)
GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com"
_URL = re.compile(r"(https://[\w.-]+(/[\w.-]+){2,}|file:///\S+)")


def normalise(url):
    """A repository address without a trailing slash or `.git`; ValueError for anything else."""
    url = url.strip().rstrip("/").removesuffix(".git")
    if not _URL.fullmatch(url):
        raise ValueError(f"the address must read like https://github.com/OWNER/NAME: got {url!r}")
    return url


def config_block(where):
    """The lines of `_config.yml` between its address marks."""
    if not where:
        return ""
    return (
        f"repository:\n  url: {where}\n  branch: v{llmbook.__version__}\n  path_to_book: .\n"
        f"launch_buttons:\n  colab_url: {COLAB}\n"
    )


def colab(where, page):
    """Where Colab opens a page's notebook from the repository, at this version's tag."""
    repository = where.removeprefix(GITHUB)
    return f"{COLAB}/github/{repository}/blob/v{llmbook.__version__}/{page}.ipynb"


def readme_block(where, names):
    """The lines of the README between its address marks: a Colab link for each chapter."""
    if not where:
        return (
            "The repository's address is not set yet, so there are no Colab links. "
            "One command writes it\n"
            "everywhere it belongs: `python -m llmbook address https://github.com/OWNER/NAME`.\n"
        )
    return "".join(f"- [{name}]({colab(where, f'chapters/{name}')})\n" for name in names)


def _replace(text, block, file):
    if not _MARK.search(text):
        raise ValueError(f"{file} has no lines 'address: begin' and 'address: end'")
    return _MARK.sub(lambda m: m["begin"] + block + m["end"], text)


def set_address(root, where):
    """Write the address into `_config.yml`, README.md and every chapter; "" removes it."""
    where = normalise(where) if where else ""
    notebooks = chapters(root)
    for file, block in (
        ("_config.yml", config_block(where)),
        ("README.md", readme_block(where, [n.stem for n in notebooks])),
    ):
        text = (root / file).read_text(encoding="utf-8")
        (root / file).write_text(_replace(text, block, file), encoding="utf-8")
    for path in notebooks:
        text = as_text(committed_form(read_notebook(path), where))
        path.write_text(text, encoding="utf-8")


def main(argv=None):
    """`python -m llmbook address URL`: write it everywhere; without URL print what is set."""
    parser = argparse.ArgumentParser(
        prog="python -m llmbook address",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", nargs="?", help="https://github.com/OWNER/NAME")
    parser.add_argument("--unset", action="store_true", help="remove the address everywhere")
    args = parser.parse_args(argv)
    try:
        root = find_root()
        if args.url or args.unset:
            set_address(root, "" if args.unset else args.url)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    print(address(root) or "no address is set")
    return 0
