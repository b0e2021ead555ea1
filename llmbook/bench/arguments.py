"""What the commands' arguments may be; importing this costs nothing."""

import argparse
import os


def positive(text):
    """An argparse type: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1: got {text!r}")
    return int(text)


def check_json(file, refuse):
    """Refuse a place where no file can be written, before anything is run."""
    folder = file.resolve().parent
    if not folder.is_dir():
        refuse(f"--json: there is no folder {folder}")
    if file.is_dir() or not os.access(folder, os.W_OK):
        refuse(f"--json: cannot write a file at {file}")
