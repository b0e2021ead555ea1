"""The training loop that every chapter uses: one function, `train`, and one update, `Update`.

    for step in range(steps):
        loss = mean over the batch of −log p(next token);  gradients;  clip;  optimiser step

The batch of a step is a function of the step's number, `batch_at(step)`: a run that resumes needs
to know nothing but the number.

Alignment needs no other loop. A loss may take any tensors: DPO's batch carries the reference
model's log-probabilities, PPO's the old policy's and the advantages. And a batch may be sampled
from the model as it stands at the step, with a generator of (seed, step): see `train`.
"""

import contextlib
import dataclasses
import math
import signal
import threading
import warnings
from pathlib import Path

import torch

from llmbook.checks import divides, whole
from llmbook.losses import count_targets
from llmbook.training import distributed
from llmbook.training.checkpoint import Checkpoints
from llmbook.training.config import FREE_TO_CHANGE
from llmbook.training.log import Log, read_log
from llmbook.training.optim import build_optimizers, clip_gradients
from llmbook.training.precision import Precision
from llmbook.training.state import capture, restore


class TrainingDiverged(ArithmeticError):
    """The loss or the gradient is no longer a finite number. `step`: the first such step."""

    def __init__(self, message, step):
        super().__init__(message)
        self.step = step


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run that was saved before it stopped. `step`, `path`: what was saved."""

    def __init__(self, step, path):
        super().__init__(f"stopped at step {step:,} and saved {path}")
        self.step, self.path = step, path


def own_loss(model, *batch):
    """The default loss: the model's own, a mean over the targets, the batch's second tensor."""
    return model.loss(*batch)


def own_count(input_ids, targets, *more):
    """How many terms a model's own loss is a mean of: the targets that are not masked."""
    return count_targets(targets)


def count_rows(*batch):
    """How many terms a loss is a mean of that gives every row the same weight."""
    return torch.tensor(batch[0].shape[0])


class Update:
    """One update of a model's weights: `update(batch, factor) → (loss, gradient norm)`.

    batch: this process's part, a tuple of tensors whose rows are cut into `config.accumulate`
    micro-batches. Each one's loss counts by its share of all terms, so that the gradient is that
    of one large batch, masked targets or not. factor: of the peak learning rate. Both results are
    scalar tensors on the device, so that a GPU isn't waited for: the loss of the whole batch, over
    all processes, and the norm of its gradient before clipping.
    """

    def __init__(self, model, config, loss=None, count=None, world=None):
        self.model, self.config = model, config
        self.device = next(model.parameters()).device
        self.world = world or distributed.current_world()
        self.precision = Precision.choose(self.device, config.precision)
        self.scaler = self.precision.scaler()
        self.count = count or (own_count if loss is None else count_rows)
        if config.checkpoint_activations:
            if not hasattr(model, "checkpointing"):
                raise ValueError(
                    f"checkpoint_activations needs a model that has it: got {type(model).__name__}"
                )
            model.checkpointing = True
        inner = distributed.LossOf(model, loss or own_loss)
        self.forward = distributed.parallelise(inner, config.parallel, self.world)
        if config.compile:
            self.forward = torch.compile(self.forward)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizers = build_optimizers(model, config)

    def __call__(self, batch, factor=1.0):
        """Gradients of the batch, micro-batch by micro-batch; clip, step, forget them."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.lr * factor
        parts = self._parts(batch)
        total = None
        for i, (part, share) in enumerate(parts):
            with distributed.last_backward(self.forward, i == len(parts) - 1):
                with self.precision.autocast():
                    loss = self.forward(*part)
                    loss = loss if share is None else loss * share
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            total = loss.detach() if total is None else total + loss.detach()
        norm = self._apply()
        if self.world.size > 1:
            total = distributed.sum_over(self.world, total) / self.world.size
        return total, norm

    def _apply(self):
        """Clip, step, and forget the gradients."""
        if self.scaler is not None:
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
        norm = clip_gradients(self.parameters, self.config.clip)
        if self.scaler is None:
            for optimizer in self.optimizers:
                optimizer.step()
        else:
            # The scaler skips the step of the optimiser whose gradients overflowed. Another one's
            # must not be made either: clipping by an infinite norm has spoiled its gradients.
            if len(self.optimizers) == 1 or norm.isfinite():
                for optimizer in self.optimizers:
                    self.scaler.step(optimizer)
            self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return norm

    def _parts(self, batch):
        """Micro-batches on the device, each with its share of the loss (None for all of it)."""
        rows = batch[0].shape[0]
        if rows % self.config.accumulate:
            raise ValueError(
                f"accumulate must divide a process's rows: got {rows} rows, "
                f"accumulate={self.config.accumulate}"
            )
        if self.config.accumulate == 1 and self.world.size == 1:
            return [(self._move(batch), None)]
        pieces = list(zip(*(t.chunk(self.config.accumulate) for t in batch), strict=True))
        counts = [int(self.count(*piece)) for piece in pieces]
        total = sum(counts)
        if self.world.size > 1:
            # DDP and FSDP average over processes, so a process's share counts world.size times.
            everywhere = torch.tensor(float(total), device=self.device)
            total = distributed.sum_over(self.world, everywhere) / self.world.size
        kept = [(piece, n) for piece, n in zip(pieces, counts, strict=True) if n]
        if not kept or (self.world.size > 1 and len(kept) < len(pieces)):
            # a mean over nothing is nan; processes must do as many backward passes as each other
            raise ValueError("a micro-batch has no target that counts: use larger ones")
        return [(self._move(piece), n / total) for piece, n in kept]

    def _move(self, batch):
        return tuple(t.to(self.device, non_blocking=True) for t in batch)


def train(
    model,
    batch_at,
    config,
    *,
    loss=None,
    count=None,
    evaluate=None,
    sample=None,
    folder=None,
    resume=False,
    log=None,
    fingerprint=None,
    together=1,
):
    """Train a model, and return the `History` of its run.

    model: on its device, with float32 weights; updated in place. batch_at(step): the batch of a
    step, a tuple of tensors with as many rows each, the same whenever it is called; in several
    processes this process's part of it. config: a `TrainConfig`. loss(model, *batch): a scalar
    mean; the model's own when None. count(*batch): how many terms that mean has (rows when None),
    which accumulation needs.
    evaluate(model): a number to log as validation loss, with the model in evaluation mode.
    sample(model): a text to log with each checkpoint. Neither moves the random numbers on.

    folder: for checkpoints and logs; nothing is written without. resume: go on from the newest
    whole checkpoint there, bit for bit as if never stopped (on a CPU with as many threads, or with
    deterministic kernels), or from the start when there is none. Ctrl-C saves a checkpoint first.
    fingerprint: what identifies the data; it must be the same when resuming. log: a `Log`.

    A batch that is sampled from the model itself: batch_at is called right before its step, so it
    sees the weights after `step` updates, and a resumed run sees the same ones. It draws from
    `seeds.generator(seed, step)` and not from torch's own generator; it may leave the model in
    evaluation mode; `log.note(step, reward=…)` there, and `log.measure(kl=…)` in the loss, are
    logged with that step. together: how many steps share one sample, such as PPO's K passes over a
    rollout that batch_at makes where step % K == 0 and keeps for the others. Checkpoints are
    then only written between samples, Ctrl-C waits for the end of one, and so the run still
    resumes bit for bit; checkpoint_every and steps must be multiples of it.

    Raises TrainingDiverged when the loss or the gradient is not finite, naming the step and the
    last checkpoint, ValueError for a checkpoint of another config or data, or for a log that has
    lost its checkpoints, CheckpointNotWritten when the disk is full. Warns when
    more steps than the run was planned for let the learning rate rise again.
    """
    whole("together", together, least=1)
    if folder is not None:
        divides("together", together, "checkpoint_every", config.checkpoint_every)
        divides("together", together, "steps", config.steps)
    world = distributed.current_world()
    update = Update(model, config, loss, count, world)
    facts = {
        "config": {k: v for k, v in vars(config).items() if k not in FREE_TO_CHANGE},
        "schedule": {"steps": config.steps, "cooldown": config.cooldown},
        "fingerprint": fingerprint,
    }
    saver = None if folder is None else Checkpoints(Path(folder) / "checkpoints", config.keep)
    start = _begin(saver, update, facts, resume, world)
    if world.rank and not start:
        torch.manual_seed(config.seed + world.rank)  # each process drops units of its own
    if log is None:
        log = Log(folder if world.first else None, progress=world.first)
    log.start(start, config.steps)

    def save(step):
        snapshot = capture(step, model, update.optimizers, update.scaler, facts, world)
        path = saver.save(snapshot) if world.first else saver.path(step)
        distributed.barrier(world)
        return path

    def evaluate_and_sample(step):
        measuring = evaluate and _is_due(step, config.evaluate_every, config.steps)
        writing = sample and _is_due(step, config.checkpoint_every, config.steps)
        if measuring or writing:
            with _evaluation_mode_with_rng_restored(model):
                if measuring:
                    log.note(step, validation=float(evaluate(model)))
                if writing:
                    log.note(step, sample=sample(model))
            log.paused()

    model.train()
    with _Interrupts(saver is not None, world, update.device) as interrupts:
        for step in range(start, config.steps):
            evaluate_and_sample(step)
            batch = batch_at(step)
            if not model.training:  # it sampled from the model
                model.train()
            factor = config.factor(step)
            value, norm = update(batch, factor)
            log.step(step, value, config.lr * factor, norm, batch[0].numel() * world.size)
            done = step + 1
            saving = saver is not None and _is_due(done, config.checkpoint_every, config.steps)
            asked = interrupts.asked(done % config.log_every == 0) and done % together == 0
            if saving or asked or done % config.log_every == 0:
                _check_finite(log.flush(), saver, update.scaler)
            if saving or asked:
                path = save(done)
                log.paused()
            if asked:
                raise Interrupted(done, path)
    _check_finite(log.flush(), saver, update.scaler)
    evaluate_and_sample(config.steps)
    log.flush(last=True)
    model.eval()
    return log.history


def _begin(saver, update, facts, resume, world):
    """The step to start at: that of the newest checkpoint, put in place, when resuming; else 0."""
    if saver is None:
        if resume:
            raise ValueError("resume=True needs the folder that the run was saved in")
        return 0
    if not resume:
        if saver.steps():
            raise ValueError(
                f"{saver.folder} holds a run already (steps {saver.steps()}): resume it, or name "
                "another folder"
            )
        return 0
    snapshot = saver.load()
    if snapshot is None:
        every, rows = update.config.checkpoint_every, read_log(saver.folder.parent)
        if every and rows and rows[-1]["step"] > every:
            raise ValueError(
                f"{saver.folder} has no checkpoint, though the log beside it reaches step "
                f"{rows[-1]['step']}: put one back, or name another folder"
            )
        return 0
    stored = snapshot.state["facts"]
    for name, value in facts["config"].items():
        if stored["config"].get(name) != value:
            raise ValueError(
                f"the run in {saver.folder} has {name}={stored['config'].get(name)!r}: it can't "
                f"be resumed with {value!r}"
            )
    if stored["fingerprint"] != facts["fingerprint"]:
        raise ValueError(
            f"the run in {saver.folder} was trained on other data: its fingerprint is "
            f"{stored['fingerprint']!r}, here it is {facts['fingerprint']!r}"
        )
    _warn_of_a_rising_rate(snapshot.step, stored["schedule"], update.config)
    restore(snapshot, update.model, update.optimizers, update.scaler, world)
    return snapshot.step


def _warn_of_a_rising_rate(step, before, config):
    """More steps are another schedule: say so where the rate would go up again."""
    was, now = (dataclasses.replace(config, **before).factor(step), config.factor(step))
    if now > was * (1 + 1e-9):
        warnings.warn(
            f"the run was planned for {before['steps']:,} steps and its learning rate has fallen "
            f"to {config.lr * was:.3g} at step {step:,}; with steps={config.steps:,} it rises to "
            f"{config.lr * now:.3g} again. A schedule without an end (constant, inverse_sqrt), or "
            "a trapezoid resumed before it falls, goes on as it was",
            stacklevel=4,
        )


def _check_finite(rows, saver, scaler):
    """Raise TrainingDiverged for the first row whose loss or gradient is no finite number.

    With a loss scaler an infinite gradient is no accident: that step was skipped.
    """
    for row in rows:
        if "loss" not in row:
            continue
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(row[name])]
        if not bad or (scaler is not None and bad == ["grad_norm"]):
            continue
        steps = saver.steps() if saver else []
        last = (
            f"the last good checkpoint is {saver.path(steps[-1])}"
            if steps
            else ("there is no checkpoint")
        )
        raise TrainingDiverged(
            f"{' and '.join(bad)} of step {row['step']} not finite: loss={row['loss']}, "
            f"grad_norm={row['grad_norm']}, lr={row['lr']:.3g}, on the batch batch_at("
            f"{row['step']}); {last}. Try a smaller lr, a longer warmup or a smaller clip",
            row["step"],
        )


def _is_due(step, every, last):
    return bool(every) and (step % every == 0 or step == last)


@contextlib.contextmanager
def _evaluation_mode_with_rng_restored(model):
    """Evaluation mode, no gradients, and random numbers put back where they were."""
    was, device = model.training, next(model.parameters()).device
    model.eval()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            yield
    finally:
        model.train(was)


class _Interrupts:
    """Ctrl-C as a question asked at the end of a step; a second one is obeyed at once."""

    def __init__(self, active, world, device):
        # Python hands signals to the main thread alone.
        self.active = active and threading.current_thread() is threading.main_thread()
        self.world, self.device = world, device
        self.seen, self._before = False, None

    def __enter__(self):
        if self.active:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_):
        if self.active:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, *_):
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True

    def asked(self, together):
        """Whether to stop. Several processes agree on it, at the steps where all of them ask."""
        if self.world.size == 1:
            return self.seen
        if not together:
            return False
        seen = torch.tensor(float(self.seen), device=self.device)
        return bool(distributed.sum_over(self.world, seen))
