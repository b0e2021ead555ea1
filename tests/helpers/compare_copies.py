"""What two folders of executed copies print differently, chapter by chapter, cell by cell.

    python tests/helpers/compare_copies.py BEFORE AFTER

For a change that must change no number: copy `_build/executed` before it, execute again after
it, and compare. Cells are paired by their ids; lines that tell times, speeds or memory are left
out, and so are claims measured in them. Exit status 1 when anything else differs.
"""

import difflib
import json
import re
import sys
from pathlib import Path

CLAIM_MIME = "application/vnd.llmbook.claim+json"
MEASURED = re.compile(
    r"\d\s*(?:ns|µs|us|ms|s|min|seconds|minutes|MB|GB|kB)\b|/s\b|second|\btimes? |×|speed|faster"
    r"|slower",
    re.IGNORECASE,
)
ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


def printed(cell):
    """The lines that a code cell shows, without those that tell a time, speed or memory."""
    lines = []
    for out in cell.get("outputs", []):
        data = out.get("data", {})
        if CLAIM_MIME in data:
            record = data[CLAIM_MIME]
            lines += [f"{record['id']}: {name} = {value}" for name, value in record["measured"]]
        else:
            text = out.get("text", data.get("text/plain", ""))
            lines += "".join(text).splitlines()
    kept = [line.rstrip() for line in lines if line.strip() and not MEASURED.search(line)]
    return [ADDRESS.sub("0x…", line) for line in kept]


def differences(before, after):
    """A line of text for each difference between two notebooks, the cell's id before it."""
    old, new = (
        {cell["id"]: cell for cell in notebook["cells"] if cell["cell_type"] == "code"}
        for notebook in (before, after)
    )
    drawn = [f"{id}: only before" for id in old if id not in new and not _injected(old[id])]
    drawn += [f"{id}: only after" for id in new if id not in old and not _injected(new[id])]
    for id in [id for id in old if id in new]:
        lines = difflib.unified_diff(printed(old[id]), printed(new[id]), lineterm="", n=0)
        drawn += [f"{id}: {line}" for line in list(lines)[2:] if not line.startswith("@@")]
    return drawn


def _injected(cell):
    return "injected-parameters" in cell["metadata"].get("tags", [])


def folder(path):
    """{chapter, profile and seed: notebook} of the copies in a folder."""
    # finished copies only: others are called failed or part
    files = sorted(Path(path).glob("*.seed*." + "[0-9a-f]" * 16 + ".ipynb"))
    return {
        ".".join(file.name.split(".")[:3]): json.loads(file.read_text(encoding="utf-8"))
        for file in files
    }


def main(before, after):
    """Print the differences; 1 when there are any."""
    old, new = folder(before), folder(after)
    status = int(set(old) != set(new))
    for name in sorted(set(old) | set(new)):
        if name in old and name in new:
            found = differences(old[name], new[name])
        else:
            found = [f"only {'before' if name in old else 'after'}"]
        print(f"{name}: {len(found) or 'no'} differences")
        print("".join(f"    {line}\n" for line in found), end="")
        status |= bool(found)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
