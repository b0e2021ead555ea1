"""What a run tells: a progress line, log.csv and log.jsonl, a live plot, TensorBoard if wanted.

A row belongs to a step and speaks of the weights after that many updates: the loss on that step's
batch, the gradient's norm, the validation loss when it was measured. A resumed run drops the rows
from its checkpoint on and writes them again: no step is there twice, none is missing.
"""

import csv
import io
import json
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from llmbook.checks import whole
from llmbook.data.folders import write_atomically

COLUMNS = ("step", "loss", "lr", "grad_norm", "tokens", "seconds", "validation")


@dataclass
class History:
    """The rows of a run as lists of equal length, and what was measured now and then.

    steps, losses, lr, grad_norms: one entry a step. validation: (step, loss) pairs; samples:
    (step, text). tokens and seconds: so far, evaluation not counted.
    """

    steps: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    lr: list = field(default_factory=list)
    grad_norms: list = field(default_factory=list)
    validation: list = field(default_factory=list)
    samples: list = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def add(self, row):
        """Take in a row."""
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


class Log:
    """Where a run's rows go. folder: for log.csv and log.jsonl; none are written without.

    Losses stay on the device until `flush`, so that a GPU isn't waited for at every step.
    progress: a line at most every few seconds on `stream`. plot: a live plot, in a notebook.
    tensorboard: also event files; raises ImportError where it isn't installed.
    """

    def __init__(self, folder=None, *, progress=True, plot=False, tensorboard=False, stream=None):
        self.folder = None if folder is None else Path(folder)
        self.progress, self.stream = progress, stream
        self.history = History()
        self._pending, self._row = [], {}
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
        if self.folder:
            _write_rows(self.folder, rows)
        self._pending, self._row = [], {}
        self._clock = time.monotonic()
        self._printed = (None, self.history.tokens, self.history.seconds)

    def paused(self):
        """Call after work that is no training (evaluation, saving): its time doesn't count."""
        self._clock = time.monotonic()

    def note(self, step, **values):
        """Add values ("validation", "sample") to a step's row; call before `step`."""
        self._row.update(step=step, **values)

    def step(self, step, loss, lr, grad_norm, tokens):
        """A training step on `tokens` tokens: loss, grad_norm may be tensors, on any device."""
        now = time.monotonic()
        row = {
            **self._row,
            "step": step,
            "loss": loss,
            "lr": lr,
            "grad_norm": grad_norm,
            "tokens": tokens,
            "seconds": now - self._clock,
        }
        self._clock, self._row = now, {}
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
            _append_rows(self.folder, rows)
        if rows and self._board:
            for row in rows:
                for name, value in row.items():
                    if name in ("loss", "lr", "grad_norm", "validation"):
                        self._board.add_scalar(name, value, row["step"])
        if rows and self._plot:
            self._plot.update(self.history)
        self._tell(rows, last)
        return rows

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

    The loss is the mean of the last ten steps'. rows: those written since the line before.
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


def _as_csv(rows, head=False):
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    if head:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def _append_rows(folder, rows):
    for name, text in (("log.jsonl", _as_lines(rows)), ("log.csv", _as_csv(rows))):
        with open(folder / name, "a", encoding="utf-8") as file:
            file.write(text)


def _write_rows(folder, rows):
    write_atomically(folder / "log.jsonl", _as_lines(rows).encode())
    write_atomically(folder / "log.csv", _as_csv(rows, head=True).encode())


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


# --- notebook, TensorBoard


class LivePlot:
    """A loss curve that redraws itself in a notebook; outside of one it does nothing."""

    def __init__(self, seconds=2.0):
        self.seconds, self._handle, self._drawn = seconds, None, -math.inf
        self.active = _in_notebook()

    def update(self, history):
        """Redraw, at most every few seconds."""
        if not self.active or time.monotonic() - self._drawn < self.seconds:
            return
        from IPython.display import display

        self._drawn = time.monotonic()
        figure = self.draw(history)
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)

    @staticmethod
    def draw(history):
        """The figure: training and validation loss in nats a token against steps."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3), layout="constrained")
        axes = figure.subplots()
        axes.plot(history.steps, history.losses, lw=0.8, label="training")
        if history.validation:
            axes.plot(*zip(*history.validation, strict=True), "o-", label="validation")
        axes.set(xlabel="step", ylabel="loss in nats a token")
        axes.legend()
        return figure


def _in_notebook():
    shell = sys.modules.get("IPython")
    shell = shell.get_ipython() if shell else None
    return shell is not None and hasattr(shell, "kernel")


def _tensorboard(folder):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("tensorboard=True needs the package: pip install tensorboard") from error
    return SummaryWriter(None if folder is None else str(folder / "tensorboard"))
