"""config.json, key by key: missing, null, of the wrong type, of another value.

A folder loads as transformers loads it, or is refused by a ValueError that names file and key (or
the tensor that doesn't fit); what loads is saved so that transformers computes the same.
"""

import json
import re
from dataclasses import replace

import pytest
import torch
from helpers.model_oracles import randomised, transformers

from llmbook.models import load
from llmbook.models.pretrained.architectures import TABLE, model_class

IDS = torch.tensor([[5, 3, 8, 12, 9, 4, 2, 7, 6, 11], [2, 2, 9, 3, 4, 5, 6, 13, 1, 1]])
MASK = (IDS != 1).long()  # the second row is padded on the right
SIZES = {
    "vocab_size": 41,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
}
T5 = {"vocab_size": 41, "d_model": 24, "d_kv": 6, "d_ff": 37, "num_layers": 2, "num_heads": 4}
T5 |= {"decoder_start_token_id": 0, "pad_token_id": 0}
BART = {"vocab_size": 41, "d_model": 24, "max_position_embeddings": 64}
BART |= {f"{stack}_layers": 2 for stack in ("encoder", "decoder")}
BART |= {f"{stack}_attention_heads": 4 for stack in ("encoder", "decoder")}
BART |= {f"{stack}_ffn_dim": 37 for stack in ("encoder", "decoder")}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
FAMILIES = {
    "GPT2LMHeadModel": {
        "vocab_size": 41,
        "n_embd": 24,
        "n_head": 4,
        "n_layer": 2,
        "n_positions": 33,
    },
    "LlamaForCausalLM": {**SIZES, "num_key_value_heads": 2, "rope_parameters": LLAMA3},
    "MistralForCausalLM": {**SIZES, "num_key_value_heads": 2, "sliding_window": 4},
    "Qwen2ForCausalLM": {**SIZES, "num_key_value_heads": 2},
    "Qwen3ForCausalLM": {**SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "BertForMaskedLM": SIZES,
    "BertForSequenceClassification": {**SIZES, "num_labels": 3},
    "RobertaForMaskedLM": SIZES,
    "T5ForConditionalGeneration": T5,
    "BartForConditionalGeneration": BART,
}
MISSING = "missing"
# null says something in transformers too: as many key heads as heads, no such token, …
MAY_BE_NULL = {
    "n_inner",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "layer_types",
    "rope_scaling",
    "rope_parameters",
    "classifier_dropout",
    "num_decoder_layers",
    "model_type",
    "id2label",
    "label2id",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "scale_decoder_outputs",
    "is_encoder_decoder",
}
NOT_OURS = {"model_type", "is_encoder_decoder", "label2id"}  # written, and not looked at
NOT_OURS_IN = {"GPT2LMHeadModel": {"bos_token_id"}}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def folder(family, tmp_path):
    """A folder as transformers writes it."""
    library = transformers()
    cls = getattr(library, family)
    theirs = randomised(cls(cls.config_class(**FAMILIES[family])))
    theirs.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def rewrite(folder, good, key, value):
    content = {k: v for k, v in good.items() if k != key}
    content |= {} if value is MISSING else {key: value}
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("family", [row.name for row in TABLE if row.model_type != "transformer"])
def test_what_a_file_does_not_name_is_as_in_transformers(family):
    theirs = getattr(transformers(), family).config_class()
    every = json.loads(theirs.to_json_string(use_diff=False))
    ours = model_class({}, family)
    written, bare = (ours.config_from(stored) for stored in (every, {"vocab_size": 41}))
    # special tokens that no file names end no text (test_special_tokens.py), sizes always stand in
    # a file, and "auto" is written as what it stands for
    told = ("vocab_size", "bos_id", "eos_id", "pad_id", "dt_rank")
    same = {key: getattr(bare, key) for key in told if hasattr(bare, key)}
    assert replace(written, **same) == bare


@pytest.mark.parametrize("family", FAMILIES)
def test_a_value_of_the_wrong_type_is_refused_with_file_and_key(family, folder):
    good = json.loads((folder / "config.json").read_text())
    read = set(load(folder).config_to()) - NOT_OURS - NOT_OURS_IN.get(family, set())
    assert len(read) > 12
    for key in sorted(read):
        wrong = ["x", {"a": 1}, [[]], -1.5]
        wrong += [] if key in MAY_BE_NULL else [None]
        for value in wrong:
            if key == "rope_theta" or (key.startswith("rope") and isinstance(value, dict)):
                continue  # the newer key counts; a scaling's parts have a test of their own
            rewrite(folder, good, key, value)
            with pytest.raises(ValueError, match=rf"config.json: .*{key}"):
                load(folder)
                pytest.fail(f"{key}={value!r} loads")


@pytest.mark.parametrize("family", ["LlamaForCausalLM"])
@pytest.mark.parametrize("where", ["rope_parameters", "rope_scaling"])
def test_each_part_of_a_rotary_scaling_may_be_wrong(family, where, folder):
    good = json.loads((folder / "config.json").read_text())
    good.pop("rope_parameters")
    good["rope_theta"] = 500.0
    for kind in ("llama3", "linear"):
        for key in ("factor", "low_freq_factor", "high_freq_factor"):
            if kind == "linear" and key != "factor":
                continue
            for value in (MISSING, None, "x", [], 0, -1):
                rope = {k: v for k, v in {**LLAMA3, "rope_type": kind, key: value}.items()}
                rope = {k: v for k, v in rope.items() if v is not MISSING}
                rewrite(folder, good, where, rope)
                with pytest.raises(ValueError, match="config.json: .*factor"):
                    load(folder)


def logits(model, **inputs):
    with torch.no_grad():
        out = model(**inputs)
    return out.logits


def computed(theirs):
    """Their logits at real tokens, or None where a part of the model is missing or not finite."""
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    if theirs.config.is_encoder_decoder:
        out = logits(theirs, **inputs, decoder_input_ids=IDS[:, :6])
    else:
        out = logits(theirs, **inputs)
        out = out[MASK.bool()] if out.ndim == 3 else out
    return out if out.isfinite().all() else None


def ours_computed(ours):
    with torch.no_grad():
        if ours.reads_source:
            return ours(IDS, IDS[:, :6], MASK)
        out = ours(IDS, MASK)
    return out[MASK.bool()] if out.ndim == 3 else out


def theirs_from(folder, cls):
    """What transformers makes of a folder, None where it refuses or something is missing."""
    try:
        theirs, info = cls.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
        problems = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
        return None if any(info[k] for k in problems) else computed(theirs.eval())
    except Exception:  # whatever it says: it does not load
        return None


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_is_read_as_transformers_reads_it_and_survives(family, folder, tmp_path):
    cls = getattr(transformers(), family)
    good = json.loads((folder / "config.json").read_text())
    every = cls.from_pretrained(folder).config.to_dict()
    read = set(load(folder).config_to()) - NOT_OURS - NOT_OURS_IN.get(family, set())
    skipped = {"architectures", "dtype", "transformers_version", "is_encoder_decoder"}
    skipped |= {"output_hidden_states", "label2id", "_name_or_path"}
    loaded = 0
    for key in sorted(set(every) - skipped):
        for value in (MISSING, None, "x", 0, 1, 2, 0.5, True, [1]):
            rewrite(folder, good, key, value)
            expected = theirs_from(folder, cls)
            try:
                ours = load(folder)
            except ValueError as error:
                named = rf"config.json: .*(\w+_|{key})|doesn't fit|lacks|the unknown|differs from"
                assert re.search(named, str(error)), (key, value, str(error))
                assert value is not MISSING or expected is None, (key, str(error))
                continue
            whole = isinstance(value, int) and not isinstance(value, bool)
            if expected is None:  # it is stricter: no whole number for a number; keys unread by us
                assert key not in read or whole, (key, value)
                continue
            loaded += 1
            torch.testing.assert_close(
                ours_computed(ours), expected, rtol=0, atol=1e-4, msg=f"{key}={value!r}"
            )
            ours.save(tmp_path / "ours")
            again = theirs_from(tmp_path / "ours", cls)
            torch.testing.assert_close(again, expected, rtol=0, atol=1e-4, msg=f"{key}={value!r}")
    assert loaded > 40
