"""What the races of one machine gave, for the page of benchmarks: read, summed up, drawn.

`python -m llmbook bench --json llmbook/book/recorded/bench.json` records them.
"""

import html
import json
import math
from pathlib import Path

FILE = Path(__file__).parent / "recorded" / "bench.json"
SHARED = 0.25  # processes that run or wait, for each core: a machine with more of them is shared
WIDTH, HEIGHT, REACH = 150, 18, 16  # of a case's picture; its axis goes from 1/16 to 16


def recorded(file=FILE):
    """What is recorded, or None."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def cases(found):
    """(race, outcome) of every case."""
    return [(name, one) for name, race in found["races"].items() for one in race["outcomes"]]


def lost(found):
    """The cases in which the peer is faster, the worst first."""
    slower = [one for one in cases(found) if one[1]["speed"]["median"] < 1]
    return sorted(slower, key=lambda one: one[1]["speed"]["median"])


def shared(found):
    """Whether other work ran on the machine when the races began."""
    return (found["waiting"] or 0) > SHARED * found["cores"]


def picture(speed):
    """A case as markup: a line from the 20th to the 80th percentile, a dot at the median.

    The axis is logarithmic, equal in the middle, twice as fast as far to the right as half as
    fast is to the left. What lies beyond stands at its end. Grey where the line reaches 1.
    """

    def at(ratio):
        share = 0.5 + math.log(max(ratio, 1e-9)) / (2 * math.log(REACH))
        return 6 + (WIDTH - 12) * min(max(share, 0.0), 1.0)

    median, low, high = (at(speed[key]) for key in ("median", "p20", "p80"))
    kind = "ours" if speed["p20"] > 1 else "peers" if speed["p80"] < 1 else "even"
    said = html.escape(
        f"{speed['median']:.2f}, 20th to 80th percentile {speed['p20']:.2f} to {speed['p80']:.2f}"
    )
    y = HEIGHT / 2
    return (
        f'<svg class="ratio ratio-{kind}" role="img" aria-label="{said}" width="{WIDTH}" '
        f'height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg">'
        f'<line class="equal" x1="{WIDTH / 2}" y1="0" x2="{WIDTH / 2}" y2="{HEIGHT}"/>'
        f'<line class="spread" x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}"/>'
        f'<circle cx="{median:.1f}" cy="{y}" r="4.5"/></svg>'
    )
