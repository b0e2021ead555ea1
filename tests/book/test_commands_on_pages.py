"""Every command that a page or the README shows is one that the command line takes."""

import argparse
import json
import re
import shlex
from pathlib import Path

import pytest

from llmbook.__main__ import COMMANDS, main
from llmbook.book.root import find_root

ROOT = find_root(Path(__file__).parent)
# A word that stands for something: what a reader would put there.
STANDS_FOR = {"NAME": "inference", "PATH": "hand-ins", "FOLDER": "out", "URL": "https://x.org/a/b"}
COMMAND = re.compile(r"(?:python|torchrun [^`\n]*) -m llmbook[^`\n\"'#<|]*")


class Taken(Exception):
    """The arguments were understood."""


def texts():
    """(where, markdown) of every page and of the README."""
    for page in sorted((ROOT / "chapters").glob("*.md")) + [ROOT / "README.md"]:
        yield page.name, page.read_text(encoding="utf-8")
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield (
            path.name,
            "\n\n".join(
                "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
            ),
        )


def options(line):
    """The words of a command that llmbook is given."""
    return shlex.split(line.partition(" -m llmbook")[2])


def commands():
    """Each different one with the page on which it is found first."""
    found = {}
    for where, text in texts():
        for match in COMMAND.findall(text):
            line = match.split(";")[0].split(" and ")[0].rstrip(" .,:)")
            if len(options(line)) > 1:  # a command's name alone is a word of the sentence
                found.setdefault(line, where)
    return [(where, line) for line, where in found.items()]


def test_a_command_that_is_only_named_is_there():
    named = {
        words[0]
        for _, text in texts()
        for match in COMMAND.findall(text)
        if (words := match.partition(" -m llmbook")[2].split())
    }
    assert named <= set(COMMANDS), named - set(COMMANDS)


@pytest.mark.parametrize("where, line", commands())
def test_a_command_on_a_page_is_one_that_the_command_line_takes(where, line, monkeypatch):
    assert line.isascii()  # a long dash, which a program may set for two, makes an option a name
    words = [STANDS_FOR.get(word, word) for word in options(line)]
    real = argparse.ArgumentParser.parse_args

    def parse(self, *given, **named):
        real(self, *given, **named)
        raise Taken

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(Taken):
        main(words)


def test_the_pages_show_commands():
    assert len(commands()) > 10
