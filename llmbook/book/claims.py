"""Claims: statements from the ledger, each settled by what a chapter has just measured.

The ledger (`ledger/<chapter>.json`) holds for each statement its verdict (correct, loose, dated,
debatable, wrong) and a note with the right statement. A chapter settles a row by calling `claim`
with the evidence; evidence that does not hold stops the chapter.
"""

import difflib
import html
import math
import operator

from llmbook.book.chapter import current_run
from llmbook.book.display import publish
from llmbook.book.records import ledger, recorded, rows_of

CLAIM_MIME = "application/vnd.llmbook.claim+json"
_RELATIONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


class ClaimError(AssertionError):
    """The evidence does not support the claim, so the chapter stops."""


def _plain(name, value):
    """A number or string that JSON holds, from Python's, NumPy's and torch's scalars."""
    if isinstance(value, (list, tuple)):
        return [_plain(name, v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, (bool, int, float, str)):
        raise TypeError(
            f"measured[{name!r}] must be a number, a string or a list of numbers: got "
            f"{type(value).__name__}"
        )
    return value


def parse_bound(text):
    """Split a bound such as `">= 0.95"` into `(">=", 0.95)`."""
    relation, _, number = str(text).partition(" ")
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if relation not in _RELATIONS or not math.isfinite(limit):
        raise ValueError(
            f"a bound reads like '>= 0.95' (one of >= <= > <, a space, a number): got {text!r}"
        )
    return relation, limit


def within(value, bound):
    """Whether a number, or every number of a list, satisfies a bound such as `">= 0.95"`."""
    relation, limit = parse_bound(bound)
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(_RELATIONS[relation](v, limit) for v in values)


def _row(id, chapter):
    """The row of the ledger: from the running chapter's own file where it stands there."""
    own = rows_of(chapter) if chapter else {}
    if id in own:
        return own[id]
    rows = ledger()
    if id not in rows:
        near = difflib.get_close_matches(str(id), rows, n=1)
        raise ValueError(
            f"unknown claim {id!r}" + (f": did you mean {near[0]!r}?" if near else "")
        )
    return rows[id]


def claim(id, measured, *, holds=None, bounds=None):
    """Settle one row of the ledger with what was measured.

    `measured` is a number, a string, or a dict from a name with its unit to a number (or to a list,
    one per seed). Exactly one of two judgements is given:

    * `holds`: a bool, for what is exact or counted;
    * `bounds`: for what was trained, a dict from measured names to bounds such as `">= 0.95"`.
      `python -m llmbook calibrate` records the spread of these over seeds. At the `smoke` profile,
      which trains for a few steps only, they are recorded and not judged.

    Raises ClaimError when the evidence does not hold, ValueError or TypeError for bad arguments.
    """
    run = current_run()
    row = _row(id, run.chapter if run else None)
    if run is not None and row["chapter"] != run.chapter:
        raise ValueError(
            f"claim {id!r} belongs to chapter {row['chapter']!r}, not {run.chapter!r}"
        )
    if (holds is None) == (bounds is None):
        raise ValueError(f"claim {id!r} needs exactly one of holds= and bounds=")
    measured = measured if isinstance(measured, dict) else {"measured": measured}
    if not measured:
        raise ValueError(f"claim {id!r} needs at least one measured value")
    measured = {str(name): _plain(name, value) for name, value in measured.items()}
    judged = True
    if bounds is not None:
        unknown = sorted(set(bounds) - set(measured))
        if unknown or not bounds:
            raise ValueError(
                f"claim {id!r}: bounds name {unknown or 'nothing'}, measured has {sorted(measured)}"
            )
        failed = [name for name, bound in bounds.items() if not within(measured[name], bound)]
        holds = not failed
        judged = run is None or run.profile != "smoke"
    elif type(holds).__name__ not in ("bool", "bool_"):
        raise TypeError(f"claim {id!r}: holds must be a bool, got {type(holds).__name__}")
    if judged and not holds:
        raise ClaimError(
            f"claim {id!r} does not hold: measured {measured}"
            + (f", bounds {bounds}" if bounds else "")
        )
    record = {
        "id": id,
        "measured": measured,
        "holds": bool(holds),
        "judged": judged,
        "bounds": bounds or {},
    }
    in_order = list(measured.items())  # as pairs: a notebook's file sorts the keys of its JSON
    publish(
        _as_text(row, record), _as_html(row, record), {CLAIM_MIME: record | {"measured": in_order}}
    )


def format_value(value):
    """A measured value as a reader sees it: four significant digits, lists as a range."""
    if isinstance(value, list):
        return " / ".join(format_value(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def spread(values):
    """A recorded list of values as text: the range when they differ."""
    low, high = min(values), max(values)
    return format_value(low) if low == high else f"{format_value(low)} to {format_value(high)}"


def _evidence(row, record):
    """(name, value, bound, recorded spread) for each measured value, as text."""
    past = recorded(row["chapter"]).get(row["id"], {})
    for name, value in record["measured"].items():
        yield (
            name,
            format_value(value),
            record["bounds"].get(name, ""),
            spread(past[name]) if name in past else "",
        )


def _as_text(row, record):
    state = "holds" if record["judged"] else "recorded, not judged at this profile"
    lines = [f"claim {row['id']} ({row['verdict']}): {state}"]
    for name, value, bound, past in _evidence(row, record):
        lines.append(
            f"  {name}: {value}"
            + (f"  [{bound}]" if bound else "")
            + (f"  (recorded: {past})" if past else "")
        )
    return "\n".join(lines)


def _as_html(row, record):
    e = html.escape
    cells = "".join(
        f"<tr><th scope='row'>{e(name)}</th><td>{e(value)}</td><td>{e(bound)}</td><td>{e(past)}</td></tr>"
        for name, value, bound, past in _evidence(row, record)
    )
    head = (
        "<tr><th scope='col'>measured here</th><th scope='col'>value</th>"
        "<th scope='col'>must be</th><th scope='col'>recorded, other seeds</th></tr>"
    )
    if not record["bounds"]:
        head, cells = (
            "",
            "".join(
                f"<tr><th scope='row'>{e(name)}</th><td>{e(value)}</td></tr>"
                for name, value, _, _ in _evidence(row, record)
            ),
        )
    unjudged = "" if record["judged"] else "<p>Recorded, not judged at this profile.</p>"
    return (
        f'<div class="claim claim-{row["verdict"]}" id="claim-{row["id"]}">'
        f'<p class="claim-head"><span class="claim-verdict">{row["verdict"]}</span> '
        f'{e(row["statement"])}</p><p class="claim-note">{e(row["note"])}</p>'
        f'<table class="claim-evidence">{head}{cells}</table>{unjudged}</div>'
    )
