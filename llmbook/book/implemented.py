"""What is implemented: every system, where it lives, what holds it to account, where it is taught.

The rows are in `implemented.json`; `tests/book/test_implemented.py` holds them to what is there.
"""

import json
from pathlib import Path
from typing import NamedTuple


class System(NamedTuple):
    """One row. where: "module" or "module: Name Name"; taught: "notebook" or "notebook: Heading".

    Modules are named without `llmbook.`, tests without `tests/`. peer: what it is compared with.
    """

    name: str
    where: list
    tests: list
    peer: str
    taught: list


TABLE = Path(__file__).with_name("implemented.json")


def systems():
    """{group: [System]} in the order of the page."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return {group: [System(**row) for row in rows] for group, rows in table.items()}


def split(entry):
    """("module", [names]) of "module: Name Name"."""
    module, _, names = entry.partition(": ")
    return module, names.split()
