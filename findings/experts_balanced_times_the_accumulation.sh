#!/usr/bin/env bash
# The balancing loss of a mixture of experts grows with the number of accumulation steps.
#
# Version:   transformers 5.24.0, accelerate 1.15.0, torch 2.13.0 (CPU); Mixtral, OLMoE, Qwen3-MoE
# Behaviour: with `output_router_logits=True` the model adds `router_aux_loss_coef` times the balancing
#            loss to the one of the next token. The latter is a sum divided by the tokens of the whole
#            step, so Trainer adds the micro-batches up without dividing. The balancing loss is a mean
#            of each micro-batch and is added up with it: N micro-batches, N times the coefficient.
# Seen:      one step on 8 copies of a text, as one batch and as 8: the balance's part of the logged loss
#            is 8.00 times as large and its part of the routers' gradient too. With coefficient 0 both
#            runs agree to 1e-6.
# Source:    models/mixtral/modeling_mixtral.py, MixtralForCausalLM.forward: `loss +=` after
#            `loss_function(…, **kwargs)`; trainer.py, training_step. trl's SFTTrainer 1.16.0 divides its
#            own balancing loss by the steps: the same data and numbers there are another training.
# Who meets it: whoever fine-tunes a mixture, whose size forces small micro-batches: a coefficient of 0.01
#            found on one machine is 0.16 on a smaller one with 16 steps.
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
    AutoModelForCausalLM,
    MixtralConfig,
    OlmoeConfig,
    PrinterCallback,
    Qwen3MoeConfig,
    Trainer,
    TrainingArguments,
)

ROWS = 8
size = dict(
    vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, num_experts_per_tok=2, output_router_logits=True, pad_token_id=0,
    eos_token_id=1, initializer_range=0.2,
)
kinds = {
    "Mixtral": (MixtralConfig, dict(num_local_experts=4)),
    "OLMoE": (OlmoeConfig, dict(num_experts=4)),
    "Qwen3-MoE": (Qwen3MoeConfig, dict(num_experts=4, moe_intermediate_size=64, head_dim=8)),
}
text = torch.randint(3, 50, (64,), generator=torch.Generator().manual_seed(0)).tolist()
texts = [text] * ROWS  # copies: any part of the batch has the balance of the whole


def step(model, pieces):
    """(the logged loss, what one step of SGD at rate 1 took off the routers) in `pieces` batches."""
    model = copy.deepcopy(model)
    before = {name: w.detach().clone() for name, w in model.named_parameters() if ".gate." in name}
    how = TrainingArguments(
        output_dir="out", report_to=[], use_cpu=True, max_steps=1, logging_steps=1, disable_tqdm=True,
        save_strategy="no", optim="sgd", learning_rate=1.0, lr_scheduler_type="constant",
        max_grad_norm=0.0, weight_decay=0.0,
        per_device_train_batch_size=ROWS // pieces, gradient_accumulation_steps=pieces,
    )
    rows = [{"input_ids": text, "labels": text} for text in texts]
    trainer = Trainer(model, how, train_dataset=rows)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    after = dict(model.named_parameters())
    taken = torch.cat([(w - after[name].detach()).flatten() for name, w in before.items()])
    return trainer.state.log_history[0]["loss"], taken


for name, (config, more) in kinds.items():
    loss, routers = {}, {}
    for coefficient in (0.0, 1.0):
        for pieces in (1, ROWS):
            torch.manual_seed(0)
            given = config(**size, **more, router_aux_loss_coef=coefficient)
            model = AutoModelForCausalLM.from_config(given)
            loss[coefficient, pieces], routers[coefficient, pieces] = step(model, pieces)
    apart = abs(loss[0.0, 1] - loss[0.0, ROWS])
    turned = (routers[0.0, 1] - routers[0.0, ROWS]).norm() / routers[0.0, 1].norm()
    balance = {n: loss[1.0, n] - loss[0.0, n] for n in (1, ROWS)}
    pull = {n: (routers[1.0, n] - routers[0.0, n]).norm() for n in (1, ROWS)}
    grown = balance[ROWS] / balance[1], (pull[ROWS] / pull[1]).item()
    print(f"{name}: without the balance loss apart {apart:.1g}, routers' gradient {turned:.1g};")
    print(f"    the balance's part: loss x {grown[0]:.2f}, routers' gradient x {grown[1]:.2f}")
    assert apart < 1e-4 and turned < 1e-3, f"not as described: {apart}, {turned}"
    assert all(abs(value - ROWS) < 0.1 for value in grown), f"the behaviour has changed: {grown}"
print("as described")
PY
