#!/usr/bin/env bash
# A config.json without eos_token_id loads a model whose config has an end token, and which never ends.
#
# Version:   transformers 5.23.0, torch 2.13.0 (CPU)
# Behaviour: `T5Config` and others give eos_token_id a default (T5: 1, Llama: 2). A folder whose
#            config.json leaves the key out loads with `model.config.eos_token_id` at that default.
#            `generate` does not read it: without a generation_config.json its settings are made from
#            the keys that stand in config.json's text, so `model.generation_config.eos_token_id` is
#            None and every text runs to max_new_tokens. The same model before it was saved, or with
#            the key written out, ends at its end token. No warning.
# Seen:      tokens after the end token is due: key in the file: 1; key left out: 12, while
#            model.config.eos_token_id says 1 both times
# Source:    run below on random weights whose head always prefers token 1;
#            GenerationMixin and GenerationConfig.from_pretrained, which falls back on config.json.
# Who meets it: whoever writes config.json by hand or by a converter that leaves defaults out, or
#            serves such a folder: answers never stop, and the config seems right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "transformers==5.23.0" "torch==2.13.0" "numpy==2.4.6" 2>/dev/null
HF_HUB_OFFLINE=1 "$work/env/bin/python" - "$work" <<'PY'
import json
import sys
from pathlib import Path

import torch
from transformers import T5Config, T5ForConditionalGeneration
from transformers.utils import logging

logging.set_verbosity_error()
folder = Path(sys.argv[1]) / "model"
torch.manual_seed(0)
sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
config = T5Config(vocab_size=40, tie_word_embeddings=False, decoder_start_token_id=0, **sizes)
assert config.eos_token_id == 1
model = T5ForConditionalGeneration(config).eval()
end = 1


def first_choice(model):
    """Ids that greedy decoding writes when the head likes the end token best, everywhere."""
    hook = model.lm_head.register_forward_hook(lambda m, i, out: out + 50 * (torch.arange(40) == end))
    ids = model.generate(torch.tensor([[5, 6, 7]]), do_sample=False, max_new_tokens=12)
    hook.remove()
    return ids[0, 1:].tolist()


assert first_choice(model) == [1]
model.save_pretrained(folder)
(folder / "generation_config.json").unlink(missing_ok=True)
path = folder / "config.json"
stored = json.loads(path.read_text())
stored["eos_token_id"] = 1
path.write_text(json.dumps(stored))
told = T5ForConditionalGeneration.from_pretrained(folder)
written = first_choice(told)

del stored["eos_token_id"]
path.write_text(json.dumps(stored))
silent = T5ForConditionalGeneration.from_pretrained(folder)
endless = first_choice(silent)
print(f"key in the file: {len(written)} tokens, key left out: {len(endless)}")
print(f"config says {told.config.eos_token_id} and {silent.config.eos_token_id}")
assert told.config.eos_token_id == silent.config.eos_token_id == 1
assert written == [1], f"the behaviour has changed: {written}"
assert endless == [1] * 12, f"the behaviour has changed: {endless}"
assert silent.generation_config.eos_token_id is None
print("as described")
PY
