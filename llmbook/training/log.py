"""What a run tells: a progress line, log.csv and log.jsonl, a live plot, TensorBoard if wanted.

A row belongs to a step and speaks of the weights after that many updates: the loss on that step's
batch, the gradient's norm, the validation loss when it was measured, and whatever else the run
notes: a reward, a KL divergence, a share that was clipped, the balance of experts. A resumed run
drops the rows from its checkpoint on and writes them again: no step is there twice, or missing.
"""

import csv
import io
import json
import math
import sys
import time
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path

import torch

from llmbook.checks import whole
from llmbook.data.folders import plain_number, write_atomically
from llmbook.training.live_plot import LivePlot

OWN = ("step", "loss", "lr", "grad_norm", "tokens", "seconds")  # of every step
COLUMNS = (*OWN, "validation")  # of log.csv, before what else is noted


@dataclass
class History:
    """The rows of a run as lists of equal length, and what was measured now and then.

    steps, losses, lr, grad_norms: one entry a step. validation: (step, loss) pairs; samples:
    (step, text). noted: {name: [(step, value), …]} of what else was noted, numbers and texts.
    tokens and seconds: so far, evaluation not counted.
    """

    steps: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    lr: list = field(default_factory=list)
    grad_norms: list = field(default_factory=list)
    validation: list = field(default_factory=list)
    samples: list = field(default_factory=list)
    noted: dict = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0

    def add(self, row):
        """A row, as `Log` writes it, becomes the lists' last entries."""
        if "loss" in row:
            self.steps.append(row["step"])
            self.losses.append(row["loss"])
            self.lr.append(row["lr"])
            self.grad_norms.append(row["grad_norm"])
            self.tokens, self.seconds = row["tokens"], row["seconds"]
        if "validation" in row:
            self.validation.append((row["step"], row["validation"]))
        if "sample" in row:
            self.samples.append((row["step"], row["sample"]))
        for name, value in row.items():
            if name not in COLUMNS and name != "sample":
                self.noted.setdefault(name, []).append((row["step"], value))


class Log:
    """Where a run's rows go. folder: for log.csv and log.jsonl; none are written without.

    Losses stay on the device until `flush`, so that a GPU isn't waited for at every step.
    progress: a line at most every few seconds on `stream`. plot: a live plot, in a notebook.
    tensorboard: also event files; raises ImportError where it isn't installed.

    What a run wants to tell besides has columns of its own: `note(step, reward=…)` from where the
    step's number is known, such as batch_at; `measure(kl=…)` from within a loss.
    """

    def __init__(self, folder=None, *, progress=True, plot=False, tensorboard=False, stream=None):
        self.folder = None if folder is None else Path(folder)
        self.progress, self.stream = progress, stream
        self.history = History()
        self._pending, self._row, self._measured = [], {}, {}
        self._columns = COLUMNS
        self._plot = LivePlot() if plot else None
        self._board = _tensorboard(self.folder) if tensorboard else None
        self._steps, self._printed, self._clock = None, None, None

    def start(self, step, steps):
        """Begin at a step of `steps`: 0 forgets old rows, a later one keeps those before it."""
        self._steps = steps
        rows = _read_rows(self.folder, step) if self.folder and step else []
        self.history = History()
        for row in rows:
            self.history.add(row)
        self._columns = _columns(rows)
        if self.folder:
            _write_rows(self.folder, rows, self._columns)
        self._pending, self._row, self._measured = [], {}, {}
        self._clock = time.monotonic()
        self._printed = (None, self.history.tokens, self.history.seconds)

    def paused(self):
        """Call after work that is no training (evaluation, saving).

        Its time doesn't count, nor what a loss measured meanwhile.
        """
        self._clock, self._measured = time.monotonic(), {}

    def note(self, step, **values):
        """Add values to a step's row, before that step is made: numbers, scalar tensors, texts.

        "validation" and "sample" are what `train` notes; any other name gets a column, a curve and
        a list in `history.noted`. A value noted twice is the later one. Raises ValueError for a
        name that every row has, TypeError for what is no number and no text.
        """
        whole("step", step, least=0)
        _check_values(values)
        self._row.update(step=step, **values)

    def measure(self, **values):
        """Add numbers or scalar tensors of the update that is being made, from a loss.

        Several calls, one a micro-batch, are averaged. Tensors are detached and stay on their
        device until `flush`. In several processes each has its own, and the first one's are kept.
        """
        _check_values(values, texts=False)
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                value = value.detach()
            self._measured.setdefault(name, []).append(value)

    def step(self, step, loss, lr, grad_norm, tokens):
        """A training step on `tokens` tokens: loss, grad_norm may be tensors, on any device."""
        now = time.monotonic()
        measured = {name: sum(v) / len(v) for name, v in self._measured.items()}
        row = {
            **self._row,
            **measured,
            "step": step,
            "loss": loss,
            "lr": lr,
            "grad_norm": grad_norm,
            "tokens": tokens,
            "seconds": now - self._clock,
        }
        self._clock, self._row, self._measured = now, {}, {}
        self._pending.append(row)

    def flush(self, last=False):
        """Write what is pending and return those rows, as plain numbers."""
        if last and self._row:
            self._pending.append(self._row)
            self._row = {}
        rows, self._pending = _plain_rows(self._pending), []
        for row in rows:
            if "loss" in row:
                row["tokens"] += self.history.tokens
                row["seconds"] = round(row["seconds"] + self.history.seconds, 4)
            self.history.add(row)
        if rows and self.folder:
            self._write(rows)
        if rows and self._board:
            for row in rows:
                for name, value in row.items():
                    if name not in ("step", "tokens", "seconds") and isinstance(value, Real):
                        self._board.add_scalar(name, value, row["step"])
        if rows and self._plot:
            self._plot.update(self.history)
        self._tell(rows, last)
        return rows

    def _write(self, rows):
        """Append; where a row has a column that log.csv lacks, that file is written anew."""
        columns = _columns(rows, self._columns)
        _append(self.folder / "log.jsonl", _as_lines(rows))
        if columns == self._columns:
            _append(self.folder / "log.csv", _as_csv(rows, columns))
        else:
            self._columns = columns
            text = _as_csv(read_log(self.folder), columns, head=True)
            write_atomically(self.folder / "log.csv", text)

    def _tell(self, rows, last):
        if not (self.progress and rows):
            return
        now = time.monotonic()
        at, tokens, seconds = self._printed
        due = at is None or now - at >= 5
        if due or last or any("validation" in row for row in rows):
            self._printed = (now, self.history.tokens, self.history.seconds)
            spent = self.history.seconds - seconds
            speed = (self.history.tokens - tokens) / spent if spent > 0 else None
            line = progress_line(self.history, self._steps, speed, rows)
            print(line, file=self.stream or sys.stdout, flush=True)


def progress_line(history, steps, tokens_per_second, rows=()):
    """One line of plain text: step, loss, validation, learning rate, speed, time to go.

    The loss is the mean of the last ten steps', and so is every number that was noted besides.
    rows: those written since the line before.
    """
    done = rows[-1]["step"] + ("loss" in rows[-1]) if rows else len(history.steps)
    parts = [f"step {done:,}/{steps:,}"]
    if history.losses:
        recent = history.losses[-10:]
        parts.append(f"loss {sum(recent) / len(recent):.3f}")
    measured = [row for row in rows if "validation" in row]
    if measured:
        at = measured[-1]["step"]
        parts.append(f"validation {measured[-1]['validation']:.3f} at {at:,}")
    if history.lr:
        parts.append(f"lr {history.lr[-1]:.1e}")
    for name, curve in history.noted.items():
        recent = [value for _, value in curve[-10:]]
        if all(isinstance(value, Real) for value in recent):
            parts.append(f"{name} {sum(recent) / len(recent):.3g}")
    if tokens_per_second:
        parts.append(f"{tokens_per_second:,.0f} tokens/s")
        left = (steps - done) * history.tokens / max(1, len(history.steps)) / tokens_per_second
        parts.append(f"ETA {_duration(left)}")
    return "  ".join(parts)


def _duration(seconds):
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def thinned(curve, points=200, digits=4):
    """A curve of at most so many points, as lists [step, value]: what a record keeps of a run.

    curve: (step, value) pairs. Each point is the mean of a stretch of equal length, the last one
    perhaps shorter, at the stretch's last step.
    """
    curve = list(curve)
    size = max(1, math.ceil(len(curve) / whole("points", points, least=1)))
    stretches = (curve[i : i + size] for i in range(0, len(curve), size))
    return [[s[-1][0], round(sum(v for _, v in s) / len(s), digits)] for s in stretches]


def _plain_rows(rows):
    """Tensors as numbers: all of them together, so that a GPU is waited for once."""
    tensors = [(row, key) for row in rows for key in row if isinstance(row[key], torch.Tensor)]
    if tensors:
        values = torch.stack([row[key].detach().float().reshape(()) for row, key in tensors])
        for (row, key), value in zip(tensors, values.tolist(), strict=True):
            row[key] = value
    return rows


# --- the files


def _check_values(values, texts=True):
    for name, value in values.items():
        if name in OWN:
            raise ValueError(f"{name} is a column that every row has: note it by another name")
        scalar = isinstance(value, torch.Tensor) and value.numel() == 1
        if not scalar and not isinstance(value, Real | str if texts else Real):
            kinds = "a number, a text" if texts else "a number"
            got = type(value).__name__
            raise TypeError(f"{name} must be {kinds} or a tensor with one number: got {got}")


def _columns(rows, known=COLUMNS):
    """The columns of log.csv: those known, then others as they came; texts have none."""
    found = {name: None for row in rows for name, value in row.items() if isinstance(value, Real)}
    return (*known, *(name for name in found if name not in known))


def _as_csv(rows, columns, head=False):
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    if head:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _as_lines(rows):
    return "".join(json.dumps(row, default=plain_number) + "\n" for row in rows)


def _append(path, text):
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def _write_rows(folder, rows, columns):
    write_atomically(folder / "log.jsonl", _as_lines(rows))
    write_atomically(folder / "log.csv", _as_csv(rows, columns, head=True))


def read_log(folder):
    """The rows of a folder's log.jsonl: a list of dicts; a line cut off by a kill ends it."""
    path, rows = Path(folder) / "log.jsonl", []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _read_rows(folder, before):
    return [row for row in read_log(folder) if row["step"] < before]


def _tensorboard(folder):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("tensorboard=True needs the package: pip install tensorboard") from error
    return SummaryWriter(None if folder is None else str(folder / "tensorboard"))
