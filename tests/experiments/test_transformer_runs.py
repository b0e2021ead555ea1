"""The recorded runs on the Transformer: the language, the arms, the norms, record, weights."""

import json

import pytest
import torch
from torch import nn

from llmbook.experiments import transformer as runs
from llmbook.experiments import translator as lab
from llmbook.experiments.record import main, recorded
from llmbook.layers import LayerNorm


@pytest.fixture(scope="module")
def pairs():
    return lab.Pairs(300, 3, exams=40)


# --- the language and how it is learnt


def test_the_vocabulary_holds_every_word_and_comes_back():
    words = lab.vocabulary()
    assert words[:3] == ("<pad>", "<s>", "</s>") and len(set(words)) == len(words) == 136
    assert len(lab.english()) == 136 - 3 - 56  # 38 stems and 18 endings
    text = "the small dogs saw a red bird"
    assert lab.encode(text)[-1] == lab.EOS and lab.decode(lab.encode(text)) == text
    assert lab.decode(lab.encode("l -i hun -us")[:-1]) == "li hunus"
    with pytest.raises(KeyError):
        lab.encode("the table")


def test_sentences_to_be_examined_on_are_not_among_the_lessons(pairs):
    known = {tuple(a) for a, _ in pairs.lessons}
    assert len(pairs.lessons) == 300 and len(pairs.unseen) == 40
    assert not any(tuple(pairs.ids[i][0]) in known for i in pairs.unseen)


def test_padding_neither_counts_nor_is_read(pairs):
    model = runs.build(1, 1)
    long, short = sorted(pairs.unseen, key=lambda i: -len(pairs.ids[i][0]))[:2], pairs.unseen[:1]
    apart = [lab.nats(model, pairs, [i]) * len(pairs.ids[i][1]) for i in (*long, *short)]
    tokens = [len(pairs.ids[i][1]) for i in (*long, *short)]
    together = lab.nats(model, pairs, [*long, *short])
    assert together == pytest.approx(sum(apart) / sum(tokens), abs=1e-5)


def test_the_rate_rises_over_the_warm_up_or_begins_at_its_peak(pairs, monkeypatch):
    seen = []
    step = torch.optim.Adam.step

    def told(self, *args):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", told)
    for warm, want in ((0.5, [0.25, 0.5, 0.75, 1.0]), (0.0, [0.875, 0.75, 0.625, 0.5])):
        seen.clear()
        lab.fit(runs.build(1, 1), pairs.lessons, 8, 1.0, warm=warm)
        assert seen[:4] == pytest.approx(want) and seen[-1] == 0


def test_models_of_one_seed_see_the_same_batches(pairs):
    a, b = lab.batches(pairs.lessons, 16, 5), lab.batches(pairs.lessons, 16, 5)
    assert [next(a) for _ in range(30)] == [next(b) for _ in range(30)]


def test_greedy_writing_is_the_library_s_generate(pairs):
    from llmbook.decoding import generate

    model = runs.shipped_model()
    sources = [pairs.ids[i][0] for i in pairs.unseen[:5]]
    ids, mask = lab.sources(sources)
    want = generate(model, ids, mask, max_new_tokens=30)
    for ours, row in zip(lab.write(model, sources), want.tolist(), strict=True):
        assert ours == row[1 : row.index(lab.EOS)]
    assert lab.exact(model, pairs) > 0.9


def test_what_is_looked_into_is_what_the_model_computes(pairs):
    model = runs.shipped_model()
    source, mask, target = pairs.batch(pairs.unseen[:6])
    weights, stream = lab.activations(model, source, mask, target)
    shifted = lab.shift_right(target, lab.BOS, lab.PAD)
    with torch.no_grad():
        want = model(source, shifted, mask)
        torch.testing.assert_close(model.head(model.decoder_norm(stream[-1])), want)
    assert weights.shape[1:3] == (2, 4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    if mask is not None:
        assert (weights[~mask[:, None, None, None].expand_as(weights)] == 0).all()
    assert lab.lens(model, pairs, pairs.unseen)[-1][0] == pytest.approx(
        lab.nats(model, pairs), abs=1e-4
    )
    found = lab.on_deciders(model, pairs, pairs.unseen)
    assert 0 < found["chance"]["stems"] < 0.3
    assert max(max(heads) for heads in found["stems"]) > 0.6


# --- arms


def weights(model):
    return {k: v for k, v in model.state_dict().items() if "norm" not in k}


def test_placements_start_from_the_same_weights_and_differ_in_their_norms():
    pre, post, none = (runs.normed(place, 4, 2) for place in ("pre", "post", "none"))
    for other in (post, none):
        assert weights(pre).keys() == weights(other).keys()
        assert all(v.equal(weights(other)[k]) for k, v in weights(pre).items())
    count = [sum(isinstance(m, LayerNorm) for m in x.modules()) for x in (pre, post, none)]
    assert count == [12, 10, 0]
    assert {p.placement for layer in post.decoder for p in layer.children()} == {"post"}
    bare = runs.normed("no sums", 4, 2)
    assert all(v.equal(bare.state_dict()[k]) for k, v in pre.state_dict().items())
    parts = [p for layer in (*bare.encoder, *bare.decoder) for p in layer.children()]
    assert len(parts) == 10 and all(isinstance(p, runs.NoResidual) for p in parts)


@pytest.mark.parametrize("part", [p for p in runs.PARTS if p != "all"])
def test_a_lamed_model_lacks_its_part_and_no_other(part, pairs):
    whole, lamed = runs.lamed("all", 2), runs.lamed(part, 2)
    a, b = whole.state_dict(), lamed.state_dict()
    changed = set(a) ^ set(b)
    if part in ("positions", "√d", "one head", "GELU", "residual", "1/√d_k"):
        assert not changed and all(v.equal(b[k]) for k, v in a.items())
    source, mask, target = pairs.batch(pairs.unseen[:3])
    with torch.no_grad():
        losses = [lab.loss_of(m, source, mask, target).item() for m in (whole, lamed)]
    assert losses[0] != pytest.approx(losses[1], abs=1e-6)
    layer = lamed.decoder[0]
    if part == "norm":
        assert not any(isinstance(m, LayerNorm) for m in lamed.modules())
    if part == "feed-forward":
        assert isinstance(layer.transform, nn.Identity)
    if part == "1/√d_k":
        assert layer.cross.sublayer.scale == 1.0
    if part == "residual":
        assert isinstance(layer.attend, runs.NoResidual)
        with torch.no_grad():
            for weight in layer.attend.sublayer.parameters():
                weight.zero_()
            assert not layer.attend(torch.randn(1, 3, 32)).any()  # a sum would leave x


def test_a_gated_network_is_as_large_as_the_plain_one():
    plain, gated = (
        sum(p.numel() for p in runs.lamed(part, 1).encoder[0].transform.sublayer.parameters())
        for part in ("all", "SwiGLU")
    )
    assert gated == pytest.approx(plain, rel=0.03)


def test_a_scaled_start_scales_the_matrices_of_the_stacks_alone():
    plain, four = runs.build(1, 2), runs.scaled(runs.build(1, 2), 4.0)
    for name, value in plain.state_dict().items():
        scale = 4 if value.ndim > 1 and name.startswith(("encoder.", "decoder.")) else 1
        assert (scale * value).equal(four.state_dict()[name]), name


# --- the record


def test_every_run_is_recorded_over_five_seeds_and_one_comes_out_again():
    held = recorded(runs.OUT)
    points = list(runs.points())
    assert {part for part, _, _ in points} <= set(held)
    missing = [(part, key) for part, key, _ in points if key not in held[part]]
    assert not missing
    short = runs.norm_run("post, at once", 1, layers=1, steps=20)
    assert set(short) == set(held["norms"]["post, at once/1"]) and len(short["losses"]) == 20


@pytest.mark.slow
def test_a_recorded_seed_comes_out_again():
    held = recorded(runs.OUT)
    again = runs.norm_run("pre, warm-up", 1)
    assert again["loss"] == pytest.approx(held["norms"]["pre, warm-up/1"]["loss"], abs=0.05)
    assert runs.part_loss("all", 1) == pytest.approx(held["parts"]["all/1"], abs=0.05)


def test_a_killed_recording_goes_on_with_the_next_run(tmp_path, monkeypatch):
    made = []

    def points():
        for seed in (1, 2):
            yield "parts", f"all/{seed}", (lambda s: made.append(s) or float(s), seed)

    monkeypatch.setattr(runs, "points", points)
    out = tmp_path / "runs.json"
    assert main(["transformer", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    del content["parts"]["all/2"]
    out.write_text(json.dumps(content))
    assert main(["transformer", "--out", str(out)]) == 0
    assert made == [1, 2, 2] and json.loads(out.read_text())["parts"] == {"all/1": 1, "all/2": 2}


def test_the_weights_that_ship_are_small_and_hold_the_table_once():
    held = runs.shipped()
    assert runs.WEIGHTS.stat().st_size < 400_000
    assert "head.weight" not in held and held["tokens.weight"].shape == (136, 64)
