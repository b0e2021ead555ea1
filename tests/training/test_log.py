"""Logs survive resuming: no step twice, none missing; what they print is plain text."""

import csv
import dataclasses
import io
import json
import sys
import types

import numpy as np
import pytest
import torch
from helpers.training_subject import CONFIG, LENGTH, tiny_model, tiny_windows

from llmbook.training import Log, log, train
from llmbook.training.checkpoint import Checkpoints
from llmbook.training.live_plot import LivePlot
from llmbook.training.log import History, progress_line, read_log, thinned


class Killed(Exception):
    """What stands for a kill."""


def run(folder, stop_at=None, resume=False, stream=None):
    windows = tiny_windows()

    def batch_at(step):
        if step == stop_at:
            raise Killed
        return windows.batch(step, 4)

    return train(
        tiny_model(),
        batch_at,
        CONFIG,
        folder=folder,
        resume=resume,
        evaluate=lambda m: m.loss(*windows.batch(0, 4)),
        log=Log(folder, progress=stream is not None, stream=stream),
    )


def test_a_resumed_log_is_the_log_of_an_uninterrupted_run(tmp_path):
    expected = run(tmp_path / "whole")
    for stop in (8, 11):
        with pytest.raises(Killed):
            run(tmp_path / "parts", stop_at=stop, resume=stop > 8)
    with open(tmp_path / "parts" / "log.jsonl", "a") as file:
        file.write('{"step": 11, "lo')  # a line that a kill cut off
    history = run(tmp_path / "parts", resume=True)
    for name in ("steps", "losses", "lr", "grad_norms", "validation", "tokens"):
        assert getattr(history, name) == getattr(expected, name), name
    logs = (read_log(tmp_path / name) for name in ("whole", "parts"))
    for whole, parts in zip(*logs, strict=True):
        whole.pop("seconds", None), parts.pop("seconds", None)
        assert whole == parts
    rows = list(csv.DictReader((tmp_path / "parts" / "log.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(13))
    assert [float(row["loss"]) for row in rows[:-1]] == history.losses
    assert [int(row["tokens"]) for row in rows[:-1]] == [4 * LENGTH * n for n in range(1, 13)]
    assert rows[4]["validation"] and not rows[5]["validation"] and rows[12]["validation"]
    seconds = [float(row["seconds"]) for row in rows[:-1]]
    assert seconds == sorted(seconds)


def test_seconds_are_those_of_training_without_looking_and_saving(tmp_path, monkeypatch):
    clock, save = [0.0], Checkpoints.save
    monkeypatch.setattr(log.time, "monotonic", lambda: clock[0])

    def takes(seconds, value=None):
        clock[0] += seconds
        return value

    monkeypatch.setattr(Checkpoints, "save", lambda *args: takes(1000, save(*args)))
    windows = tiny_windows()
    history = train(
        tiny_model(),
        lambda step: takes(1, windows.batch(step, 4)),
        CONFIG,
        folder=tmp_path,
        evaluate=lambda m: takes(100, 1.0),
        log=Log(tmp_path, progress=False),
    )
    assert history.seconds == 12 and clock[0] == 12 + 4 * 100 + 3 * 1000


def test_progress_is_told_every_few_seconds_and_with_each_validation(monkeypatch):
    clock, stream = [0.0], io.StringIO()
    monkeypatch.setattr(log.time, "monotonic", lambda: clock[0])
    log_ = Log(stream=stream)
    log_.start(0, 100)
    for step in range(20):
        clock[0] += 1
        if step == 12:
            log_.note(step, validation=1.0)
        log_.step(step, 2.0, 1e-3, 1.0, 5)
        log_.flush()
    told = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert told == ["1/100", "6/100", "11/100", "13/100", "18/100"]
    assert "5 tokens/s" in stream.getvalue().splitlines()[-1]


def test_a_new_run_forgets_an_old_log(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 3, "loss": 1}\n')
    run(tmp_path)
    assert [row["step"] for row in read_log(tmp_path)] == list(range(13))


def test_progress_lines_are_plain_text_with_speed_and_time_to_go(tmp_path):
    stream = io.StringIO()
    run(tmp_path, stream=stream)
    lines = stream.getvalue().splitlines()
    assert lines and all(line.isprintable() and "\r" not in line for line in lines)
    assert "/12  loss " in lines[0] and "tokens/s" in lines[0] and "ETA" in lines[0]
    assert lines[-1].startswith("step 12/12") and "validation" in lines[-1]


def test_a_progress_line_counts_right():
    history = History()
    for step in range(100):
        history.add(
            {
                "step": step,
                "loss": 2.0,
                "lr": 1e-3,
                "grad_norm": 1.0,
                "tokens": 50 * (step + 1),
                "seconds": 0.1,
            }
        )
    line = progress_line(history, 1000, 500.0, [{"step": 99, "loss": 2.0}])
    assert line == "step 100/1,000  loss 2.000  lr 1.0e-03  500 tokens/s  ETA 2 min"
    assert "ETA 2.5 h" in progress_line(history, 1000, 5.0, [{"step": 99, "loss": 2.0}])


def test_tensors_are_turned_into_numbers_only_when_flushed():
    log = Log(progress=False)
    log.start(0, 10)
    log.step(0, torch.tensor(1.5), 0.1, torch.tensor(2.5), 7)
    assert log.history.losses == []
    (row,) = log.flush()
    assert (row["loss"], row["grad_norm"], row["tokens"]) == (1.5, 2.5, 7)
    assert json.dumps(row) and log.flush() == []


def test_tensorboard_that_is_not_installed_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        Log(tmp_path, tensorboard=True)


def test_the_live_plot_is_silent_outside_a_notebook_and_updates_one_display_inside(monkeypatch):
    history = History(steps=[0, 1], losses=[2.0, 1.0], validation=[(0, 2.0)])
    outside = LivePlot()
    outside.update(history)
    assert not outside.active
    shown = []

    class Handle:
        def update(self, figure):
            shown.append("update")

    def display(figure, display_id):
        shown.append("display")
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    plot = LivePlot(seconds=0)
    plot.active = True
    for _ in range(3):
        plot.update(history)
    assert shown == ["display", "update", "update"]
    axes = LivePlot.draw(history).axes[0]
    assert "step" in axes.get_xlabel() and "nats" in axes.get_ylabel() and len(axes.lines) == 2


# --- columns of one's own


def noting(folder, stop_at=None, resume=False):
    """A run that notes a reward at each step, a text now and then, and measures in its loss."""
    windows, log_ = tiny_windows(), Log(folder, progress=False)

    def batch_at(step):
        if step == stop_at:
            raise Killed
        log_.note(step, reward=step / 10)
        if step % 5 == 0:
            log_.note(step, said=f"step {step}")
        return windows.batch(step, 4)

    def loss(model, inputs, targets):
        value = model.loss(inputs, targets)
        log_.measure(twice=2 * value, rows=len(inputs))
        return value

    how = dict(folder=folder, resume=resume, log=log_, loss=loss)
    return train(
        tiny_model(), batch_at, dataclasses.replace(CONFIG, accumulate=2, evaluate_every=0), **how
    )


def test_what_a_run_notes_and_measures_has_columns_and_survives_resuming(tmp_path):
    expected = noting(tmp_path / "whole")
    with pytest.raises(Killed):
        noting(tmp_path / "parts", stop_at=7)
    history = noting(tmp_path / "parts", resume=True)
    assert history.noted == expected.noted
    assert list(history.noted) == ["reward", "said", "twice", "rows"]
    assert history.noted["reward"] == [(step, step / 10) for step in range(12)]
    assert history.noted["said"] == [(step, f"step {step}") for step in (0, 5, 10)]
    # rows: of a micro-batch; twice: the mean over them, which is twice the step's loss
    assert history.noted["rows"] == [(step, 2) for step in range(12)]
    for (_, twice), loss in zip(history.noted["twice"], history.losses, strict=True):
        assert twice == pytest.approx(2 * loss, rel=1e-5)
    logs = [read_log(tmp_path / name) for name in ("whole", "parts")]
    for rows in logs:
        assert all(row.pop("seconds") >= 0 for row in rows)
    assert logs[0] == logs[1]
    for name in ("whole", "parts"):
        rows = list(csv.DictReader((tmp_path / name / "log.csv").open()))
        assert [float(row["reward"]) for row in rows] == [step / 10 for step in range(12)]
        assert "said" not in rows[0] and [int(row["step"]) for row in rows] == list(range(12))
        assert list(rows[0])[:3] == ["step", "loss", "lr"]


def test_a_column_that_comes_late_is_there_for_every_row(tmp_path):
    log_ = Log(tmp_path, progress=False)
    log_.start(0, 4)
    for step in range(4):
        if step >= 2:
            log_.note(step, late=torch.tensor(float(step)))
        log_.step(step, 1.0, 0.1, 1.0, 5)
        log_.flush()
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["late"] for row in rows] == ["", "", "2.0", "3.0"]
    assert log_.history.noted == {"late": [(2, 2.0), (3, 3.0)]}


def test_what_a_loss_measures_while_evaluating_is_no_part_of_the_step():
    log_ = Log(progress=False)
    log_.start(0, 2)
    log_.measure(kl=100.0)
    log_.paused()
    log_.measure(kl=torch.tensor(1.0, requires_grad=True))
    log_.measure(kl=2.0)
    log_.step(0, 1.0, 0.1, 1.0, 5)
    log_.step(1, 1.0, 0.1, 1.0, 5)
    first, second = log_.flush()
    assert first["kl"] == 1.5 and "kl" not in second


def test_names_of_every_row_and_values_that_are_no_numbers_are_refused():
    log_ = Log(progress=False)
    log_.start(0, 2)
    for tell in (lambda **v: log_.note(0, **v), log_.measure):
        with pytest.raises(ValueError, match="loss is a column that every row has"):
            tell(loss=1.0)
        for bad in (None, [1.0], torch.zeros(2)):
            with pytest.raises(
                TypeError, match="^reward must be a number.* or a tensor with one number: got"
            ):
                tell(reward=bad)
    with pytest.raises(
        TypeError, match="said must be a number or a tensor with one number: got str"
    ):
        log_.measure(said="a text has no mean")
    with pytest.raises(TypeError, match="step must be a whole number"):
        log_.note("0", reward=1.0)


def test_numbers_of_numpy_are_logged(tmp_path):
    log_ = Log(tmp_path, progress=False)
    log_.start(0, 1)
    log_.note(0, reward=np.float32(0.5), right=np.int64(3))
    log_.measure(kl=np.float32(0.25))
    log_.step(0, torch.tensor(1.0), 0.1, torch.tensor(1.0), 5)
    log_.flush(last=True)
    (row,) = read_log(tmp_path)
    assert (row["reward"], row["right"], row["kl"]) == (0.5, 3, 0.25)


def test_noted_numbers_are_told_and_drawn_and_texts_are_not():
    history = History()
    for step in range(20):
        row = {"step": step, "loss": 2.0, "lr": 1e-3, "grad_norm": 1.0, "tokens": 1, "seconds": 1}
        history.add({**row, "reward": step / 10, "said": "a text"})
    line = progress_line(history, 100, None, [{"step": 19, "loss": 2.0}])
    assert line == "step 20/100  loss 2.000  lr 1.0e-03  reward 1.45"
    loss, reward = LivePlot.draw(history).axes
    assert loss.get_ylabel() == "loss in nats a token" and reward.get_ylabel() == "reward"
    assert reward.lines[0].get_ydata().tolist() == [step / 10 for step in range(20)]
    assert reward.get_xlabel() == "step"


def test_tensorboard_gets_every_number(monkeypatch):
    told = []
    board = types.SimpleNamespace(add_scalar=lambda *scalar: told.append(scalar))
    monkeypatch.setattr(log, "_tensorboard", lambda folder: board)
    log_ = Log(progress=False, tensorboard=True)
    log_.start(0, 1)
    log_.note(0, reward=0.5, said="text")
    log_.step(0, 1.0, 0.1, 2.0, 5)
    log_.flush()
    assert sorted(told) == [
        ("grad_norm", 2.0, 0),
        ("loss", 1.0, 0),
        ("lr", 0.1, 0),
        ("reward", 0.5, 0),
    ]


# --- what a record keeps of a curve


def test_a_thinned_curve_has_means_of_stretches_at_their_last_steps():
    curve = [(step, float(step)) for step in range(10)]
    assert thinned(curve, points=4) == [[2, 1.0], [5, 4.0], [8, 7.0], [9, 9.0]]
    assert thinned(curve, points=10) == [[step, float(step)] for step in range(10)]
    assert thinned(iter([(3, 1 / 3)]), digits=2) == [[3, 0.33]]
    assert thinned([]) == []
    assert len(thinned([(s, 0.0) for s in range(1001)])) == 167
    with pytest.raises(ValueError, match="points must be a whole number of at least 1: got 0"):
        thinned(curve, points=0)
