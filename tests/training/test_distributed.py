"""Two real processes give the losses of one, with DDP and FSDP2, and share its checkpoints."""

import dataclasses
import faulthandler
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from queue import Empty

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers.training_subject import tiny_model, tiny_windows

from llmbook.training import Interrupted, Log, TrainConfig, Update, distributed, train
from llmbook.training.checkpoint import Checkpoints
from llmbook.training.distributed import whole
from llmbook.training.optim import Muon, block_matrices

# eps: a key's bias has no gradient but rounding, which AdamW would blow up to full size.
CONFIG = TrainConfig(
    steps=12,
    batch_size=4,
    accumulate=2,
    warmup=3,
    lr=1e-2,
    clip=0.5,
    eps=1e-4,
    log_every=3,
    checkpoint_every=4,
    keep=9,
    weight_decay=0.1,
)


def masked(windows, step, world):
    """A batch of which rows have 1 to 8 targets that count: processes' shares differ."""
    inputs, targets = windows.batch(step, CONFIG.batch_size)
    targets = targets.clone()
    for row in range(len(targets)):
        targets[row, 1 + (3 * row + step) % 8 :] = -100
    share = slice(world.rank * 4 // world.size, (world.rank + 1) * 4 // world.size)
    return inputs[share], targets[share]


ALONE = distributed.World()


def run(folder, config, world=ALONE, stop=None, resume=False):
    """Losses of a run without dropout, on masked batches; `stop`: but the schedule of 12 steps."""
    windows, model = tiny_windows(), tiny_model(dropout=0.0, n_layers=2)

    def batch_at(step):
        if step == stop:
            raise StopIteration
        return masked(windows, step, world)

    log = Log(folder if world.first else None, progress=False)
    try:
        train(model, batch_at, config, folder=folder, resume=resume, log=log)
    except StopIteration:
        log.flush()
    return log.history.losses, log.history.grad_norms


def _worker(rank, store, function, arguments, queue):
    faulthandler.enable()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    try:
        queue.put((rank, function(distributed.current_world(), *arguments)))
    finally:
        dist.destroy_process_group()


def _results(processes, queue, seconds=180):
    """What each process put into the queue; fails as soon as one has ended otherwise."""
    results, end = {}, time.monotonic() + seconds
    while len(results) < len(processes):
        gone = [process.exitcode for process in processes]
        try:
            results.update([queue.get(timeout=1)])
        except Empty:
            assert not any(gone), f"processes ended with {gone}, see their stderr"
            assert time.monotonic() < end, f"no result after {seconds} s, exit codes {gone}"
    return results


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory):
    """Two gloo processes: `in_two_processes(function, *arguments)` gives what each returns.

    function(world, *arguments) must stand at the top of a module.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch._dynamo", "torch.distributed.fsdp", "llmbook.training.loop", "llmbook.models.gpt"]
    )

    def start(function, *arguments):
        queue, store = context.Queue(), str(tmp_path_factory.mktemp("store") / "store")
        processes = [
            context.Process(target=_worker, args=(rank, store, function, arguments, queue))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        try:
            results = _results(processes, queue)
            for process in processes:
                process.join(60)
                assert process.exitcode == 0
        finally:
            for process in processes:
                process.kill()  # one that waits for another that failed
        return [results[rank] for rank in range(2)]

    return start


def _run(world, folder, config, stop, resume):
    return run(folder, config, world, stop, resume)


@pytest.fixture
def two_processes(in_two_processes):
    """Runs in two processes: a function like `run`, giving what the first one saw."""

    def start(folder, config, stop=None, resume=False):
        results = in_two_processes(_run, folder, config, stop, resume)
        mine, others = (norms for _, norms in results)  # only the first has those of earlier steps
        assert mine[-len(others) :] == others, "the processes disagree about the gradient's norm"
        return results[0]

    return start


def assert_same_run(a, b):
    for name, x, y in zip(("loss", "norm"), a, b, strict=True):
        assert x == pytest.approx(y, abs=1e-5), name


def assert_own_random_numbers(folder):
    """Each process drops units of its own."""
    random = Checkpoints(folder / "checkpoints").load().tensors["random"]
    assert {"0/torch", "1/torch"} <= random.keys()
    assert not torch.equal(random["0/torch"], random["1/torch"])


def assert_same_checkpoint(a, b):
    a, b = (Checkpoints(folder / "checkpoints").load() for folder in (a, b))
    assert a.step == b.step
    for group in ("model", "optimizer"):
        assert a.tensors[group].keys() == b.tensors[group].keys()
        for name, tensor in a.tensors[group].items():
            torch.testing.assert_close(tensor, b.tensors[group][name], rtol=1e-3, atol=1e-5)


def test_two_processes_with_ddp_are_one(two_processes, tmp_path):
    config = dataclasses.replace(CONFIG, parallel="ddp")
    assert_same_run(two_processes(tmp_path / "two", config), run(tmp_path / "one", CONFIG))
    assert_same_checkpoint(tmp_path / "two", tmp_path / "one")
    assert_own_random_numbers(tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "adamw_reference", "muon"])
def test_two_processes_with_fsdp_are_one(two_processes, tmp_path, optimizer):
    one = dataclasses.replace(CONFIG, optimizer=optimizer)
    two = dataclasses.replace(one, parallel="fsdp")
    assert_same_run(two_processes(tmp_path / "two", two), run(tmp_path / "one", one))
    assert_same_checkpoint(tmp_path / "two", tmp_path / "one")


def gathered_for_a_step(world):
    """How often something is sent for one step of Muon on a sharded model, and its matrices."""
    from torch.distributed.tensor.debug import CommDebugMode

    torch.manual_seed(0)
    model = tiny_model(dropout=0.0)
    distributed.shard(model)
    matrices = list(block_matrices(model).values())
    for p in matrices:
        p.grad = torch.ones_like(p)
    optimizer = Muon(matrices)
    with CommDebugMode() as sent:
        optimizer.step()
    return sent.get_total_counts(), len(matrices)


@pytest.mark.slow
def test_muon_gathers_a_sharded_matrix_once(in_two_processes):
    for sent, matrices in in_two_processes(gathered_for_a_step):
        assert sent == matrices > 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_run_resumes_in_two_then_one_then_two_processes(two_processes, tmp_path, kind):
    """Stopped two steps after a checkpoint each time: the steps done twice are done alike."""
    expected = run(tmp_path / "one", CONFIG)
    config, folder = dataclasses.replace(CONFIG, parallel=kind), tmp_path / "moved"
    two_processes(folder, config, stop=6)
    assert Checkpoints(folder / "checkpoints").steps() == [4]
    run(folder, CONFIG, stop=10, resume=True)
    assert Checkpoints(folder / "checkpoints").steps() == [4, 8]
    assert_same_run(two_processes(folder, config, resume=True), expected)
    assert_same_checkpoint(folder, tmp_path / "one")
    assert_own_random_numbers(folder)


def interrupted_run(world, folder, config):
    """A run in which Ctrl-C reaches the last process alone, before step 4; where it stopped."""

    def batch_at(step):
        if step == 4 and world.rank == world.size - 1:
            signal.raise_signal(signal.SIGINT)
        return masked(tiny_windows(), step, world)

    try:
        train(
            tiny_model(dropout=0.0, n_layers=2),
            batch_at,
            config,
            folder=folder,
            log=Log(folder if world.first else None, progress=False),
        )
    except Interrupted as stop:
        return stop.step
    return None


@pytest.mark.slow
def test_ctrl_c_that_one_process_hears_stops_all_of_them_at_the_same_step(
    in_two_processes, two_processes, tmp_path
):
    """At a step at which they ask each other, those that are logged; nothing hangs."""
    config = dataclasses.replace(CONFIG, parallel="ddp", checkpoint_every=10)
    assert in_two_processes(interrupted_run, tmp_path / "two", config) == [6, 6]
    assert Checkpoints(tmp_path / "two" / "checkpoints").steps() == [6]
    resumed = two_processes(tmp_path / "two", config, resume=True)
    assert_same_run(resumed, run(tmp_path / "one", CONFIG))


def overflowing_updates(world, config):
    """Three updates in float16; in the second, one weight's gradient overflows on one process.

    Returns the scale, the norm and all weights after each.
    """
    os.environ["LLMBOOK_DEVICE_PROFILE"] = "t4"
    windows, model, seen = tiny_windows(), tiny_model(dropout=0.0, n_layers=2), []

    def overflow(norm, inputs, output):
        w = norm.weight[0]  # under FSDP the first process holds it, the last one spoils it
        return output + 1e36 * (w - w.detach())

    update = Update(model, config, world=world)
    try:
        for step in range(3):
            hook = None
            if step == 1 and world.rank == world.size - 1:
                hook = model.norm.register_forward_hook(overflow)
            _, norm = update(masked(windows, step, world))
            if hook:
                hook.remove()
            weights = {name: whole(p).numpy().copy() for name, p in model.named_parameters()}
            seen.append((update.scaler.get_scale(), norm.item(), weights))
    finally:
        del os.environ["LLMBOOK_DEVICE_PROFILE"]
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, optimizer",
    [("ddp", "adamw"), ("fsdp", "adamw"), ("fsdp", "adamw_reference"), ("fsdp", "muon")],
)
def test_an_overflow_on_one_process_makes_all_of_them_skip_the_step(
    in_two_processes, kind, optimizer
):
    one = dataclasses.replace(CONFIG, optimizer=optimizer)
    expected = overflowing_updates(distributed.World(), one)
    both = in_two_processes(overflowing_updates, dataclasses.replace(one, parallel=kind))
    for seen in both:
        for step, (scale, norm, weights) in enumerate(seen):
            assert scale == (2.0**16 if step == 0 else 2.0**15)
            assert math.isfinite(norm) == (step != 1)
            for name, w in weights.items():
                same = np.array_equal(w, seen[step - 1][2][name])
                assert same == (step == 1), (step, name)
                assert np.array_equal(w, both[0][step][2][name]), "the processes' weights differ"
                assert np.abs(w - expected[step][2][name]).max() < 1e-3, (step, name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_torchrun_trains_with_the_same_command(tmp_path, kind):
    (tmp_path / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    common = [
        "-m",
        "llmbook",
        "train",
        "--preset",
        "smoke",
        "--source",
        str(tmp_path / "a.txt"),
        "--tokenizer",
        "characters",
        "--device",
        "cpu",
        "--quiet",
        "--steps",
        "6",
        "--threads",
        "1",
        "--out",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    subprocess.run([sys.executable, *common, tmp_path / "one"], check=True, env=env)
    subprocess.run([*torchrun, *common, tmp_path / "two", "--parallel", kind], check=True, env=env)
    folders = (tmp_path / name / "model" for name in ("one", "two"))
    cards = [json.loads((folder / "card.json").read_text()) for folder in folders]
    curves = [[loss for _, loss in card["loss_curve"]] for card in cards]
    assert curves[0] == pytest.approx(curves[1], abs=1e-4) and len(curves[0]) == 6
    nats = [card["quality"]["nats_per_token"] for card in cards]
    assert nats[0] == pytest.approx(nats[1], abs=1e-4)


def test_parallel_training_in_one_process_is_refused():
    for kind in ("ddp", "fsdp"):
        with pytest.raises(ValueError, match="torchrun --nproc-per-node"):
            run(None, dataclasses.replace(CONFIG, parallel=kind))
    with pytest.raises(ValueError, match="parallel='none' in 2 processes"):
        distributed.parallelise(None, "none", distributed.World(0, 2))


def test_without_torchrun_there_is_one_process_and_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.process_group("cpu") as (world, device):
        assert (world.rank, world.size, world.first) == (0, 1, True) and device.type == "cpu"
        assert not dist.is_initialized()
