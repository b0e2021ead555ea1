"""`python -m llmbook train`: from a text file to a model folder; errors say what to do."""

import dataclasses
import json
import math
import re
import signal

import pytest
import torch

from llmbook.data import documentation
from llmbook.data.packing import Windows
from llmbook.models import load
from llmbook.models.gpt import GPT
from llmbook.training import Recipe, TrainConfig, command
from llmbook.training.card import kneser_ney
from llmbook.training.config import CHOICES
from llmbook.training.evaluate import stream_nats
from llmbook.training.log import read_log
from llmbook.training.presets import PRESETS, preset
from llmbook.training.text import Text, read_text

SENTENCE = "the quick brown fox jumps over the lazy dog. "
TINY = [
    "--preset",
    "smoke",
    "--tokenizer",
    "characters",
    "--device",
    "cpu",
    "--threads",
    "1",
    "--max-len",
    "16",
    "--d-model",
    "16",
    "--n-layers",
    "1",
    "--steps",
    "12",
    "--warmup",
    "2",
    "--checkpoint-every",
    "5",
    "--evaluate-every",
    "6",
    "--evaluate-windows",
    "4",
]


@pytest.fixture
def text_file(tmp_path):
    (tmp_path / "a.txt").write_text(SENTENCE * 30, encoding="utf-8")
    return str(tmp_path / "a.txt")


def train(text_file, out, *more):
    return command.main([*TINY, "--source", text_file, "--out", str(out), *more])


def test_a_text_file_becomes_a_model_folder_with_a_card(text_file, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(text_file, out) == 0
    printed = capsys.readouterr().out
    assert "parameters" in printed and "step 12/12" in printed and "bits a byte" in printed
    assert sorted(p.name for p in (out / "model").iterdir()) == [
        "card.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    card = json.loads((out / "model" / "card.json").read_text())
    for key in (
        "data",
        "fingerprint",
        "hardware",
        "versions",
        "date",
        "commit",
        "command",
        "recipe",
        "parameters",
        "tokens",
        "seconds",
        "loss_curve",
        "validation_curve",
        "quality",
    ):
        assert card[key], key
    assert card["data"]["sha256"] and card["tokens"] == 12 * 8 * 16
    assert [step for step, _ in card["validation_curve"]] == [0, 6, 12]
    assert len(read_log(out)) == 13 and (out / "log.csv").is_file()
    assert any("sample" in row for row in read_log(out))

    model, recipe = load(out / "model"), Recipe.load(out / "recipe.json")
    assert json.loads((out / "model" / "config.json").read_text())["dtype"] == "float16"
    text = read_text(recipe.data)
    nats = stream_nats(model, text.validation, 16)
    assert card["quality"]["nats_per_token"] == pytest.approx(nats, rel=1e-5)
    bits = nats * (len(text.validation) - 1) / text.validation_bytes / math.log(2)
    assert card["quality"]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert card["quality"]["kneser_ney"]["order"] == 5
    assert Recipe.from_dict(card["recipe"]) == recipe


def test_ctrl_c_says_how_to_resume_and_resuming_ends_in_the_same_model(
    text_file, tmp_path, capsys, monkeypatch
):
    assert train(text_file, tmp_path / "whole", "--quiet") == 0
    from llmbook.data.packing import Windows

    batch = Windows.batch

    def interrupting(self, step, *rest):
        if step == 7:
            signal.raise_signal(signal.SIGINT)
        return batch(self, step, *rest)

    monkeypatch.setattr(Windows, "batch", interrupting)
    assert train(text_file, tmp_path / "parts") == 130
    monkeypatch.undo()
    error = capsys.readouterr().err
    assert "stopped at step 8" in error and re.search(
        r"resume with: python -m llmbook train .*--resume", error
    )
    assert not (tmp_path / "parts" / "model").exists()
    assert train(text_file, tmp_path / "parts", "--resume") == 0
    files = [
        (tmp_path / name / "model" / "model.safetensors").read_bytes()
        for name in ("whole", "parts")
    ]
    assert files[0] == files[1]
    cards = [
        json.loads((tmp_path / name / "model" / "card.json").read_text())
        for name in ("whole", "parts")
    ]
    assert cards[0]["loss_curve"] == cards[1]["loss_curve"]


def test_resume_alone_takes_the_recipe_of_the_run(text_file, tmp_path):
    out = tmp_path / "run"
    assert train(text_file, out, "--quiet") == 0
    options = command.parser().parse_args(["--resume", "--out", str(out)])
    assert command.recipe_of(options) == Recipe.load(out / "recipe.json")


@pytest.mark.parametrize(
    "more, message",
    [
        (["--steps", "0"], "steps must be a whole number of at least 1: got 0"),
        (["--lr", "nan"], "lr must be a number above 0: got nan"),
        (["--n-heads", "3"], "n_heads must divide d_model"),
        (["--batch-size", "6", "--accumulate", "4"], "accumulate must divide batch_size"),
        (["--schedule", "stairs"], "got 'stairs'"),
        (["--optimizer", "sgd"], "got 'sgd'"),
        (["--profile", "gpu"], "name one of --config, --preset and --profile"),
        (["--device", "cuda:99"], "CUDA devices"),
    ],
)
def test_bad_options_are_refused_before_any_work(text_file, tmp_path, more, message, capsys):
    assert train(text_file, tmp_path / "run", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is no JSON file"),
        ("[]", "must be a JSON object: got list"),
        ('{"optimiser": {}}', "got 'optimiser'"),
        (
            '{"training": {"learning_rate": 1}}',
            "unknown field 'learning_rate' in section 'training'",
        ),
        ('{"training": {"clip": "no"}}', "clip must be a number at least 0: got 'no'"),
        ('{"training": {"compile": 1}}', "compile must be True or False"),
        ('{"model": {"d_model": 7.5}}', "d_model must be a whole number"),
        ('{"data": {"size": "huge"}}', "size must be one of smoke, quick, full"),
    ],
)
def test_a_config_file_with_a_mistake_is_named_with_the_mistake(tmp_path, content, message):
    file = tmp_path / "recipe.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Recipe.load(file)
    assert str(file) in str(error.value)
    with pytest.raises(ValueError, match="there is no config file"):
        Recipe.load(tmp_path / "none.json")


def test_a_config_file_and_flags_make_the_recipe(tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text('{"model": {"d_model": 96}, "training": {"steps": 7}}')
    options = command.parser().parse_args(["--config", str(file), "--steps", "9", "--compile"])
    recipe = command.recipe_of(options)
    assert (recipe.model.d_model, recipe.training.steps, recipe.training.compile) == (96, 9, True)
    assert recipe.training.lr == TrainConfig().lr
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_sound_recipe(name):
    recipe = preset(name)
    assert recipe.training.warmup < recipe.training.steps
    characters = recipe.data.tokenizer == "characters"
    with torch.device("meta"):
        model = GPT(recipe.model.gpt(65 if characters else recipe.data.vocab_size))
    if name == "small":
        assert model.n_parameters <= 4_000_000
    if name == "shakespeare":  # the published 10.65 M count neither positions nor biases
        assert 10.6e6 < model.n_parameters < 10.8e6


def test_fields_of_all_sections_have_names_of_their_own():
    names = [f.name for cls in command.SECTIONS.values() for f in dataclasses.fields(cls)]
    assert len(names) == len(set(names))
    with pytest.raises(ValueError, match="got 'huge'"):
        preset("huge")


def test_kneser_ney_takes_the_order_that_the_vocabulary_allows():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(16384, (500,), generator=generator).int()

    class Large:
        def __len__(self):
            return 16384

        special_tokens = {}

    text = Text(ids, ids[:100], Large(), None, 400, {})
    assert kneser_ney(text)["order"] == 4


# --- resuming, and what it could do silently


def test_resuming_what_is_not_there_is_refused_and_makes_nothing(text_file, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for name in ("mistyped", "empty"):
        assert train(text_file, tmp_path / name, "--resume") == 2
        assert f"there is no run to resume in {tmp_path / name}" in capsys.readouterr().err
    assert not (tmp_path / "mistyped").exists() and not any((tmp_path / "empty").iterdir())


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_again(
    text_file, tmp_path, monkeypatch
):
    read = Windows.batch

    def stop(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as during:
        during.setattr(Windows, "batch", stop)
        with pytest.raises(RuntimeError, match="killed"):
            train(text_file, tmp_path / "run", "--quiet")
    assert Windows.batch is read
    assert train(text_file, tmp_path / "run", "--quiet", "--resume") == 0


def test_lengthening_a_finished_run_says_that_its_rate_rises_again(text_file, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(text_file, out, "--quiet") == 0
    assert "note:" not in capsys.readouterr().err
    assert train(text_file, out, "--quiet", "--resume", "--steps", "24") == 0
    told = capsys.readouterr().err
    assert "note: the run was planned for 12 steps" in told
    assert "has fallen to 0.0001 at step 12; with steps=24 it rises to" in told


@pytest.mark.parametrize(
    "schedule, more", [("constant", 24), ("inverse_sqrt", 24), ("cosine", 12)]
)
def test_nothing_is_said_where_the_rate_goes_on_as_it_was(
    schedule, more, text_file, tmp_path, capsys
):
    how = ["--quiet", "--schedule", schedule]
    assert train(text_file, tmp_path / "run", *how) == 0
    assert train(text_file, tmp_path / "run", *how, "--resume", "--steps", str(more)) == 0
    assert capsys.readouterr().err == ""


# --- what it tells of itself


def test_help_names_every_option_with_its_meaning_choices_and_default(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    quick = preset("quick")
    for section, cls in command.SECTIONS.items():
        for f in dataclasses.fields(cls):
            flag = "--" + f.name.replace("_", "-")
            assert flag in text and command._HELP[f.name] in text
            value = getattr(getattr(quick, section), f.name)
            shown = value if not isinstance(value, bool) else "yes" if value else "no"
            after = text.split(command._HELP[f.name], 1)[1]
            assert f"(default: {shown})" in after[:150], f.name
    for names in CHOICES.values():
        assert ", ".join(names) in text


def test_smoke_reads_a_text_that_is_there_at_once():
    assert preset("smoke").data.size == "smoke"
    corpus = documentation("all", "smoke")
    assert all(document.name.startswith("pydoc_data.topics.") for document in corpus)
    assert 200_000 < corpus.characters < 1_000_000 and {d.split for d in corpus} == {
        "train",
        "validation",
    }
