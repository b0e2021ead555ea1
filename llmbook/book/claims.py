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
from llmbook.book.records import ledger, papers_of, recorded, rows_of
from llmbook.book.typeset import to_html

CLAIM_MIME = "application/vnd.llmbook.claim+json"
IN_A_LINE = 44  # characters of values that a row keeps together
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


def claim(id, measured=None, *, holds=None, bounds=None, by_references=False, box=True):
    """Settle one row of the ledger with what was measured.

    `measured` is a number, a string, or a dict from a name with its unit to a number (or to a
    list, one per seed). Exactly one of two judgements is given:

    * `holds`: a bool, for what is exact or counted;
    * `bounds`: for what was trained, a dict from measured names to bounds such as `">= 0.95"`.
      `python -m llmbook calibrate` records the spread of these over seeds. At the `smoke` profile,
      which trains for a few steps only, they are recorded and not judged.

    A row of history or of definitions is settled by publications, with `by_references=True` in
    place of a measurement: it holds when each of its references has an address, and says so.

    The result is shown in a box; with `box=False` it waits for the table of the others, which
    `run.checked()` prints at the end of a chapter.

    Raises ClaimError when the evidence does not hold, ValueError or TypeError for bad arguments.
    """
    run = current_run()
    row = _row(id, run.chapter if run else None)
    if run is not None and row["chapter"] != run.chapter:
        raise ValueError(
            f"claim {id!r} belongs to chapter {row['chapter']!r}, not {run.chapter!r}"
        )
    if by_references:
        if not (measured is holds is bounds is None):
            raise ValueError(f"claim {id!r} is settled by references: it takes no measurement")
        addresses = [papers_of(row["chapter"])[key][1] for key in row["reference"]]
        measured = {"publications that settle this": len(addresses)}
        holds = bool(addresses) and all(addresses)
    if measured is None:
        raise ValueError(f"claim {id!r} needs measured=, or by_references=True")
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
                f"claim {id!r}: bounds name {unknown or 'nothing'}, "
                f"measured has {sorted(measured)}"
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
        **({"by": "references"} if by_references else {}),
    }
    in_order = list(measured.items())  # as pairs: a notebook's file sorts the keys of its JSON
    text, data = _as_text(row, record), {CLAIM_MIME: record | {"measured": in_order}}
    if not box:
        if run is None:
            raise ValueError(f"claim {id!r} with box=False needs a chapter: call start() first")
        run.unboxed[id] = (text, _as_row(row, record))
    publish(text, _as_html(row, record) if box else "<span hidden></span>", data)


_SUPER = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_value(value):
    """A measured value as a reader sees it: 0.9646, 37,888,000, 6.7·10⁻¹⁶; lists with slashes."""
    if isinstance(value, list):
        return " / ".join(format_value(v) for v in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace("-", "−")
    if not isinstance(value, float):
        return str(value)
    if value and math.isfinite(value) and not 1e-3 <= abs(value) < 1e7:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits}·10{str(int(power)).translate(_SUPER)}".replace("-", "−")
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def spread(values):
    """A recorded list of values as text: the range when they differ."""
    low, high = min(values), max(values)
    return format_value(low) if low == high else f"{format_value(low)} to {format_value(high)}"


def _evidence(row, record):
    """(name, value, bound, recorded spread) for each measured value, as text."""
    past = _past(row, record)
    for name, value in record["measured"].items():
        yield (
            name,
            format_value(value),
            record["bounds"].get(name, ""),
            spread(past[name]) if name in past else "",
        )


def is_record(name):
    """Does a measured value's name say that it comes from a record, and not from this run?"""
    return name.startswith("recorded")


def _past(row, record):
    """{name: what other seeds gave} of what was measured in this run."""
    past = recorded(row["chapter"]).get(row["id"], {})
    return {n: past[n] for n in record["measured"] if n in past and not is_record(n)}


def _recorded_name(row, record):
    """The head of the column of recorded spreads, with the number of seeds behind them."""
    seeds = max(map(len, _past(row, record).values()), default=0)
    return f"recorded, {seeds} other seeds" if seeds else "recorded"


def _as_text(row, record):
    state = "holds" if record["judged"] else "recorded, not judged at this profile"
    lines = [f"claim {row['id']} ({row['verdict']}): {state}"]
    name_of_past = _recorded_name(row, record)
    for name, value, bound, past in _evidence(row, record):
        lines.append(
            f"  {name}: {value}"
            + (f"  [{bound}]" if bound else "")
            + (f"  ({name_of_past}: {past})" if past else "")
        )
    return "\n".join(lines)


def _as_html(row, record):
    """The box: verdict, statement, where one meets it, the note, what was measured."""
    met = f'<p class="claim-met">{html.escape(row["met"])}</p>' if row.get("met") else ""
    return (
        f'<div class="claim claim-{row["verdict"]}" id="claim-{row["id"]}">'
        f'<p class="claim-head"><span class="claim-verdict">{row["verdict"]}</span> '
        f"{to_html(row['statement'])}</p>{met}"
        f'<p class="claim-note">{to_html(row["note"])}{_references(row)}</p>'
        f"{_measured(row, record)}</div>"
    )


def _as_row(row, record):
    """The same in the table of what a chapter checked besides."""
    return (
        f'<tr id="claim-{row["id"]}"><td>'
        f'<span class="claim-verdict claim-verdict-{row["verdict"]}">'
        f"{row['verdict']}</span></td><td><p>{to_html(row['statement'])}</p>"
        f'<p class="claim-note">{to_html(row["note"])}{_references(row)}</p>'
        f"{_measured(row, record)}</td></tr>"
    )


def _references(row):
    """Links to the papers behind a row."""
    found = [papers_of(row["chapter"])[key] for key in row["reference"]]
    links = ", ".join(
        f'<a href="{html.escape(url)}">{html.escape(name)}</a>' if url else html.escape(name)
        for name, url in found
    )
    return f' <span class="claim-sources">({links})</span>' if links else ""


def _signs(text):
    """A bound as a reader writes it."""
    return text.replace(">=", "≥").replace("<=", "≤")


def _cells(texts):
    """Cells of a row; the values of five seeds stay on one line where the page is wide."""
    held = ' class="held"' if sum(map(len, texts)) <= IN_A_LINE else ""
    return "".join(f"<td{held}>{html.escape(text)}</td>" for text in texts)


def _measured(row, record):
    """What was measured, as a table: with bounds and recorded spreads where there are any."""
    lines = list(_evidence(row, record))
    bounds, past = any(line[2] for line in lines), any(line[3] for line in lines)
    columns = [1, *([2] if bounds else []), *([3] if past else [])]
    heads = ["measured here", "value", "must be", _recorded_name(row, record)]
    head = "".join(f"<th scope='col'>{html.escape(heads[i])}</th>" for i in [0, *columns])
    body = "".join(
        f"<tr><th scope='row'>{html.escape(line[0])}</th>"
        + _cells([_signs(line[i]) for i in columns])
        + "</tr>"
        for line in lines
    )
    unjudged = "" if record["judged"] else "<p>Recorded, not judged at this profile.</p>"
    head = f"<tr>{head}</tr>" if bounds or past else ""
    return f'<table class="claim-evidence">{head}{body}</table>{unjudged}'
