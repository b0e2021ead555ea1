"""Optimisers equal PyTorch's step by step, clipping too; schedules are the formulas they claim."""

import copy
import dataclasses
import math

import pytest
import torch
from helpers.training_subject import tiny_model
from torch import nn

from llmbook.training import optim, schedules
from llmbook.training.config import TrainConfig


def some_parameters(*shapes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]


def walk(optimizers, parameters, steps, change=None):
    """Steps on gradients that change in size; returns the weights after each step."""
    generator, path = torch.Generator().manual_seed(1), []
    for step in range(steps):
        if change:
            change(step, optimizers)
        for p in parameters:
            scale = 10.0 ** (step % 4 - 2)
            p.grad = scale * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for optimizer in optimizers:
            optimizer.step()
        path.append([p.detach().clone() for p in parameters])
    return path


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_is_torchs_step_by_step(decay):
    shapes = [(3, 5), (7,), (1,)]
    options = {"lr": 0.03, "betas": (0.8, 0.95), "weight_decay": decay}

    def schedule(step, optimizers):
        optimizers[0].param_groups[0]["lr"] = 0.03 / (step + 1)

    ours, theirs = some_parameters(*shapes), some_parameters(*shapes)
    a = walk([optim.AdamW(ours, eps=1e-3, **options)], ours, 10, schedule)
    b = walk([torch.optim.AdamW(theirs, eps=1e-3, **options)], theirs, 10, schedule)
    for step, (x, y) in enumerate(zip(a, b, strict=True)):
        for p, q in zip(x, y, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14, msg=lambda m: f"{step}: {m}")


def test_adamws_state_can_be_continued_by_torchs():
    ours = some_parameters((4, 3))
    optimizer = optim.AdamW(ours, lr=0.1)
    walk([optimizer], ours, 3)
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    other = torch.optim.AdamW(theirs, lr=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for x, y in zip(walk([optimizer], ours, 3), walk([other], theirs, 3), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(12, 12), (9, 33), (40, 8)])
def test_muon_is_torchs_within_what_bfloat16_can_tell(shape):
    ours, theirs = (some_parameters(shape, dtype=torch.float32) for _ in range(2))
    start = ours[0].detach().clone()
    a = walk([optim.Muon(ours, lr=0.05, weight_decay=0.1)], ours, 4)
    peer = torch.optim.Muon(theirs, lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    b = walk([peer], theirs, 4)
    for (x,), (y,) in zip(a, b, strict=True):
        assert (x - y).norm() < 0.03 * (y - start).norm()


@pytest.mark.parametrize("shape", [(16, 16), (8, 31), (31, 8)])
def test_orthogonalising_keeps_directions_and_brings_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    core = u.T @ optim.orthogonalise(1000 * matrix) @ vt.T
    assert (core - core.diag().diag()).abs().max() < 1e-10
    assert 0.6 < core.diag().min() and core.diag().max() < 1.3
    assert s.max() / s.min() > 1.3, "the matrix was orthogonal already"


def test_muon_takes_matrices_alone():
    with pytest.raises(ValueError, match=r"got a parameter \(5,\)"):
        optim.Muon(some_parameters((3, 3), (5,)))


def test_matrices_decay_and_vectors_do_not():
    model = tiny_model()
    decaying, still = optim.parameter_groups(model, 0.1)
    assert decaying["weight_decay"] == 0.1 and still["weight_decay"] == 0.0
    assert {p.ndim for p in decaying["params"]} == {2} and {p.ndim for p in still["params"]} == {1}
    assert len(decaying["params"]) + len(still["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["adamw", "adamw_reference", "muon"])
def test_every_parameter_has_one_optimiser(name):
    model = tiny_model()
    optimizers = optim.build_optimizers(model, TrainConfig(optimizer=name))
    held = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_muon_gets_the_blocks_matrices_and_adamw_embeddings_head_norms_and_biases():
    model = tiny_model(tied=False)
    muon, adamw = optim.build_optimizers(model, TrainConfig(optimizer="muon"))
    names = {id(p): name for name, p in model.named_parameters()}
    chosen = {names[id(p)] for g in muon.param_groups for p in g["params"]}
    block = "blocks.0."
    assert chosen == {
        block + "attention.in_proj_weight",
        block + "attention.out_proj.weight",
        block + "ffn.up.weight",
        block + "ffn.down.weight",
    }
    rest = {names[id(p)] for g in adamw.param_groups for p in g["params"]}
    assert {"tokens.weight", "positions.weight", "head.weight", "norm.weight"} <= rest


def test_muon_leaves_tables_in_blocks_and_what_is_frozen_alone():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.linear, self.frozen = (
                nn.Embedding(4, 3),
                nn.Linear(3, 3),
                nn.Linear(3, 3),
            )
            self.frozen.requires_grad_(False)

    model = nn.ModuleDict({"blocks": nn.ModuleList([Block()])})
    assert list(optim.block_matrices(model)) == ["blocks.0.linear.weight"]
    muon, adamw = optim.build_optimizers(model, TrainConfig(optimizer="muon"))
    table = model["blocks"][0].table.weight
    assert any(p is table for group in adamw.param_groups for p in group["params"])


def test_muon_refuses_a_model_without_blocks():
    with pytest.raises(ValueError, match="nn.ModuleList"):
        optim.build_optimizers(nn.Linear(3, 3), TrainConfig(optimizer="muon"))


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_is_torchs(max_norm):
    ours, theirs = some_parameters((3, 4), (5,), (2,)), some_parameters((3, 4), (5,), (2,))
    for p, q in zip(ours[:2], theirs, strict=False):  # the third has no gradient
        p.grad = torch.randn(p.shape, dtype=p.dtype)
        q.grad = p.grad.clone()
    norm = optim.clip_gradients(ours, max_norm)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(theirs, max_norm))
    for p, q in zip(ours, theirs, strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=0)


def test_a_maximum_of_zero_measures_and_changes_nothing():
    (p,) = some_parameters((4,))
    p.grad = torch.tensor([3.0, 0, 4.0, 0], dtype=torch.float64)
    assert optim.clip_gradients([p], 0) == 5.0 and p.grad[0] == 3.0
    assert optim.clip_gradients([nn.Parameter(torch.ones(2))], 1.0) == 0.0


# --- schedules


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_the_first_step_has_one_part_of_the_warm_up_and_the_last_of_it_the_peak(name):
    schedule = schedules.SCHEDULES[name]
    assert schedule(0, 100, 8) == 1 / 8 and schedule(6, 100, 8) == 7 / 8
    assert schedule(7, 100, 8) == 1.0 and schedule(0, 100, 1) == 1.0


def test_schedules_end_where_they_are_told_unless_told_otherwise_where_papers_end():
    assert schedules.cosine(100, 100) == 0.1 and schedules.linear(100, 100) == 0.0
    assert schedules.trapezoid(100, 100) == 0.0 and schedules.trapezoid(80, 100) == 1.0
    assert schedules.trapezoid(90, 100) == pytest.approx(0.5)
    assert schedules.trapezoid(90, 100, final=0.2) == pytest.approx(0.6)
    assert schedules.linear(100, 100, final=0.3) == pytest.approx(0.3)
    assert schedules.constant(10**6, 100, 8) == 1.0
    assert schedules.inverse_sqrt(3999) == 1.0 and schedules.inverse_sqrt(15999) == 0.5
    assert schedules.noam(3999, 512) == pytest.approx((512 * 4000) ** -0.5)
    # a warm-up that is the whole run, and one longer than it
    assert schedules.cosine(9, 10, 10) == 1.0 and schedules.linear(9, 10, 10) == 1.0
    assert schedules.linear(5, 10, 20) == 6 / 20
    # behind its end a schedule stays there
    assert schedules.linear(500, 100, 10, 0.25) == 0.25 == schedules.trapezoid(500, 100, 10, 0.25)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_a_warm_up_rises_evenly_to_one_and_never_starts_at_zero(name):
    factors = [schedules.SCHEDULES[name](step, 100, 10) for step in range(10)]
    assert factors == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(schedules.SCHEDULES[name](step, 100, 10) for step in range(100)) == pytest.approx(1)


def test_cosine_passes_its_middle_and_ends_at_its_floor():
    assert schedules.cosine(10, 110, 10, 0.1) == 1.0
    assert schedules.cosine(60, 110, 10, 0.1) == pytest.approx(0.55)
    assert schedules.cosine(35, 110, 10, 0.0) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    assert schedules.cosine(110, 110, 10, 0.1) == schedules.cosine(500, 110, 10, 0.1) == 0.1


def test_linear_falls_in_a_line():
    assert schedules.linear(60, 110, 10, 0.0) == pytest.approx(0.5)
    assert schedules.linear(85, 110, 10, 0.2) == pytest.approx(0.4)


def test_trapezoid_is_flat_until_its_last_fifth():
    factors = [schedules.trapezoid(step, 100, 10) for step in range(100)]
    assert set(factors[10:81]) == {1.0} and factors[90] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(1 / 20) and schedules.trapezoid(100, 100, 10) == 0.0


def test_the_recipe_says_over_which_share_of_the_steps_the_trapezoid_falls():
    half = TrainConfig(steps=100, schedule="trapezoid", warmup=10, final_lr=0.0, cooldown=0.5)
    assert [half.factor(step) for step in (9, 50, 75)] == [1.0, 1.0, 0.5]
    assert TrainConfig(steps=100, schedule="trapezoid", warmup=10, final_lr=0.0).factor(75) == 1.0
    assert dataclasses.replace(half, schedule="linear", warmup=0).factor(50) == 0.5
    with pytest.raises(ValueError, match="cooldown"):
        TrainConfig(cooldown=1.5)


def test_inverse_square_root_is_the_2017_formula_up_to_its_scale():
    d_model, warmup = 512, 40
    for step in (0, 3, 39, 40, 159, 10_000):
        scale = (d_model * warmup) ** -0.5
        factor = schedules.inverse_sqrt(step, warmup=warmup)
        assert schedules.noam(step, d_model, warmup) == pytest.approx(factor * scale)
    assert schedules.inverse_sqrt(159, warmup=40) == pytest.approx(0.5)


def test_a_schedule_without_warm_up_starts_at_one():
    for name, schedule in schedules.SCHEDULES.items():
        assert schedule(0, 10, 0) == 1.0, name
