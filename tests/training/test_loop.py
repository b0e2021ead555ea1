"""The loop: accumulation is a large batch, looking changes nothing, and a nan stops it by name."""

import dataclasses
import signal
import time

import pytest
import torch
import torch.nn.functional as F
from helpers.training_subject import CONFIG, LENGTH, VOCAB, same_weights, tiny_model, tiny_windows
from torch import nn

from llmbook import seeds
from llmbook.decoding import generate
from llmbook.losses import log_probs
from llmbook.models.mixtral import Mixtral, MixtralConfig
from llmbook.training import Interrupted, Log, TrainConfig, TrainingDiverged, Update, train
from llmbook.training.checkpoint import Checkpoints
from llmbook.training.evaluate import stream_nats, validation_loss
from llmbook.training.loop import count_rows
from llmbook.training.precision import Precision


def quiet(folder=None):
    return Log(folder, progress=False)


def run(model, batch_at=None, config=CONFIG, **options):
    windows = tiny_windows()
    batch_at = batch_at or (lambda step: windows.batch(step, config.batch_size))
    options.setdefault("log", quiet(options.get("folder")))
    torch.manual_seed(1)  # of dropout; a resumed run has its own
    return train(model, batch_at, config, **options)


def masked_batch(kept_of_row):
    """A batch whose rows have this many targets that count."""
    inputs, targets = (t.clone() for t in tiny_windows().batch(0, len(kept_of_row)))
    for row, kept in enumerate(kept_of_row):
        targets[row, kept:] = -100
    return inputs, targets


# --- one update


@pytest.mark.parametrize("kept", [[8, 8, 8, 8], [1, 8, 3, 2], [0, 0, 5, 8]])
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_micro_batches_are_one_large_batch(kept, accumulate):
    batch = masked_batch(kept)
    # clip 0 and SGD-like eps: AdamW's first step forgets the gradient's size, its norm does not
    whole = Update(tiny_model(dropout=0.0), dataclasses.replace(CONFIG, clip=0.0, eps=1.0))
    parts = Update(
        tiny_model(dropout=0.0),
        dataclasses.replace(CONFIG, clip=0.0, eps=1.0, accumulate=accumulate),
    )
    for _ in range(3):
        (a, norm_a), (b, norm_b) = whole(batch), parts(batch)
        assert b.item() == pytest.approx(a.item(), abs=1e-6)
        assert norm_b.item() == pytest.approx(norm_a.item(), rel=1e-5)
    for p, q in zip(whole.parameters, parts.parameters, strict=True):
        assert (p - q).abs().max() < 1e-6


def test_the_experts_balance_has_the_same_weight_in_one_batch_and_in_many():
    """Copies of a row, so that any part of the batch has the balance of the whole."""
    inputs, targets = (t.repeat(4, 1) for t in tiny_windows().batch(0, 1))
    norms = {}
    for balance in (0.0, 10.0):
        for accumulate in (1, 4):
            torch.manual_seed(0)
            shape = MixtralConfig(
                VOCAB, LENGTH, 16, 2, 2, n_kv_heads=2, d_ff=16, balance=balance, with_balance=True
            )
            config = dataclasses.replace(CONFIG, clip=0.0, accumulate=accumulate)
            found = Update(Mixtral(shape), config)((inputs, targets))
            norms[balance, accumulate] = [value.item() for value in found]
    for balance in (0.0, 10.0):
        one, many = norms[balance, 1], norms[balance, 4]
        assert many == pytest.approx(one, rel=1e-4)
    assert norms[10.0, 1][0] > norms[0.0, 1][0] + 5  # the balance is in the loss


def test_a_micro_batch_without_any_target_is_refused_when_there_is_no_other():
    update = Update(tiny_model(), dataclasses.replace(CONFIG, accumulate=2))
    with pytest.raises(ValueError, match="no target that counts"):
        update(masked_batch([0, 0]))
    with pytest.raises(ValueError, match="accumulate must divide a process's rows: got 3 rows"):
        update(masked_batch([1, 1, 1]))


def test_an_update_is_the_formula_by_hand():
    model, theirs = tiny_model(dropout=0.0), tiny_model(dropout=0.0)
    batch = tiny_windows().batch(0, 4)
    config = dataclasses.replace(CONFIG, clip=0.1)
    loss, norm = Update(model, config)(batch, factor=0.5)
    expected = F.cross_entropy(theirs(batch[0]).flatten(0, 1), batch[1].flatten())
    expected.backward()
    expected_norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.5 * CONFIG.lr,
        betas=(0.9, 0.95),
    ).step()
    torch.testing.assert_close([loss, norm], [expected.detach(), expected_norm])
    for p, q in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert all(p.grad is None for p in model.parameters()), "the gradients are left"


def test_activation_checkpointing_changes_memory_and_nothing_else():
    batch, weights = tiny_windows().batch(0, 4), []
    for switch in (False, True):
        model = tiny_model(n_layers=2)
        update = Update(model, dataclasses.replace(CONFIG, checkpoint_activations=switch))
        torch.manual_seed(1)
        for _ in range(2):
            update(batch)
        assert model.checkpointing == switch
        weights.append(model)
    assert same_weights(*weights)
    with pytest.raises(ValueError, match="got Linear"):
        Update(nn.Linear(2, 2), dataclasses.replace(CONFIG, checkpoint_activations=True))


@pytest.mark.slow
def test_a_compiled_update_is_the_same_to_rounding():
    batch, losses = tiny_windows().batch(0, 4), []
    for compiled in (False, True):
        update = Update(tiny_model(dropout=0.0), dataclasses.replace(CONFIG, compile=compiled))
        losses.append([update(batch)[0].item() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_any_model_trains_with_a_loss_of_its_own():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1), torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])

    def squared(model, x, y):
        return (model(x) - y).square().mean()

    config = TrainConfig(
        steps=200, batch_size=64, lr=0.05, warmup=0, weight_decay=0.0, accumulate=2
    )
    history = train(model, lambda step: (x, y), config, loss=squared, log=quiet())
    assert history.losses[0] > 1 and history.losses[-1] < 1e-2
    assert count_rows(x, y) == 64


# --- precision


@pytest.mark.parametrize("name, dtype", [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_run_in_the_precision_and_weights_loss_and_state_stay_float32(name, dtype):
    model, seen = tiny_model(), {}
    model.blocks[0].ffn.up.register_forward_hook(lambda m, i, out: seen.update(product=out.dtype))
    update = Update(model, dataclasses.replace(CONFIG, precision=name))
    loss, _ = update(tiny_windows().batch(0, 4))
    assert seen["product"] == dtype and loss.dtype == torch.float32 and update.scaler is None
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    states = [t for state in update.optimizers[0].state.values() for t in state.values()]
    assert {t.dtype for t in states} == {torch.float32}


def test_t4_rules_mean_float16_and_a_loss_scaler(monkeypatch):
    monkeypatch.setenv("LLMBOOK_DEVICE_PROFILE", "t4")
    precision = Precision.choose("cpu")
    assert precision.dtype == torch.float16 and "T4 rules" in precision.reason
    update = Update(tiny_model(dropout=0.0), dataclasses.replace(CONFIG, lr=1e-3))
    before = [p.detach().clone() for p in update.parameters]
    loss, norm = update(tiny_windows().batch(0, 2))
    monkeypatch.delenv("LLMBOOK_DEVICE_PROFILE")
    plain = Update(tiny_model(dropout=0.0), dataclasses.replace(CONFIG, lr=1e-3))
    expected, expected_norm = plain(tiny_windows().batch(0, 2))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    assert norm.item() == pytest.approx(expected_norm.item(), rel=2e-2), "scaled when clipped"
    assert any(not torch.equal(a, b) for a, b in zip(before, update.parameters, strict=True))


def test_a_step_that_overflows_float16_is_skipped_and_the_scale_halved(monkeypatch):
    monkeypatch.setenv("LLMBOOK_DEVICE_PROFILE", "t4")
    update = Update(tiny_model(dropout=0.0), CONFIG)
    before = [p.detach().clone() for p in update.parameters]
    update.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    _, norm = update(tiny_windows().batch(0, 2))
    assert update.scaler.get_scale() == 2.0**39 and not norm.isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, update.parameters, strict=True))


@pytest.mark.parametrize("poison", [torch.inf, torch.nan])
@pytest.mark.parametrize("of", ["muon", "adamw"])
def test_an_overflow_in_one_optimisers_gradients_skips_the_step_of_both(monkeypatch, of, poison):
    """Muon holds matrices, AdamW vectors; where one overflows, the joint norm spoils the other."""
    monkeypatch.setenv("LLMBOOK_DEVICE_PROFILE", "t4")
    model = tiny_model(dropout=0.0)
    update = Update(model, dataclasses.replace(CONFIG, optimizer="muon"))
    update(tiny_windows().batch(0, 2))  # so that both have momentum
    before = [p.detach().clone() for p in update.parameters]
    spoiled = model.blocks[0].ffn.up.weight if of == "muon" else model.norm.weight
    hook = spoiled.register_hook(lambda g: g.index_fill(0, torch.tensor([0]), poison))
    _, norm = update(tiny_windows().batch(1, 2))
    hook.remove()
    assert not norm.isfinite() and update.scaler.get_scale() == 2.0**15
    assert all(torch.equal(a, b) for a, b in zip(before, update.parameters, strict=True))
    update(tiny_windows().batch(2, 2))
    assert not any(torch.equal(a, b) for a, b in zip(before, update.parameters, strict=True))
    assert all(p.isfinite().all() for p in update.parameters)


def test_a_skipped_step_is_no_divergence(monkeypatch):
    monkeypatch.setenv("LLMBOOK_DEVICE_PROFILE", "t4")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**28)
    monkeypatch.setattr(Precision, "scaler", lambda self: scaler)
    history = run(tiny_model(dropout=0.0))
    skipped = [norm == float("inf") or norm != norm for norm in history.grad_norms]
    assert skipped[0] and not skipped[-1] and len(history.losses) == 12


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="got 'int8'"):
        Precision.choose("cpu", "int8")


# --- the loop


def test_looking_at_the_model_changes_nothing():
    def look(model):
        assert not model.training and not torch.is_grad_enabled()
        return torch.rand(100).sum()

    a, b = tiny_model(), tiny_model()
    run(a)
    history = run(b, evaluate=look, sample=lambda m: str(look(m)))
    assert same_weights(a, b)
    assert [step for step, _ in history.validation] == [0, 4, 8, 12]
    assert [step for step, _ in history.samples] == [0, 5, 10, 12]


def test_a_history_tells_every_step():
    history = run(tiny_model())
    assert history.steps == list(range(12)) and len(history.losses) == 12
    assert history.lr == pytest.approx([CONFIG.lr * CONFIG.factor(step) for step in range(12)])
    assert history.tokens == 12 * 4 * LENGTH and min(history.grad_norms) > 0


def test_the_same_seed_gives_the_same_run():
    a, b = tiny_model(), tiny_model()
    assert run(a).losses == run(b).losses and same_weights(a, b)


def test_training_learns():
    windows = tiny_windows(tokens=40)
    config = dataclasses.replace(CONFIG, steps=150)
    history = run(tiny_model(dropout=0.0), lambda step: windows.batch(step, 4), config)
    assert history.losses[-1] < 0.5 * history.losses[0]


@pytest.mark.parametrize("poison, name", [("loss", "loss"), ("gradient", "grad_norm")])
def test_a_nan_stops_with_step_batch_and_last_good_checkpoint_named(tmp_path, poison, name):
    windows, model = tiny_windows(), tiny_model()

    def loss(model, inputs, targets):
        value = model.loss(inputs, targets)
        if torch.equal(inputs, windows.batch(8, 4)[0]):
            root = torch.sqrt(model.norm.weight.sum() * 0)  # its gradient is 0 · inf
            value = value * torch.nan if poison == "loss" else value + root
        return value

    with pytest.raises(TrainingDiverged) as stop:
        run(model, loss=loss, folder=tmp_path)
    text, last = str(stop.value), tmp_path / "checkpoints" / "step-00000005"
    assert stop.value.step == 8 and "step 8" in text and "batch_at(8)" in text
    assert str(last) in text and name in text
    snapshot = Checkpoints(tmp_path / "checkpoints").load()
    assert snapshot.step == 5
    assert all(t.isfinite().all() for t in snapshot.tensors["model"].values())


def test_a_nan_is_never_saved(tmp_path):
    """The checkpoint falls due on the very step that the weights go bad."""

    def loss(model, inputs, targets):
        loss.calls += 1
        return model.loss(inputs, targets) * (torch.nan if loss.calls == 10 else 1)

    loss.calls = 0
    config = dataclasses.replace(CONFIG, log_every=100)
    with pytest.raises(TrainingDiverged, match="step 9"):
        run(tiny_model(), loss=loss, folder=tmp_path, config=config)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [5]


def test_ctrl_c_saves_and_the_rest_is_the_run_that_was_not_stopped(tmp_path):
    windows, whole, stopped = tiny_windows(), tiny_model(), tiny_model()
    expected = run(whole)

    def batch_at(step):
        if step == 7:
            signal.raise_signal(signal.SIGINT)
        return windows.batch(step, 4)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="saved") as stop:
        run(stopped, batch_at, folder=tmp_path)
    assert stop.value.step == 8 and stop.value.path.is_dir()
    assert signal.getsignal(signal.SIGINT) is handler
    again = tiny_model(seed=9)
    history = run(again, folder=tmp_path, resume=True)
    assert same_weights(whole, again) and history.losses == expected.losses


def test_a_second_ctrl_c_is_obeyed_at_once(tmp_path):
    def batch_at(step):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as stop:
        run(tiny_model(), batch_at, folder=tmp_path)
    assert not isinstance(stop.value, Interrupted)


def test_overhead_of_the_loop_is_small():
    """What train adds to bare updates is under a millisecond a step."""
    model, batch = nn.Linear(2, 1), (torch.randn(4, 2), torch.randn(4, 1))
    config = TrainConfig(steps=200, batch_size=4, warmup=0)

    def loss(model, x, y):
        return (model(x) - y).square().mean()

    update = Update(model, config, loss)
    begin = time.process_time()
    for _ in range(200):
        update(batch)
    middle = time.process_time()
    train(model, lambda step: batch, config, loss=loss, log=quiet())
    assert time.process_time() - middle - (middle - begin) < 200 * 1e-3


# --- evaluation


def test_validation_loss_is_the_mean_over_windows_or_over_some_spread_evenly():
    model, ids = tiny_model().eval(), tiny_windows(90).ids
    losses = [
        model.loss(ids[None, i : i + LENGTH], ids[None, i + 1 : i + LENGTH + 1]).item()
        for i in range(0, 88, LENGTH)
    ]
    assert len(losses) == 11

    def mean(values):
        return pytest.approx(sum(values) / len(values), rel=1e-5)

    assert validation_loss(model, ids, LENGTH, batch_size=4) == mean(losses)
    assert validation_loss(model, ids, LENGTH, windows=99) == mean(losses)
    assert validation_loss(model, ids, LENGTH, windows=2) == mean([losses[0], losses[5]])
    with pytest.raises(ValueError, match="tokens: got 8"):
        validation_loss(model, ids[:LENGTH], LENGTH)


@pytest.mark.parametrize("tokens", [2, 8, 9, 10, 31, 50])
@pytest.mark.parametrize("stride", [1, 3, 8])
def test_stream_nats_scores_every_token_but_the_first_once_with_context(tokens, stride):
    model, ids = tiny_model().eval(), tiny_windows().ids[:tokens]
    total = 0.0
    for t in range(1, tokens):
        if t <= LENGTH:
            begin = 0
        else:  # the first window whose end is at or after t; windows start at multiples of stride
            k = -(-(t - LENGTH) // stride)
            begin = k * stride
        logits = model(ids[None, begin:t])[0, -1]
        total -= torch.log_softmax(logits, -1)[ids[t]].item()
    assert stream_nats(model, ids, LENGTH, stride=stride, batch_size=3) == pytest.approx(
        total / (tokens - 1), rel=1e-4
    )


def test_a_uniform_model_has_the_entropy_of_a_uniform_choice():
    model = tiny_model().eval()
    with torch.no_grad():
        model.tokens.weight.zero_()
    assert stream_nats(model, tiny_windows().ids, LENGTH) == pytest.approx(
        torch.log(torch.tensor(float(VOCAB))).item(), rel=1e-5
    )


# --- batches that are sampled from the model


PASSES = 3  # updates on one rollout


class Rollouts:
    """`rollouts(step)`: texts that the model writes as it stands, with a reward for each.

    A new sample every PASSES steps. Extra tensors: the log-probabilities when it was drawn, and
    the advantage of each row.
    """

    def __init__(self, model, log, seed=0):
        self.model, self.log, self.seed, self.kept = model, log, seed, None

    def __call__(self, step):
        if step % PASSES == 0:
            self.kept = self._draw(step)
        return self.kept

    @torch.no_grad()
    def _draw(self, step):
        prompt = torch.zeros(6, 1, dtype=torch.int64)
        draw = seeds.number(self.seed, "rollout", step)
        ids = generate(self.model, prompt, max_new_tokens=5, temperature=1.0, seed=draw)
        inputs, targets = ids[:, :-1], ids[:, 1:]
        reward = (targets == 3).float().mean(1)  # likes one token
        self.log.note(step, reward=reward.mean())
        self.model.eval()
        old = log_probs(self.model(inputs), targets)
        return inputs, targets, old, reward - reward.mean()


def policy_loss(log):
    def loss(model, inputs, targets, old, advantage):
        ratio = (log_probs(model(inputs), targets) - old).exp()
        log.measure(clipped=((ratio - 1).abs() > 0.2).float().mean())
        kept = ratio.clamp(0.8, 1.2)
        return -torch.minimum(ratio * advantage[:, None], kept * advantage[:, None]).mean()

    return loss


def aligned(folder=None, interrupt=None, resume=False, steps=12):
    model, own = tiny_model(dropout=0.2), quiet(folder)
    rollouts = Rollouts(model, own)

    def batch_at(step):
        if step == interrupt:
            signal.raise_signal(signal.SIGINT)
        batch = rollouts(step)
        assert rollouts.kept is not None
        return batch

    config = dataclasses.replace(
        CONFIG, steps=steps, accumulate=2, batch_size=6, evaluate_every=0, checkpoint_every=3
    )
    torch.manual_seed(1)
    how = dict(loss=policy_loss(own), log=own, folder=folder, resume=resume, together=PASSES)
    return model, train(model, batch_at, config, **how)


def test_a_run_on_its_own_samples_resumes_bit_for_bit_between_two_of_them(tmp_path):
    model, history = aligned(tmp_path / "whole")
    with pytest.raises(Interrupted) as stop:
        aligned(tmp_path / "parts", interrupt=4)  # in the middle of a rollout's steps
    assert stop.value.step == 6  # it waited for their end
    resumed, rest = aligned(tmp_path / "parts", resume=True)
    assert same_weights(model, resumed)
    assert rest.losses == history.losses and rest.noted == history.noted
    assert [step for step, _ in history.noted["reward"]] == [0, 3, 6, 9]
    clipped = dict(history.noted["clipped"])
    assert list(clipped) == list(range(12)) and any(clipped.values())


def test_sampling_leaves_dropout_on_in_the_update():
    model, own = tiny_model(dropout=0.5), quiet()
    modes = []

    def loss(model, inputs, targets, *_):
        modes.append(model.training)
        return model.loss(inputs, targets)

    train(model, Rollouts(model, own), dataclasses.replace(CONFIG, steps=3), loss=loss, log=own)
    assert modes == [True] * 3 and not model.training


def test_steps_that_belong_together_must_fit_the_run_and_its_checkpoints(tmp_path):
    with pytest.raises(ValueError, match="together must divide checkpoint_every: got check"):
        run(tiny_model(), folder=tmp_path, together=2)
    with pytest.raises(ValueError, match="together must divide steps: got steps=12, together=5"):
        run(tiny_model(), folder=tmp_path, together=5)
    with pytest.raises(ValueError, match="together must be a whole number of at least 1: got 0"):
        run(tiny_model(), together=0)
    run(tiny_model(), together=5)  # nothing is saved, so nothing can be cut


def test_a_model_s_own_loss_may_take_more_tensors_and_counts_its_targets():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_model(dropout=0.0)

        def loss(self, inputs, targets, weight):
            return self.inner.loss(inputs, targets) * weight.mean()

    inputs, targets = masked_batch([1, 8, 3, 2])
    weight = torch.ones(4)
    config = dataclasses.replace(CONFIG, clip=0.0, eps=1.0)
    whole = Update(Weighted(), config)
    parts = Update(Weighted(), dataclasses.replace(config, accumulate=2))
    (a, _), (b, _) = (update((inputs, targets, weight)) for update in (whole, parts))
    assert b.item() == pytest.approx(a.item(), abs=1e-6)
