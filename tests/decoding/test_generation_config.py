"""generation_config.json: several ends, forced tokens and rules as transformers obeys them."""

import json
import types

import pytest
import torch

from llmbook.decoding import generate, stream
from llmbook.decoding.generation_config import rules, sampling
from llmbook.models import load

transformers = pytest.importorskip("transformers")

IDS = torch.tensor([[9, 4, 17, 5, 30], [0, 0, 6, 11, 8], [0, 12, 7, 7, 21]])
KEEP = (IDS != 0).long()
KINDS = ("gpt2", "llama", "bart", "t5")
PLAIN = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 38}


def built(kind):
    """transformers' model with weights so large that its texts differ from row to row."""
    torch.manual_seed(1)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=40, n_positions=64, n_embd=24, n_layer=2, n_head=3, **PLAIN
        )
        model = transformers.GPT2LMHeadModel(config)
    elif kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=40,
            max_position_embeddings=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            **PLAIN,
        )
        model = transformers.LlamaForCausalLM(config)
    elif kind == "bart":
        config = transformers.BartConfig(
            vocab_size=40,
            d_model=32,
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=40,
            init_std=0.5,
            decoder_start_token_id=2,
            **PLAIN,
        )
        model = transformers.BartForConditionalGeneration(config)
    else:
        config = transformers.T5Config(
            vocab_size=40,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            **PLAIN,
        )
        model = transformers.T5ForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(1.0 if kind == "bart" else 8.0 if kind != "t5" else 1.5)
    model.generation_config = transformers.GenerationConfig(**PLAIN)
    if kind in ("bart", "t5"):
        model.generation_config.decoder_start_token_id = config.decoder_start_token_id
    return model.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder a kind, written by transformers."""
    root = tmp_path_factory.mktemp("published")
    for kind in KINDS:
        built(kind).save_pretrained(root / kind)
    return root


def both(folders, kind, tmp_path, **asked):
    """Ours and theirs, from a copy of the folder whose generation_config.json asks for this."""
    import shutil

    folder = tmp_path / kind
    shutil.copytree(folders / kind, folder, dirs_exist_ok=True)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **asked}))
    cls = getattr(
        transformers, json.loads((folder / "config.json").read_text())["architectures"][0]
    )
    return load(folder), cls.from_pretrained(folder).eval()


def same(ours, theirs, new=9, **how):
    """What both write, greedily or by beams, left-padded rows and all."""
    beams = {"num_beams": how.get("beams"), "length_penalty": 0.0, "early_stopping": "never"}
    want = theirs.generate(
        IDS,
        attention_mask=KEEP,
        do_sample=False,
        max_new_tokens=new,
        **(beams if "beams" in how else {}),
    )
    got = generate(ours, IDS, KEEP, max_new_tokens=new, **how)
    assert got.tolist() == want.tolist()
    return got


@pytest.mark.parametrize("how", [{}, {"beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_of_several_ends_ends_a_row(folders, kind, how, tmp_path):
    ours, theirs = both(folders, kind, tmp_path)
    free = same(ours, theirs, **how)
    ends = [int(free[0, -6]), int(free[1, -4]), 39]
    ours, theirs = both(folders, kind, tmp_path, eos_token_id=ends)
    got = same(ours, theirs, **how)
    assert got.tolist() != free.tolist(), "the ends should change something"


@pytest.mark.parametrize(
    "asked",
    [
        {"forced_bos_token_id": 7, "forced_eos_token_id": 3},
        {"forced_bos_token_id": 7, "begin_suppress_tokens": [5, 33, 21, 14]},
        {"forced_eos_token_id": [3]},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.7},
        {"suppress_tokens": list(range(0, 40, 2))},
        {"begin_suppress_tokens": list(range(20))},
        {"eos_token_id": list(range(20)), "min_length": 8},
        {"eos_token_id": list(range(20)), "min_new_tokens": 3},
    ],
    ids=lambda asked: "+".join(asked),
)
@pytest.mark.parametrize("kind", ("llama", "bart"))
def test_its_rules_are_obeyed_as_transformers_obeys_them(folders, kind, asked, tmp_path):
    ours, theirs = both(folders, kind, tmp_path)
    free = same(ours, theirs)
    ours, theirs = both(folders, kind, tmp_path, **asked)
    got = same(ours, theirs)
    same(ours, theirs, beams=3)
    if "forced_bos_token_id" not in asked or kind == "bart":  # a prompt of five is past the first
        assert got.tolist() != free.tolist(), "the rule should change something"


def test_what_older_folders_say_in_config_json_counts_and_is_kept(folders, tmp_path):
    # as BART's first folders: no generation_config.json, its keys in config.json
    def as_before(folder):
        (folder / "generation_config.json").unlink(missing_ok=True)
        return transformers.BartForConditionalGeneration.from_pretrained(folder).eval()

    ours, _ = both(folders, "bart", tmp_path)
    folder = tmp_path / "bart"
    config = json.loads((folder / "config.json").read_text())
    old = {"forced_bos_token_id": 0, "forced_eos_token_id": 2, "no_repeat_ngram_size": 2}
    (folder / "config.json").write_text(json.dumps({**config, **old}))
    theirs = as_before(folder)
    ours = load(folder)
    got = same(ours, theirs)
    assert got[:, 1].tolist() == [0] * 3 and got[:, -1].tolist() == [2] * 3
    ours.save(tmp_path / "copy")
    assert not (tmp_path / "copy/generation_config.json").exists()
    same(ours, as_before(tmp_path / "copy"))
    same(load(tmp_path / "copy"), theirs)


def test_the_file_is_written_as_it_was_read(folders, tmp_path):
    asked = {"eos_token_id": [3, 5], "temperature": 0.6, "do_sample": True, "unknown": {"a": [1]}}
    ours, _ = both(folders, "llama", tmp_path, **asked)
    ours.save(tmp_path / "copy")
    first, second = (
        json.loads((tmp_path / name / "generation_config.json").read_text())
        for name in ("llama", "copy")
    )
    assert first == second and first["unknown"] == {"a": [1]}
    ours.generation_config = {**first, "eos_token_id": 9}
    ours.save(tmp_path / "copy")  # over the old one
    assert load(tmp_path / "copy").generation_config["eos_token_id"] == 9


def test_a_call_comes_before_the_file(folders, tmp_path):
    ours, _ = both(folders, "llama", tmp_path, eos_token_id=list(range(40)), pad_token_id=6)
    assert generate(ours, IDS, KEEP, max_new_tokens=4).shape == (3, 6)
    assert generate(ours, IDS, KEEP, max_new_tokens=4, eos_id=()).shape == (3, 9)
    ours.generation_config = {"eos_token_id": 3, "forced_eos_token_id": 3}
    got = generate(ours, IDS, KEEP, max_new_tokens=4, eos_id=[-1])
    assert got.shape == (3, 9) and got[:, -1].tolist() == [3, 3, 3]


def test_without_a_pad_token_the_first_end_pads(folders, tmp_path):
    ours, _ = both(folders, "gpt2", tmp_path)
    free = generate(ours, IDS[:1], max_new_tokens=5)[0, 5:].tolist()
    other = next(t for t in range(40) if t not in free)
    ours.generation_config = {"eos_token_id": [other, free[1]]}
    rows = torch.cat([IDS[:1], IDS[2:]]).clamp(min=1)
    got = generate(ours, rows, max_new_tokens=5)
    end = free.index(free[1]) + 1
    assert got[0, 5 : 5 + end].tolist() == free[:end]
    assert set(got[0, 5 + end :].tolist()) <= {other}


def test_sampling_stops_at_any_end_and_streams_the_same(folders, tmp_path):
    ours, _ = both(folders, "gpt2", tmp_path, eos_token_id=list(range(15)))
    how = {"max_new_tokens": 30, "temperature": 1.5, "seed": 4}
    got = generate(ours, IDS, KEEP, **how)
    for row in got[:, 5:].tolist():
        first = next((i for i, t in enumerate(row) if t < 15), len(row))
        assert set(row[first + 1 :]) <= {38}
    assert torch.equal(torch.stack(list(stream(ours, IDS, KEEP, **how)), 1), got[:, 5:])


def test_its_sampling_is_there_for_the_asking(folders, tmp_path):
    ours, _ = both(folders, "llama", tmp_path, do_sample=True, top_k=5, temperature=0.6)
    assert sampling(ours) == {"temperature": 0.6, "top_k": 5, "top_p": None, "min_p": None}
    greedy = generate(ours, IDS, KEEP, max_new_tokens=4)
    assert not torch.equal(greedy, generate(ours, IDS, KEEP, max_new_tokens=4, **sampling(ours)))
    ours.generation_config = {"top_k": 5}
    assert sampling(ours) == {"temperature": 0.0}


# theirs: (what asks for nothing, what asks for something)
NOT_DONE = {
    "bad_words_ids": (None, [[3]]),
    "encoder_no_repeat_ngram_size": (0, 2),
    "encoder_repetition_penalty": (1.0, 1.2),
    "exponential_decay_length_penalty": (None, [3, 1.1]),
    "force_words_ids": (None, [[3]]),
    "guidance_scale": (1.0, 1.5),
    "num_beam_groups": (1, 2),
    "penalty_alpha": (None, 0.6),
    "sequence_bias": (None, [[[3], -1.0]]),
    "stop_strings": (None, ["a"]),
}


@pytest.mark.parametrize("key", NOT_DONE)
def test_a_key_that_asks_for_nothing_is_no_fault(key):
    nothing, something = NOT_DONE[key]
    model = types.SimpleNamespace(generation_config={key: nothing})
    assert rules(model, 1, 5, ()) == []
    model.generation_config[key] = something
    with pytest.raises(ValueError, match=f"must not ask for {key}, .*remove it"):
        rules(model, 1, 5, ())


def test_n_grams_of_no_length_are_refused():
    model = types.SimpleNamespace(generation_config={"no_repeat_ngram_size": -1})
    with pytest.raises(ValueError, match="no_repeat_ngram_size must be .* at least 1: got -1"):
        rules(model, 1, 5, ())


def test_what_is_not_done_is_refused_by_name(folders, tmp_path):
    ours, _ = both(folders, "llama", tmp_path, bad_words_ids=[[3]])
    with pytest.raises(ValueError, match=r"bad_words_ids.*got \[\[3\]\]; remove it"):
        generate(ours, IDS)
    ours.generation_config["bad_words_ids"] = None
    ours.generation_config["eos_token_id"] = "end"
    with pytest.raises(TypeError, match="eos_id must be a whole number: got 'end'"):
        generate(ours, IDS)
    (tmp_path / "llama/generation_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="generation_config.json must hold a JSON object"):
        load(tmp_path / "llama")
