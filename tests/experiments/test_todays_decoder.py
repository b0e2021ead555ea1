"""The runs from GPT's block to today's: arms differ in what their name says, and are recorded."""

import json

import pytest
import torch

from llmbook.experiments import todays_decoder as lab
from llmbook.experiments.record import main, recorded
from llmbook.layers import GatedFeedForward, LayerNorm, RMSNorm
from llmbook.models.llama import Llama
from llmbook.models.qwen import NormedRotary, Qwen3
from llmbook.positions import LearnedPositions

NAMES = list(lab.CHANGES)


def parts(recipe):
    """What of today's a model built after a recipe has, read off the model."""
    model = lab.Decoder(recipe)
    modules = list(model.modules())
    attention = model.layers[0][0].sublayer
    return {
        "rms": any(isinstance(m, RMSNorm) for m in modules)
        and not any(isinstance(m, LayerNorm) for m in modules),
        "biases": any(name.endswith("bias") for name, _ in model.named_parameters()),
        "rotary": not any(isinstance(m, LearnedPositions) for m in modules),
        "gated": any(isinstance(m, GatedFeedForward) for m in modules),
        "qk_norm": any(isinstance(m, NormedRotary) for m in modules),
        "kv_heads": attention.n_kv_heads,
    }


@pytest.mark.parametrize("recipe", [lab.recipe_at(s) for s in NAMES])
def test_a_model_has_what_its_recipe_says_and_nothing_else(recipe):
    assert parts(recipe) == vars(recipe)


@pytest.mark.parametrize("step", NAMES[1:])
def test_a_step_and_its_taking_back_change_that_alone(step):
    before, after = (vars(lab.recipe_at(s)) for s in (NAMES[NAMES.index(step) - 1], step))
    assert {k for k in before if before[k] != after[k]} == set(lab.CHANGES[step])
    today, without = vars(lab.recipe_at(lab.TODAY)), vars(lab.recipe_without(step))
    assert {k for k in today if today[k] != without[k]} == set(lab.CHANGES[step])
    assert parts(lab.recipe_without(step)) == without
    with pytest.raises(ValueError, match="step must be one of"):
        lab.recipe_at("ALiBi")


@pytest.mark.parametrize("recipe", [lab.recipe_at("rotary"), lab.recipe_without("rotary")])
def test_no_output_sees_what_comes(recipe):
    model, ids = lab.Decoder(recipe), torch.randint(256, (1, 12))
    other = ids.clone()
    other[0, 7] += 1
    with torch.no_grad():
        moved = (model(ids) - model(other))[0].abs().amax(-1) > 1e-6
    assert moved.tolist() == [i >= 7 for i in range(12)]


def test_a_gated_network_is_as_large_as_the_plain_one():
    sizes = [
        sum(p.numel() for p in lab.Decoder(lab.recipe_at(s)).parameters())
        for s in ("rotary", "SwiGLU")
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.005)


def test_every_arm_of_a_seed_reads_the_same_windows():
    stream = torch.arange(1000)
    assert lab.windows(stream, 9, 4).equal(lab.windows(stream, 9, 4))
    assert not lab.windows(stream, 9, 4).equal(lab.windows(stream, 9, 5))
    rows = lab.windows(stream, 50, 1)
    assert rows.shape == (50, lab.CONTEXT + 1) and (rows.diff(dim=1) == 1).all()


@pytest.mark.parametrize("library", [Llama, Qwen3])
def test_the_page_s_names_hold_every_weight_once(library):
    size = {"d_model": 12, "n_layers": 2, "n_heads": 6, "n_kv_heads": 2, "d_ff": 20}
    model = library(library.config_class(11, 32, **size, tied=True))
    found = lab.page_names(model.state_dict())
    assert sum(v.numel() for v in found.values()) == model.n_parameters
    assert found["blocks.1.k.weight"].shape == (4, 12) and "table.weight" in found


def test_every_run_is_recorded_over_five_seeds_and_every_mix_is_told():
    held = recorded(lab.OUT)
    assert [key for part, key, _ in lab.points() if key not in held[part]] == []
    mixes = lab.mixes()
    assert len(mixes) == 7 + 5 and all(
        len(v) == len(lab.SEEDS) for row in mixes.values() for v in row.values()
    )
    assert mixes["111111"][lab.RATES[0]] == lab.losses("steps", lab.TODAY)
    assert mixes["110111"] == {lab.RATES[0]: lab.losses("without", "rotary")}
    assert lab.losses("without", lab.TODAY) == lab.losses("steps", NAMES[-2])


@pytest.mark.slow
def test_a_recorded_seed_comes_out_again():
    again = lab.trained(lab.recipe_at("rotary"), lab.RATES[0], 1)
    held = recorded(lab.OUT)["steps"][f"rotary/{lab.RATES[0]:g}/1"]
    assert again["loss"] == pytest.approx(held["loss"], abs=0.05)
    assert again["parameters"] == held["parameters"]


def test_a_killed_recording_goes_on_with_the_next_run(tmp_path, monkeypatch):
    made = []

    def points():
        for seed in (1, 2):
            yield "steps", f"GPT/0.003/{seed}", (lambda s: made.append(s) or s, seed)

    monkeypatch.setattr(lab, "points", points)
    out = tmp_path / "runs.json"
    assert main(["todays_decoder", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    del content["steps"]["GPT/0.003/2"]
    out.write_text(json.dumps(content))
    assert main(["todays_decoder", "--out", str(out)]) == 0
    assert made == [1, 2, 2]
