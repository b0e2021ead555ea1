"""The short training that most experiments share: AdamW, one cycle of the rate, clipped norms."""

import time

import torch
from torch import nn


def fit(model, loss_at, steps, lr, fused=False):
    """Train a model in place on loss_at(step) → scalar; the CPU-seconds that it took.

    fused: AdamW in one kernel, whose last bits differ; a record comes out again by its own.
    """
    began = time.process_time()
    adam = torch.optim.AdamW(
        model.parameters(), lr, betas=(0.9, 0.98), weight_decay=0.01, fused=fused
    )
    slope = torch.optim.lr_scheduler.OneCycleLR(adam, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        loss = loss_at(step)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        slope.step()
    return round(time.process_time() - began, 1)
