#!/usr/bin/env bash
# DPOTrainer without a reference takes what lies on disk, not the model that it was given.
#
# Version:   trl 1.16.0, transformers 5.23.0, torch 2.13.0 (CPU)
# Behaviour: `DPOTrainer(model=model)` without `ref_model` is documented to compare with "the model
#            state before DPO training starts". It loads the reference anew from the path or hub name
#            that the model's config remembers. A model that was loaded and then changed in memory
#            (fine-tuned in the same program, as SFT before DPO is) gets its untuned ancestor for a
#            reference: no warning, and a loss that looks plausible.
# Seen:      the reference's weights equal the folder's (difference 0) and differ from the given
#            model's by up to 0.19; the loss of the first step, ln 2 = 0.693 for equal policies
#            whatever the data, is 0.707. With `ref_model=copy.deepcopy(model)` it is 0.693.
# Source:    trl/trainer/dpo_trainer.py, DPOTrainer.__init__: create_model_from_path(
#            get_config_model_id(self.model.config)); the documented words are in the class docstring.
# Who meets it: whoever runs SFT and DPO in one program. The loss of the first step tells.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "transformers==5.23.0" "trl==1.16.0" 2>/dev/null
cd "$work"
HF_HUB_OFFLINE=1 "$work/env/bin/python" - 2>"$work/errors" <<'PY' || { tail -5 "$work/errors"; exit 1; }
import copy
import math

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
by_bytes = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
by_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
by_bytes.decoder = decoders.ByteLevel()
by_bytes.add_special_tokens(["<end>"])
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=by_bytes, eos_token="<end>", pad_token="<end>"
)
pairs = Dataset.from_list([{"prompt": "one", "chosen": " two", "rejected": " ten"}] * 4)

torch.manual_seed(0)
size = dict(vocab_size=257, n_positions=64, n_embd=16, n_layer=1, n_head=2)
GPT2LMHeadModel(GPT2Config(**size)).save_pretrained("base")
model = GPT2LMHeadModel.from_pretrained("base")
with torch.no_grad():  # stands for a fine-tuning in this program
    for weight in model.parameters():
        weight.add_(0.05 * torch.randn_like(weight))


def distance(one, other):
    other = other.state_dict()
    return max((w - other[name]).abs().max().item() for name, w in one.state_dict().items())


def first_loss(reference):
    """(the trainer's reference, the loss of its first step) for a copy of the model."""
    given = copy.deepcopy(model)
    how = DPOConfig(
        output_dir="out", report_to=[], use_cpu=True, bf16=False, max_steps=1, logging_steps=1,
        per_device_train_batch_size=2, save_strategy="no",
    )
    trainer = DPOTrainer(given, reference, how, train_dataset=pairs, processing_class=tokenizer)
    before = copy.deepcopy(trainer.ref_model)
    trainer.train()
    return before, trainer.state.log_history[0]["loss"]


reference, loss = first_loss(None)
base = GPT2LMHeadModel.from_pretrained("base")
to_disk, to_model = distance(reference, base), distance(reference, model)
print(f"reference - folder: {to_disk:.2g}, reference - model given: {to_model:.2g}")
_, expected = first_loss(copy.deepcopy(model))
print(f"first loss: {loss:.4f}; with a copy of the model as reference {expected:.4f}")
assert abs(expected - math.log(2)) < 1e-4
assert to_disk == 0 and to_model > 0.05, "the behaviour has changed: the reference is the model"
assert abs(loss - math.log(2)) > 1e-3, "the behaviour has changed: the first loss is ln 2"
print("as described")
PY
