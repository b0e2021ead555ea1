"""Policies small enough to be enumerated, and one that is a real decoder."""

import itertools
from types import SimpleNamespace

import torch
from torch import nn

from llmbook.models.gpt import GPT, GPTConfig

VOCAB, END = 11, 0


def tiny_policy(seed=0, **changes):
    """A GPT of eleven tokens with an end, in float32 and evaluation mode."""
    torch.manual_seed(seed)
    config = {"max_len": 32, "d_model": 16, "n_layers": 2, "n_heads": 2, "eos_id": END}
    model = GPT(GPTConfig(vocab_size=VOCAB, **{**config, **changes})).eval()
    with torch.no_grad():  # fresh weights are nearly uniform: make some tokens likely
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(6)
    return model


class Table(nn.Module):
    """A policy that is a table: logits of the next token by the token before, float64.

    Every text can be enumerated, so each expectation is a sum.
    """

    reads_source = False

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits, dtype=torch.float64))
        self.config = SimpleNamespace(vocab_size=self.logits.shape[1])

    def forward(self, input_ids, attention_mask=None):
        return self.logits[input_ids]


def every_answer(vocab_size, length):
    """All answers of a length: int64 (vocab_size^length, length)."""
    return torch.tensor(list(itertools.product(range(vocab_size), repeat=length)))


def as_batch(answers, prompt=0):
    """input_ids, attention_mask and targets of answers to a prompt of one token."""
    ids = torch.cat([torch.full_like(answers[:, :1], prompt), answers], 1)[:, :-1]
    return ids, torch.ones_like(ids, dtype=torch.bool), answers
