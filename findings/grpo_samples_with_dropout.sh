#!/usr/bin/env bash
# GRPOTrainer samples its answers with dropout on.
#
# Version:   trl 1.16.0, transformers 5.23.0, torch 2.13.0 (CPU)
# Behaviour: the trainer calls `generate` while the model is in training mode, and `generate` does not
#            leave it. A model whose config has dropout, as GPT-2's has by default (0.1), writes its
#            rollouts with units dropped at random, a new draw at each token: not the policy whose
#            ratio is clipped, and not the model that will be used. `disable_dropout` is False by
#            default and described for reference models only. No warning.
# Seen:      at a temperature of 0.001, where sampling is a choice of the largest, four answers to one
#            prompt: more than one text with dropout 0.1, one and the same with `disable_dropout=True`.
#            All dropout layers report training while the trainer generates.
# Source:    trl/trainer/grpo_trainer.py, `_generate_single_turn`: no call of eval() around generate;
#            transformers' generation/utils.py has none either.
# Who meets it: whoever runs GRPO on GPT-2, OPT, BART or another model with dropout in its config: noisier
#            rollouts and lower rewards than the same model gets afterwards.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "transformers==5.23.0" "trl==1.16.0" 2>/dev/null
cd "$work"
HF_HUB_OFFLINE=1 "$work/env/bin/python" -W ignore - 2>"$work/errors" <<'PY' || { tail -5 "$work/errors"; exit 1; }
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
letters = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
letters.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<e>", pad_token="<p>")
END, PAD = tokenizer.eos_token_id, tokenizer.pad_token_id


def sampled(disable_dropout):
    """(the different answers to one prompt, what its dropout layers said while it generated)."""
    torch.manual_seed(0)
    size = dict(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64)
    model = GPT2LMHeadModel(GPT2Config(**size, eos_token_id=END, pad_token_id=PAD))
    generate, generating, modes, answers = model.generate, [], set(), set()

    def watched(*args, **kwargs):
        generating.append(True)
        try:
            return generate(*args, **kwargs)
        finally:
            generating.pop()

    def note(layer, inputs, output):
        if generating and layer.p > 0:
            modes.add(layer.training)

    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.register_forward_hook(note)
    model.generate = watched

    def reward(completion_ids, **_):
        answers.update(map(tuple, completion_ids))
        return [float(len(answer)) for answer in completion_ids]

    settings = GRPOConfig(
        output_dir="out",
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=16,
        max_steps=1,
        temperature=0.001,
        disable_dropout=disable_dropout,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    data = Dataset.from_dict({"prompt": ["ab"] * 4})
    GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=settings,
        train_dataset=data,
        processing_class=tokenizer,
    ).train()
    return answers, modes


for disable_dropout in (False, True):
    answers, modes = sampled(disable_dropout)
    print(f"disable_dropout={disable_dropout}: {len(answers)} different answers of 4; {modes}")
    if disable_dropout:
        assert len(answers) == 1 and not modes, "not as described"
    else:
        assert len(answers) > 1 and modes == {True}, "the behaviour has changed"
print("as described")
PY
