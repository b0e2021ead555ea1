"""The outlook's experiments: tasks with right answers, losses by a second formula, the record."""

import functools
import json

import pytest
import torch
import torch.nn.functional as F

from llmbook.data import shapes
from llmbook.experiments import mamba
from llmbook.experiments.outlook import diffusion, energy, hybrids, pictures, retrieval, runs
from llmbook.models import load
from llmbook.quantization import quantize_weight
from llmbook.seeds import generator

# --- pictures


def test_the_contrastive_loss_is_the_mean_of_both_directions():
    u, v = torch.randn(2, 6, 4, dtype=torch.float64)
    scale = torch.tensor(3.0, dtype=torch.float64)
    S = 3 * torch.tensor([[F.cosine_similarity(a, b, 0) for b in v] for a in u]).double()
    rows = -(S.diagonal() - S.logsumexp(1)).mean()
    columns = -(S.diagonal() - S.logsumexp(0)).mean()
    got = pictures.contrastive_loss(u, v, scale.log())
    assert torch.isclose(got, (rows + columns) / 2)
    assert torch.isclose(got, pictures.contrastive_loss(v, u, scale.log()))
    with pytest.raises(ValueError, match="image and text must be"):
        pictures.contrastive_loss(u, v[:3], scale.log())


def test_no_held_out_pair_of_colour_and_shape_is_trained_on():
    captions = shapes.all_captions()
    kept = pictures.held(captions)
    assert kept.sum() == 9 * len(pictures.HELD)
    names = [shapes.WORDS[i] for i in captions[kept][0, :2]]
    colour, shape = pictures.HELD[0]
    assert names == [list(shapes.COLOURS)[colour], shapes.SHAPES[shape]]


def test_a_word_of_the_captioner_sees_no_later_word_and_patches_see_no_word():
    torch.manual_seed(0)
    model = pictures.Captioner().eval()
    image, said = shapes.pictures(2, 4)
    before = F.pad(said[:, :-1], (1, 0))
    other = before.clone()
    other[:, 2] = (other[:, 2] + 1) % len(shapes.WORDS)
    with torch.no_grad():
        gap = (model(image, before) - model(image, other)).abs().amax((0, 2))
        assert gap[:2].max() == 0 and gap[2] > 1e-4
        blank = model(torch.zeros_like(image), before)
        assert (model(image, before)[:, 0] - blank[:, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("how", pictures.FUSIONS)
def test_both_ways_to_fuse_train_and_see_the_picture_and_the_question(how):
    torch.manual_seed(0)
    model = pictures.Fused(how)
    image, question, _ = shapes.pairs(4, 5)
    said = model(image, question)
    assert (said - model(1 - image, question)).abs().max() > 1e-4
    assert (said - model(image, question.flip(0))).abs().max() > 1e-4
    model(image, question).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_shipped_captioner_names_what_is_drawn():
    image, said = shapes.pictures(400, 77)
    with torch.no_grad():
        best = pictures.shipped()(image, F.pad(said[:, :-1], (1, 0))).argmax(-1)
    assert (best == said).double().mean(0).min() > 0.85
    assert pictures.WEIGHTS.stat().st_size < 1_000_000


# --- retrieval


def test_bm25_prefers_the_rare_word_and_counts_repeats_less_and_less():
    search = retrieval.Search(["a b", "a c", "a a a a d", "b b"])
    assert search.best("c a")[0] == 1
    b = search.scores("b")
    assert b[3] > b[0] > 0 and b[3] < 2 * b[0] and b[1] == 0
    assert search.best("z", 2) == [0, 1]


def test_a_row_ends_with_the_question_and_its_answer_stands_in_the_passage():
    heads = torch.arange(retrieval.N_CITIES)
    gen = generator(0, "x")
    passages, asked, answers = retrieval.contexts(heads, 300, 3, gen)
    ids = retrieval.rows(passages, asked)
    first = retrieval.IDS[retrieval.CITIES[0]]
    assert (ids[:, -2] - first == asked).all()
    told = passages[..., 0] == asked[:, None]
    helped = told.any(1)
    assert 0.6 < helped.double().mean() < 0.9 and told.sum(1).max() == 1
    assert torch.equal(passages[..., 1][told], answers[helped])
    assert torch.equal(heads[asked][~helped], answers[~helped])


def test_a_third_of_the_heads_change_and_the_search_can_find_them():
    before, after = retrieval.world(3)
    assert (before != after).sum() == retrieval.CHANGED
    texts, facts = retrieval.store(after, 3)
    city = int((before != after).nonzero()[0])
    found = retrieval.Search(texts).best(f"who is the head of {retrieval.CITIES[city]}")[0]
    assert facts[found] == (city, int(after[city]))


def test_a_short_retrieval_run_has_every_number(monkeypatch):
    few = functools.partial(retrieval.by_place, n=20)
    monkeypatch.setattr(retrieval, "by_place", few)
    found = retrieval.retrieval_run(1, steps=2, later=1)
    assert len(found["by place"][str(retrieval.LONG)]) == retrieval.LONG
    assert set(found["after training on all facts"]) <= set(found)
    assert all(0 <= v <= 1 for k, v in found.items() if isinstance(v, float) and k != "seconds")


# --- hybrids


@pytest.mark.parametrize("arm", hybrids.ARMS)
def test_a_hybrid_is_causal_and_a_token_passes_through_as_many_weights(arm):
    torch.manual_seed(0)
    model = hybrids.Hybrid(hybrids.KINDS, arm == "hybrid, experts").eval()
    ids = mamba.loops(2, generator(0, "x"))[0]
    other = ids.clone()
    other[:, 9] = (other[:, 9] + 1) % mamba.LOOP_SYMBOLS
    with torch.no_grad():
        gap = (model(ids) - model(other)).abs().amax((0, 2))
    assert gap[:9].max() < 1e-5 < gap[9]
    total, active = model.weights()
    assert (active < total) == (arm == "hybrid, experts")
    if arm == "hybrid, experts":  # the routers come on top
        dense = hybrids.Hybrid(hybrids.KINDS, False).weights()[0]
        assert active - dense == 2 * hybrids.WIDTH * hybrids.N_EXPERTS


def test_recall_of_the_hybrids_is_measured_as_the_record_beside_it_is():
    ids, _ = mamba.loops(100, generator(0, "loops test", 8), 8)

    class Perfect(torch.nn.Module):
        def forward(self, x):
            copy = F.pad(x, (8, 0))[:, 1 : 1 + x.shape[1]]  # what stood 7 places before comes
            return F.one_hot(copy, mamba.LOOP_SYMBOLS).float()

    assert mamba.loops_accuracy(Perfect())["8"] == 1.0
    found = hybrids.hybrid_run("hybrid, experts", 1, steps=2)
    assert set(found["accuracy"]) == {str(p) for p in mamba.PERIODS}


# --- diffusion


def test_texts_only_go_up_and_hints_are_of_the_text():
    x = diffusion.texts(50, generator(0, "x"))
    assert diffusion.valid(x) == 1 and diffusion.valid(x.flip(1)) == 0
    given = diffusion.hints(x, torch.full((50, 1), 0.5), generator(0, "x"))
    shown = given != diffusion.MASK
    assert torch.equal(given[shown], x[shown]) and 0.3 < shown.double().mean() < 0.7


def test_the_bound_is_the_entropy_where_every_mask_is_drawn_from_evenly():
    n, tokens, symbols = 4000, 5, 7
    gen = torch.Generator().manual_seed(0)
    x = torch.randint(symbols, (n, tokens), generator=gen)
    t = torch.rand(n, 1, generator=gen).clamp(min=0.05)
    hidden = torch.rand(n, tokens, generator=gen) < t
    got = diffusion.masked_loss(torch.zeros(n, tokens, symbols), x, hidden, t)
    assert abs(got.item() - torch.tensor(float(symbols)).log().item()) < 0.05


def test_what_is_given_stays_and_every_mask_is_filled():
    torch.manual_seed(0)
    gen = generator(0, "x")
    x = diffusion.texts(30, gen)
    given = diffusion.hints(x, torch.full((30, 1), 0.6), gen)
    shown = given != diffusion.MASK
    both = diffusion.Net(False, diffusion.TOKENS).eval()
    causal = diffusion.Net(True, 2 * diffusion.TOKENS + 1).eval()
    for out in (
        *(diffusion.uncovered(both, given, r, gen) for r in diffusion.UNCOVER),
        diffusion.written(causal, given, gen),
        diffusion.written(causal, given, gen, True),
    ):
        assert torch.equal(out[shown], x[shown]) and (out < diffusion.SYMBOLS).all()


# --- energy


def test_four_bits_are_the_package_s_and_fewer_bits_are_further_off():
    w = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    q, scale = quantize_weight(w, 4, 32)
    packed = (q.view(6, 2, 32).float() * scale[..., None]).view(6, 64)
    assert torch.allclose(energy.rounded(w, 4), packed)
    off = [(energy.rounded(w, bits) - w).abs().mean() for bits in energy.BITS]
    assert off == sorted(off) and len(energy.rounded(w, 2)[0, :32].unique()) <= 3
    with pytest.raises(ValueError, match="group must divide the inputs"):
        energy.rounded(w, 4, 40)


def test_pruning_cuts_the_smallest_and_bytes_are_those_of_the_weights():
    w = torch.tensor([[3.0, -1.0, 0.5, -4.0]])
    assert energy.without_smallest(w, 0.5).tolist() == [[3.0, 0.0, 0.0, -4.0]]
    small = load("small").eval()
    weights = sum(p.numel() for p in small.parameters())
    unread = (small.config.max_len - 1) * small.config.d_model
    assert energy.bytes_read(small, 32) == 4 * (weights - unread)
    assert energy.bytes_read(small, 8) < 0.6 * energy.bytes_read(small, 16)
    assert energy.joules(8)[0] == pytest.approx(1.3e-9)


# --- the record


def test_the_record_holds_every_run_with_five_seeds_an_arm_and_a_clean_commit():
    record = runs.recorded_runs()
    want = [(part, key) for part, key, _ in runs.points()]
    assert [(p, k) for p, k in want if k not in record.get(p, {})] == []
    about = record["_run"]
    assert not any("dirty" in c for c in about.get("commits", [about["commit"]]))
    assert about["command"] == "python -m llmbook record outlook" and about["hardware"]
    for part in ("fusion", "hybrids", "diffusion"):
        assert {len(seeds) for seeds in runs.by_arm(part).values()} == {5}
    assert len(record["retrieval"]) == len(record["contrast"]) == 5


def test_without_the_picture_the_answers_are_as_frequent_as_said():
    _, question, answer = shapes.pairs(6000, 8)
    for i, share in enumerate(pictures.BLIND.values()):
        mine = question[:, 0] == i
        often = answer[mine].bincount().max() / mine.sum()
        assert abs(often - share) < 0.03


@pytest.mark.slow
def test_a_seed_run_again_gives_about_what_is_recorded():
    again = pictures.fusion_run("early", 1)
    before = runs.by_arm("fusion")["early"][0]
    assert abs(again["right"] - before["right"]) < 0.1
    assert json.dumps(again)
