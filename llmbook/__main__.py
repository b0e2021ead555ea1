"""The command line: `python -m llmbook COMMAND`."""

import importlib
import sys

COMMANDS = {
    "run": ("llmbook.book.run", "execute chapters and tell time and memory"),
    "train": ("llmbook.training.command", "train a GPT from raw text to a model folder"),
    "record": ("llmbook.experiments.record", "train again what the book shows as recorded"),
    "bench": ("llmbook.bench", "race our code against the libraries people use"),
    "calibrate": (
        "llmbook.book.calibrate",
        "record what a chapter's trained claims measure over seeds",
    ),
    "grade": (
        "llmbook.book.grade",
        "execute a student's notebook and list which exercises are right",
    ),
    "tidy": ("llmbook.book.notebook", "bring notebooks into the form in which they are committed"),
    "gpu": (
        "llmbook.book.gpu",
        "run what only a GPU can show, within minutes; take its results in",
    ),
    "pdf": ("llmbook.book.pdf", "print the whole book as one PDF"),
    "address": ("llmbook.book.address", "write the repository's address everywhere it belongs"),
}


def usage():
    """The help text: every command in a line."""
    rows = "\n".join(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items())
    return f"usage: python -m llmbook COMMAND [--help]\n\n{rows}"


def main(argv=None):
    """Call the command's own `main`, which is imported only then; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        print(f"unknown command {argv[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
