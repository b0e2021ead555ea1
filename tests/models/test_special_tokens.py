"""Texts end where transformers ends them, whether config.json names an end, says null or nothing.

A default of transformers' config classes (2 for Llama's, 1 for T5's) ends no text: what counts is
what stands in the file. What we save ends texts where what we loaded did.
"""

import json

import pytest
import torch
from helpers.model_oracles import randomised, transformers

from llmbook.decoding import generate
from llmbook.models import load

SIZES = {
    "vocab_size": 41,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 3, "num_experts": 3}
EXPERTS |= {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 12}
STATES = {"vocab_size": 41, "num_hidden_layers": 1, "hidden_size": 24, "state_size": 8}
T5 = {"vocab_size": 41, "d_model": 24, "d_kv": 6, "d_ff": 37, "num_layers": 1, "num_heads": 4}
T5 |= {"decoder_start_token_id": 0}
BART = {"vocab_size": 41, "d_model": 24, "max_position_embeddings": 64}
BART |= {f"{stack}_layers": 1 for stack in ("encoder", "decoder")}
BART |= {f"{stack}_attention_heads": 4 for stack in ("encoder", "decoder")}
BART |= {f"{stack}_ffn_dim": 37 for stack in ("encoder", "decoder")}
FAMILIES = {
    "GPT2LMHeadModel": {"vocab_size": 50257, "n_embd": 24, "n_head": 4, "n_layer": 1},
    "LlamaForCausalLM": SIZES,
    "MistralForCausalLM": SIZES,
    "Qwen2ForCausalLM": SIZES,
    "Qwen3ForCausalLM": SIZES,
    "Qwen2MoeForCausalLM": SIZES | EXPERTS,
    "MixtralForCausalLM": SIZES | EXPERTS,
    "MambaForCausalLM": STATES,
    "Mamba2ForCausalLM": STATES | {"num_heads": 6, "head_dim": 8, "n_groups": 2},
    "T5ForConditionalGeneration": T5,
    "MT5ForConditionalGeneration": T5,
    "BartForConditionalGeneration": BART,
}
KEYS = ("bos_token_id", "eos_token_id", "forced_eos_token_id")
NEW = 6
IDS = torch.tensor([[5, 13, 8, 12, 9], [22, 29, 13, 14, 15]])


def as_published(family, folder, end=None):
    """A folder of transformers whose model writes `end`, or the family's own, in the first row."""
    torch.manual_seed(0)
    cls = getattr(transformers(), family)
    theirs = randomised(cls(cls.config_class(**FAMILIES[family])))
    end = theirs.config.eos_token_id if end is None else end
    end = 9 if end is None else end
    seen = []
    head = theirs.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))
    text = (
        {"decoder_input_ids": torch.full((2, 1), theirs.config.decoder_start_token_id)}
        if (theirs.config.is_encoder_decoder)
        else {}
    )
    with torch.no_grad():
        theirs(IDS, **text)
        hook.remove()
        direction = seen[0][0, -1]
        head.weight[end] = 20 * direction / direction.norm()
    theirs.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    return cls, end


def texts(folder, cls):
    """What ours and theirs write, greedily."""
    theirs = cls.from_pretrained(folder).eval()
    want = theirs.generate(IDS, do_sample=False, max_new_tokens=NEW)
    ours = load(folder)
    return ours, generate(ours, IDS, max_new_tokens=NEW).tolist(), want.tolist()


@pytest.mark.parametrize("value", ["missing", None, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_end_where_transformers_ends_them_and_do_so_again_when_saved(
    family, value, tmp_path
):
    cls, end = as_published(family, tmp_path / "theirs", value if value == 7 else None)
    file = tmp_path / "theirs" / "config.json"
    content = {k: v for k, v in json.loads(file.read_text()).items() if k not in KEYS}
    content |= {} if value == "missing" else dict.fromkeys(KEYS, value)
    file.write_text(json.dumps(content))
    ours, got, want = texts(tmp_path / "theirs", cls)
    assert got == want
    assert ours.config.eos_id == (None if value == "missing" else value)
    first = got[0][1 if ours.reads_source else len(IDS[0])]
    assert first == end  # so that an end that counts ends the row
    ours.save(tmp_path / "ours")
    _, again, theirs_again = texts(tmp_path / "ours", cls)
    assert again == theirs_again == want
