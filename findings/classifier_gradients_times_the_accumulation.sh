#!/usr/bin/env bash
# Accumulating over N micro-batches, Trainer gives a classifier N times the gradient and N times the loss.
#
# Version:   transformers 5.24.0, accelerate 1.15.0, torch 2.13.0 (CPU); BERT, GPT-2 and Llama alike
# Behaviour: Trainer takes a model whose `forward` has `**kwargs` for one that divides its loss by the
#            number of labels of the whole step, and then does not divide by the number of micro-batches.
#            The `…ForSequenceClassification` models have the `**kwargs` and leave that number unread:
#            their loss is a mean of the micro-batch. So one batch of 8 rows and 8 batches of one row,
#            the same step on paper, differ by a factor of 8: in classification, in regression and
#            with several labels a row. Language models are right. No warning.
# Seen:      8 for the logged loss and 8 for every gradient, for each of the three models and tasks;
#            for `LlamaForCausalLM` 1. With `loss_is_scaled_for_ga = False` set on the trainer, 1.
# Source:    trainer.py, training_step: `model_accepts_loss_kwargs and num_items_in_batch is not None`
#            stands for "scaled"; modeling_layers.py, GenericForSequenceClassification.forward calls
#            `loss_function` without the kwargs. modeling_bert.py and modeling_gpt2.py are like it.
# Who meets it: whoever trains a classifier or a scoring model in small batches. Clipping, at a norm of 1
#            by default, sets in N times as early; with SGD the rate is N times as large; Adam hides the
#            rest. The training loss is N times that of the evaluation and says nothing across runs.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "torch==2.13.0" "transformers==5.24.0" "accelerate==1.15.0" 2>/dev/null
cd "$work"
HF_HUB_OFFLINE=1 "$work/env/bin/python" -W ignore - 2>"$work/errors" <<'PY' || { tail -5 "$work/errors"; exit 1; }
import copy

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

ROWS = 8
size = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0)
llama = dict(**size, intermediate_size=64)
bert = dict(**size, intermediate_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
gpt2 = dict(**size, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
kinds = {
    "BERT": (BertForSequenceClassification, BertConfig, bert),
    "GPT-2": (GPT2ForSequenceClassification, GPT2Config, gpt2),
    "Llama": (LlamaForSequenceClassification, LlamaConfig, llama),
}
# one length and no padding: a mean of means is the mean
texts = torch.randint(3, 50, (ROWS, 10), generator=torch.Generator().manual_seed(0)).tolist()
tasks = {
    "classes": (3, [sum(text) % 3 for text in texts]),
    "regression": (1, [sum(text) % 3 / 2 for text in texts]),
    "several labels": (3, [[1.0, 0.0, float(sum(text) % 2)] for text in texts]),
}


def step(model, labels, pieces, scaled):
    """(the logged loss, {name: what one step of SGD at rate 1 took off}) in `pieces` micro-batches."""
    model = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    how = TrainingArguments(
        output_dir="out", report_to=[], use_cpu=True, max_steps=1, logging_steps=1, disable_tqdm=True,
        save_strategy="no", optim="sgd", learning_rate=1.0, lr_scheduler_type="constant",
        max_grad_norm=0.0, weight_decay=0.0,
        per_device_train_batch_size=ROWS // pieces, gradient_accumulation_steps=pieces,
    )
    rows = [{"input_ids": text, "labels": label} for text, label in zip(texts, labels)]
    trainer = Trainer(model, how, train_dataset=rows)
    trainer.loss_is_scaled_for_ga = scaled
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    change = {name: before[name] - weight.detach() for name, weight in model.named_parameters()}
    return trainer.state.log_history[0]["loss"], change


def ratios(model, labels, scaled=None):
    """Of the loss and of the whole gradient: eight micro-batches of one row to one of eight."""
    (one, whole), (many, parts) = (step(model, labels, n, scaled) for n in (1, ROWS))
    norms = [torch.cat([g.flatten() for g in grads.values()]).norm().item() for grads in (whole, parts)]
    return many / one, norms[1] / norms[0]


def near(found, expected):
    return all(abs(value - expected) < 0.01 for value in found)


for name, (kind, config, given) in kinds.items():
    for task, (classes, labels) in tasks.items():
        torch.manual_seed(0)
        found = ratios(kind(config(**given, num_labels=classes)), labels)
        print(f"{name}, {task}: loss x {found[0]:.2f}, gradient x {found[1]:.2f}")
        assert near(found, ROWS), f"the behaviour has changed: {found}"

torch.manual_seed(0)
found = ratios(LlamaForCausalLM(LlamaConfig(**llama)), texts)
print(f"Llama, next token: loss x {found[0]:.2f}, gradient x {found[1]:.2f}")
assert near(found, 1), f"not as described: {found}"

classes, labels = tasks["classes"]
found = ratios(LlamaForSequenceClassification(LlamaConfig(**llama, num_labels=classes)), labels, False)
print(f"Llama, classes, told so: loss x {found[0]:.2f}, gradient x {found[1]:.2f}")
assert near(found, 1), f"not as described: {found}"
print("as described")
PY
