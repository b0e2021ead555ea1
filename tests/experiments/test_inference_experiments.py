"""The recorded runs on inference: the task's answers, what is cached, the students' losses."""

import json

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from llmbook.decoding import generate
from llmbook.experiments import distil, inference
from llmbook.experiments import draft_heads as heads
from llmbook.models import load
from llmbook.models.gpt import GPT
from llmbook.models.pretrained import SHIPPED
from llmbook.seeds import generator

KEYS = inference.KEYS
PARTS = {"recall", "distil", "heads", "draft"}


def test_a_key_that_comes_again_has_its_value():
    ids = inference.pair_texts(30, 64, generator(0, "x"))
    keys, values = ids[:, ::2], ids[:, 1::2]
    assert keys.max() < KEYS <= values.min() and values.max() < 2 * KEYS
    again = 0
    for k, v in zip(keys.tolist(), values.tolist(), strict=True):
        seen = {}
        for key, value in zip(k, v, strict=True):
            again += key in seen
            assert seen.setdefault(key, value) == value
    assert again > 300  # there is something to look up


@pytest.mark.parametrize("depth, place", [(0.0, 0), (0.5, 15), (1.0, 30)])
def test_a_needle_stands_once_at_its_depth_and_is_asked_for_last(depth, place):
    ids, answers = inference.needles(20, 64, depth, generator(0, "x"))
    assert ids.shape == (20, 63)
    asked, keys = ids[:, -1], ids[:, :-1:2]
    assert ((keys == asked[:, None]).sum(1) == 1).all()
    assert torch.equal(keys[:, place], asked)
    assert torch.equal(ids[:, 2 * place + 1], answers)


@pytest.mark.parametrize("arm", inference.ARMS)
def test_every_arm_is_causal_and_trains(arm):
    torch.manual_seed(0)
    model = inference.Recaller(inference.ARMS[arm])
    x = torch.randint(2 * KEYS, (2, 40))
    y = x.clone()
    y[:, 11] = (y[:, 11] + 1) % (2 * KEYS)
    with torch.no_grad():
        gap = (model(x) - model(y)).abs().amax((0, 2))
    assert gap[:11].max() < 1e-6 < 1e-5 < gap[11]
    model(x).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters())


def test_windows_alone_see_no_further_than_their_sum():
    torch.manual_seed(0)
    for arm in ("windows", "windows, 1 global", "1 global, windows"):
        reaches = arm != "windows"
        model = inference.Recaller(inference.ARMS[arm])
        x = torch.randint(2 * KEYS, (1, 64))
        y = x.clone()
        y[:, 0] = (y[:, 0] + 1) % (2 * KEYS)
        with torch.no_grad():
            gap = (model(x) - model(y)).abs().amax((0, 2))
        furthest = 3 * 15 + 1  # a token is embedded with the one before it
        assert (gap[furthest + 1 :] > 1e-7).any() == reaches
        assert gap[furthest] > 0


def test_the_numbers_cached_are_those_of_the_kinds():
    cached = {
        arm: inference.Recaller(layers).cached(100) for arm, layers in inference.ARMS.items()
    }
    assert cached["every head"] == 2 * 100 * 2 * 64
    assert cached["2 shared"] == cached["every head"] // 2 == 2 * cached["1 shared"]
    assert cached["latent"] == 2 * 100 * (16 + 8)
    assert cached["windows"] == 3 * 16 * 2 * 64
    assert cached["windows, 1 global"] == cached["1 global, windows"]
    assert cached["windows, 1 global"] == (2 * 16 + 100) * 2 * 64


def test_latent_attention_is_attention_over_keys_and_values_made_of_what_it_caches():
    torch.manual_seed(1)
    layer = inference.Latent(64, 16).double()
    layer.rotary.dtype = torch.float64
    x = torch.randn(1, 9, 64, dtype=torch.float64)
    c, turn = layer.down(x).split([16, 8], -1)  # all that has to be kept
    w_k, w_v = layer.up.weight.view(2, 4, 16, 16)
    q, mine = layer.q(x).view(1, 9, 4, 24).split([16, 8], -1)
    mine, turn = layer.rotary(
        mine.transpose(1, 2), turn[:, None], torch.arange(9)
    )  # (1, heads, 9, 8), (1, 1, 9, 8)
    c = layer.norm(c)[0]
    wanted = []
    for h in range(4):  # the key's matrix moves to the query's side: no key is written out
        scores = q[0, :, h] @ w_k[h] @ c.T + mine[0, h] @ turn[0, 0].T
        scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
        wanted.append((scores / 24**0.5).softmax(-1) @ c @ w_v[h].T)
    wanted = rearrange(torch.stack(wanted), "h t d -> t (h d)")
    torch.testing.assert_close(layer(x)[0], wanted, rtol=0, atol=1e-6)


def test_both_divergences_are_zero_at_the_teacher_and_differ_elsewhere():
    a, b = torch.randn(2, 3, 5, 7)
    assert distil.forward_kl(a, a).abs() < 1e-6 and distil.reverse_kl(a, a).abs() < 1e-6
    p, q = b.softmax(-1), a.softmax(-1)
    wanted = F.kl_div(q.log(), p, reduction="none").sum(-1).mean()
    torch.testing.assert_close(distil.forward_kl(a, b), wanted)
    torch.testing.assert_close(distil.reverse_kl(a, b), distil.forward_kl(b, a))


class _Text:
    train = validation = torch.arange(5000) % 350


@pytest.mark.parametrize("kind", ["text", "teacher", "own"])
def test_every_way_to_teach_a_student_lowers_its_loss(kind):
    teacher = load("small").eval()
    model = distil.student(0)
    gen = generator(0, "t")
    x, y = distil.windows(_Text.train, gen)
    before = model(x)
    distil.train_student(model, kind, _Text, teacher, generator(0, "s"), 6, 4e-3)
    assert not torch.equal(before, model(x))
    if kind == "text":
        losses = [F.cross_entropy(z.flatten(0, 1), y.flatten()) for z in (before, model(x))]
        assert losses[1] < losses[0]
    assert all(p.grad is None for p in teacher.parameters())


def test_a_student_s_first_token_is_judged_behind_its_prompt(monkeypatch):
    """What was the text's is not the student's: only its own tokens count."""
    before = torch.ones(1, distil.WINDOW, 1)
    before[:, distil.PROMPT - 1 :] = 0.0

    def otherwise(module, inputs, logits):  # as the teacher, but for what follows the text's own
        if logits.shape[:2] == (distil.ROWS, distil.WINDOW):
            return logits + before * torch.randn(logits.shape)

    monkeypatch.setattr(distil, "fit", lambda model, loss_at, steps, rate: loss_at(0).item())
    teacher, student = load("small").eval(), load("small")
    student.register_forward_hook(otherwise)
    ask = (student, "own", _Text, teacher, generator(0, "s"), 1, 1)
    assert abs(distil.train_student(*ask)) < 1e-6
    before[:, distil.PROMPT - 1] = 1.0  # the student's own first token
    assert distil.train_student(*ask) > 1e-4


def test_text_written_with_draft_heads_is_the_greedy_one_in_fewer_passes():
    model, ids = load("small").eval(), torch.tensor([[0, 70, 80, 90, 100]])
    torch.manual_seed(0)
    some = heads.DraftHeads(model)
    wanted = generate(model, ids, max_new_tokens=60, eos_id=())
    nn.init.normal_(some.maps[1].weight, std=0.3)  # a head that guesses wrong, between two
    text, passes = heads.write_ahead(model, some, ids, 60)
    assert torch.equal(text, wanted) and passes <= 60
    wild = heads.DraftHeads(model)
    for one in wild.maps:
        nn.init.normal_(one.weight, std=5.0)
    text, passes = heads.write_ahead(model, wild, ids, 60)
    assert torch.equal(text, wanted) and passes > 45
    wanted = generate(model, ids, max_new_tokens=252, eos_id=())  # to the last place there is
    assert torch.equal(heads.write_ahead(model, some, ids, 252)[0], wanted)


def test_draft_heads_learn_the_token_so_far_behind_the_next_and_the_model_nothing():
    class Counting:  # each token is the one before it plus one
        train = validation = torch.arange(5000) % 7 + 40

    model = load("small").eval()
    before = {name: p.clone() for name, p in model.named_parameters()}
    some = heads.DraftHeads(model, 2)
    with torch.no_grad():
        fresh = heads.right_guesses(some, Counting, rows=8)
    heads.train_heads(some, Counting, generator(0, "h"), steps=40, rate=1e-2)
    assert min(heads.right_guesses(some, Counting, rows=8)) > 0.9 > max(fresh)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert sum(p.numel() for p in some.parameters()) == 2 * 128 * 128


def test_every_point_of_the_record_has_a_key_of_its_own():
    keys = [(part, key) for part, key, _ in inference.points()]
    assert len(set(keys)) == len(keys)
    assert {part for part, _ in keys} == PARTS


def test_what_is_recorded_is_what_the_present_code_makes_of_every_arm():
    runs = inference.recorded_runs()
    held = {(part, key) for part in PARTS for key in runs.get(part, ())}
    assert held == {(part, key) for part, key, _ in inference.points()}
    for found in runs["recall"].values():
        for stage in ("trained short", "and briefly long"):
            assert len(found[stage]) == len(inference.LENGTHS)
            assert all(len(row) == len(inference.DEPTHS) for row in found[stage])


def test_the_shipped_draft_is_the_student_that_the_record_tells_of():
    draft = load("draft")
    assert isinstance(draft, GPT) and draft.config.vocab_size == load("small").config.vocab_size
    told = json.loads((SHIPPED / "draft" / "card.json").read_text(encoding="utf-8"))
    assert f"{draft.n_parameters:,} parameters" in told["model"]
    assert told["loss"] == inference.recorded_runs()["draft"]["0"]["loss"]
