"""Checkpoints: killed at any moment, damaged, or out of disk, nothing that was saved is lost."""

import dataclasses
import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from helpers.training_subject import CONFIG, same_weights, tiny_model, tiny_windows

from llmbook.data.folders import sha256_of
from llmbook.training import Log, checkpoint, train
from llmbook.training.checkpoint import (
    FORMAT,
    MANIFEST,
    STATE,
    CheckpointNotWritten,
    Checkpoints,
    DamagedCheckpoint,
    Snapshot,
)
from llmbook.training.distributed import World
from llmbook.training.log import read_log
from llmbook.training.precision import Precision
from llmbook.training.state import capture, restore

WRITE_STEPS = ("_write_tensors", "_write_text", "_sync", "_rename", "_delete")
SHORT = dataclasses.replace(CONFIG, steps=6, checkpoint_every=2, keep=1, warmup=2)
A_SAVE = 8  # write steps of a save; two more where it deletes an older one


def run(folder=None, config=SHORT, model=None, resume=False, before_step=lambda step: None):
    """A run of the tiny model; returns the model."""
    model, windows = model or tiny_model(), tiny_windows()

    def batch_at(step):
        before_step(step)
        return windows.batch(step, config.batch_size)

    train(
        model,
        batch_at,
        config,
        folder=folder,
        resume=resume,
        fingerprint="random tokens",
        log=Log(folder, progress=False),
    )
    return model


def before_write_step(number, do):
    """Make the write step of this number, counted from now, do something first; undo() ends it."""
    originals = {name: getattr(checkpoint, name) for name in WRITE_STEPS}
    count = iter(range(10**6))

    def wrap(original):
        def wrapped(*args):
            if next(count) == number:
                do()
            return original(*args)

        return wrapped

    for name, original in originals.items():
        setattr(checkpoint, name, wrap(original))

    def undo():
        for name, original in originals.items():
            setattr(checkpoint, name, original)
        return next(count)

    return undo


# --- kills


def _kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


def _child(folder, config, kill_before, started):
    """What the killed process does: a run, with a kill before one of its write steps."""
    torch.set_num_threads(1)
    if kill_before is not None:
        before_write_step(kill_before, _kill_myself)
    started.set()
    run(folder, config)


@pytest.fixture(scope="module")
def processes():
    """Processes that start warm: forks of one that has imported what is slow to import."""
    context = multiprocessing.get_context("forkserver")
    slow = ["torch._dynamo", "llmbook.training.loop", "llmbook.models.gpt"]
    context.set_forkserver_preload(slow)
    return context


def start(processes, *arguments):
    started = processes.Event()
    process = processes.Process(target=_child, args=(*arguments, started))
    process.start()
    started.wait(120)
    return process


def assert_resumes_to(expected, folder, config):
    # Other weights, unless it was killed before its first checkpoint: then it begins once more.
    saved = Checkpoints(folder / "checkpoints").steps()
    again = run(folder, config, tiny_model(seed=99 if saved else 0), resume=True)
    assert same_weights(expected, again)
    rows = read_log(folder)
    assert [row["step"] for row in rows if "loss" in row] == list(range(config.steps))
    checkpoints = Checkpoints(folder / "checkpoints")
    assert checkpoints.steps()[-1] == config.steps and len(checkpoints.steps()) <= config.keep
    assert not list(checkpoints.folder.glob("part-*")), "what the kill left is still there"


def test_killed_between_each_pair_of_write_steps_a_run_resumes_bitwise(processes, tmp_path):
    """The second save of a run, which also deletes the first: ten write steps."""
    expected = run()
    second_save = range(A_SAVE, 2 * A_SAVE + 2)
    children = {n: start(processes, tmp_path / str(n), SHORT, n) for n in second_save}
    for n, child in children.items():
        child.join(120)
        assert child.exitcode == -signal.SIGKILL, f"write step {n}"
        assert_resumes_to(expected, tmp_path / str(n), SHORT)


def test_a_save_has_the_write_steps_that_the_kills_count_on(tmp_path):
    undo = before_write_step(-1, None)
    try:
        run(tmp_path, dataclasses.replace(SHORT, steps=2))
    finally:
        assert undo() == A_SAVE


@pytest.mark.slow
def test_killed_at_fifty_random_moments_a_run_resumes_bitwise(processes, tmp_path):
    config = dataclasses.replace(CONFIG, steps=150, checkpoint_every=3, log_every=5)
    expected = run(config=config)
    begin = time.monotonic()
    child = start(processes, tmp_path / "whole", config, None)
    running = time.monotonic()
    child.join()
    whole, kills, rng = time.monotonic() - running, 0, random.Random(0)
    for i in range(200):
        folder = tmp_path / str(i)
        child = start(processes, folder, config, None)
        time.sleep(rng.uniform(0, whole))
        child.kill()
        child.join()
        if child.exitcode != -signal.SIGKILL:
            whole *= 0.8  # it was quicker
            continue
        kills += 1
        assert_resumes_to(expected, folder, config)
        if kills == 50:
            break
    assert kills == 50, f"only {kills} kills in {time.monotonic() - begin:.0f} s"


# --- resume


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew_over_its_log(tmp_path):
    run(tmp_path)
    log = (tmp_path / "log.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="has no checkpoint, though the log beside it reaches"):
        run(tmp_path, resume=True)
    assert (tmp_path / "log.jsonl").read_bytes() == log


@pytest.mark.parametrize("stop", range(3, 12))
def test_stopped_before_any_step_a_run_with_dropout_resumes_bitwise_mid_epoch(tmp_path, stop):
    class Stop(Exception):
        pass

    def before_step(step):
        if step == stop:
            raise Stop

    config = dataclasses.replace(
        CONFIG, checkpoint_every=3, optimizer=("adamw", "muon")[stop % 2], accumulate=1 + stop % 2
    )
    expected = run(config=config)
    with pytest.raises(Stop):
        run(tmp_path, config, before_step=before_step)
    torch.manual_seed(1234)
    assert same_weights(expected, run(tmp_path, config, tiny_model(seed=5), resume=True))


def test_every_generator_of_random_numbers_goes_on(tmp_path):
    """Batches that draw from Python, numpy and torch while the run goes."""

    def drawing(seed, steps, resume=False):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        drawn = []

        def batch_at(step):
            if step == steps:
                raise StopIteration
            drawn.append((random.gauss(0, 1), np.random.normal(), torch.rand(1).item()))
            return tiny_windows().batch(step, 4)

        with pytest.raises(StopIteration):
            train(
                tiny_model(),
                batch_at,
                SHORT,
                folder=tmp_path,
                resume=resume,
                log=Log(progress=False),
            )
        return drawn

    first = drawing(1, steps=5)
    assert drawing(2, steps=5, resume=True) == first[4:5]


def test_each_process_gets_its_own_random_numbers_back_and_a_new_one_others():
    def drawn():
        return random.random(), np.random.random(), torch.rand(1).item()

    def seeded(seed):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)

    model, parts, expected = tiny_model(), [], []
    for seed in (10, 20):
        seeded(seed)
        parts.append(capture(3, model, [], None, {}, World()))
        expected.append(drawn())
    both = Snapshot(
        3,
        {
            **parts[0].tensors,
            "random": {
                f"{rank}/{name.removeprefix('0/')}": tensor
                for rank, part in enumerate(parts)
                for name, tensor in part.tensors["random"].items()
            },
        },
        {"scaler": None, "python_random": [p.state["python_random"][0] for p in parts]},
    )
    for rank in (0, 1):
        seeded(99)
        restore(both, model, [], None, World(rank, 2))
        assert drawn() == expected[rank]
    new = []
    for rank in (2, 3):  # of more processes than wrote the checkpoint
        seeded(99)
        restore(both, model, [], None, World(rank, 4))
        new.append(drawn()[2])
    assert len({*new, expected[0][2], expected[1][2]}) == 4


def test_a_loss_scaler_is_saved_and_restored(tmp_path, monkeypatch):
    def scale():
        return Checkpoints(tmp_path / "checkpoints").load().state["scaler"]["scale"]

    monkeypatch.setenv("LLMBOOK_DEVICE_PROFILE", "t4")
    with monkeypatch.context() as patch:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        patch.setattr(Precision, "scaler", lambda self: scaler)
        run(tmp_path, dataclasses.replace(SHORT, steps=2))
    assert scale() == 1024.0
    run(tmp_path, SHORT, resume=True)
    assert scale() == 1024.0, "a new scaler's own 65536, not the run's"
    monkeypatch.delenv("LLMBOOK_DEVICE_PROFILE")
    with pytest.raises(ValueError, match="another precision"):
        run(tmp_path, SHORT, resume=True)


def test_a_run_of_other_data_config_or_shape_is_not_resumed(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match=r"has lr=0.01: it can't be resumed with 0.5"):
        run(tmp_path, dataclasses.replace(SHORT, lr=0.5), resume=True)
    with pytest.raises(ValueError, match="other data: its fingerprint is 'random tokens'"):
        train(tiny_model(), None, SHORT, folder=tmp_path, resume=True, fingerprint="others")
    with pytest.raises(ValueError, match="names differ"):
        run(tmp_path, SHORT, tiny_model(n_layers=2), resume=True)
    with pytest.raises(ValueError, match=r"\(17, 16\) in the checkpoint"):
        run(tmp_path, SHORT, tiny_model(vocab_size=18), resume=True)


def test_a_finished_run_can_be_lengthened(tmp_path):
    run(tmp_path)
    with pytest.warns(UserWarning, match="planned for 6 steps.* with steps=8 it rises to"):
        run(tmp_path, dataclasses.replace(SHORT, steps=8), resume=True)
    assert [row["step"] for row in read_log(tmp_path) if "loss" in row] == list(range(8))


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="holds a run already"):
        run(tmp_path)
    with pytest.raises(ValueError, match="needs the folder"):
        run(resume=True)
    fresh = run(tmp_path / "new", resume=True)  # nothing there yet: from the start
    assert same_weights(fresh, run())


# --- damage


def small(step):
    return Snapshot(step, {"model": {"w": torch.full((50,), float(step))}}, {"note": step})


@pytest.fixture
def two(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    for step in (1, 2):
        checkpoints.save(small(step))
    return checkpoints


def test_what_was_saved_is_what_is_loaded(two):
    for step in (1, 2):
        snapshot = two.load(step)
        assert torch.equal(snapshot.tensors["model"]["w"], small(step).tensors["model"]["w"])
        assert (snapshot.step, snapshot.state) == (step, {"note": step})
    assert two.load().step == 2 and two.steps() == [1, 2]


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def swap_manifest(path):
    """A manifest of another step, whole in itself."""
    path.write_text((path.parent.parent / "step-00000001" / path.name).read_text())


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("model.safetensors", cut, "cut off or changed"),
        ("model.safetensors", flip, "sha256 is not the manifest's"),
        ("model.safetensors", os.remove, "has no model.safetensors"),
        ("state.json", flip, "sha256 is not the manifest's"),
        ("state.json", cut, "cut off or changed"),
        ("manifest.json", os.remove, "has no manifest.json"),
        ("manifest.json", cut, "manifest.json is damaged"),
        ("manifest.json", swap_manifest, "not that of step 2: it says 1"),
        ("manifest.json", lambda path: path.write_text("[]"), "manifest.json is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(two, name, damage, message):
    damage(two.path(2) / name)
    with pytest.raises(DamagedCheckpoint, match=message):
        two.load(2)
    with pytest.warns(UserWarning, match=f"{message}.*using the one of step 1"):
        snapshot = two.load()
    assert snapshot.step == 1 and snapshot.tensors["model"]["w"][0] == 1.0


def test_when_all_are_damaged_nothing_is_made_up(two):
    for step in (1, 2):
        cut(two.path(step) / "model.safetensors")
    message = "no checkpoint can be used: .*step-00000002.*step-00000001"
    with pytest.raises(DamagedCheckpoint, match=message):
        two.load()


def test_a_manifest_that_points_elsewhere_is_refused(two):
    manifest = two.path(2) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["../step-00000001/state.json"] = content["files"]["state.json"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(DamagedCheckpoint, match="has no ../step-00000001/state.json"):
        two.load(2)


def test_after_a_fall_back_the_damaged_step_is_written_anew(two):
    cut(two.path(2) / "model.safetensors")
    two.save(small(2))
    assert two.load().step == 2


@pytest.mark.parametrize("written", [None, 3])
def test_a_checkpoint_of_another_version_s_format_is_refused_by_name(two, written):
    path = two.path(2)
    state = json.loads((path / STATE).read_text())
    assert state.pop("format") == FORMAT
    if written is not None:
        state["format"] = written
    (path / STATE).write_text(json.dumps(state))
    manifest = json.loads((path / MANIFEST).read_text())
    file = path / STATE
    manifest["files"][STATE] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    (path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"its format is {written or 1}, this version reads 2"):
        two.load()


def test_the_last_k_are_kept_and_strangers_left_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    (tmp_path / "notes.txt").write_text("mine")
    for step in range(0, 60, 10):
        checkpoints.save(small(step))
    assert checkpoints.steps() == [30, 40, 50]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "notes.txt",
        "step-00000030",
        "step-00000040",
        "step-00000050",
    ]
    assert Checkpoints(tmp_path / "nowhere").load() is None
    with pytest.raises(ValueError, match="keep must be a whole number of at least 1"):
        Checkpoints(tmp_path, keep=0)


# --- disk full


def no_space():
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("number", range(7))
def test_a_full_disk_loses_nothing_that_was_saved(tmp_path, number):
    """At each write step of a save before the rename has made it count."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    tensors = {group: {"w": torch.ones(9)} for group in ("model", "optimizer", "random")}
    checkpoints.save(Snapshot(1, tensors, {}))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    undo = before_write_step(number, no_space)
    try:
        message = "No space left.*the last one is .*step-00000001"
        with pytest.raises(CheckpointNotWritten, match=message):
            checkpoints.save(Snapshot(2, tensors, {}))
    finally:
        undo()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert checkpoints.load().step == 1


def test_files_that_the_system_refuses_to_let_grow_lose_nothing(tmp_path):
    """The limit on a file's size makes the writes themselves fail, inside the library too."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(small(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(CheckpointNotWritten, match="step 2 could not be written"):
            checkpoints.save(Snapshot(2, {"model": {"w": torch.ones(100_000)}}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.steps() == [1] and checkpoints.load().step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_run_that_met_a_full_disk_resumes_bitwise(tmp_path):
    expected = run()
    undo = before_write_step(A_SAVE + 1, no_space)
    try:
        with pytest.raises(CheckpointNotWritten):
            run(tmp_path)
    finally:
        undo()
    assert_resumes_to(expected, tmp_path, SHORT)
