"""What the training tests train: a GPT of 5,000 parameters with dropout, on random tokens."""

import torch

from llmbook.data.packing import Windows
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.training import TrainConfig

VOCAB, LENGTH = 17, 8
CONFIG = TrainConfig(
    steps=12,
    batch_size=4,
    warmup=3,
    lr=1e-2,
    log_every=2,
    evaluate_every=4,
    checkpoint_every=5,
    weight_decay=0.1,
)


def tiny_model(seed=0, dropout=0.2, **changes):
    """A new model with the weights of a seed."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCAB, "max_len": LENGTH, "d_model": 16, "n_layers": 1, "n_heads": 2}
    return GPT(GPTConfig(**{**sizes, "dropout": dropout, **changes}))


def tiny_windows(tokens=100, seed=0):
    """Windows of a stream of random tokens: an epoch is 11 windows, not a multiple of a batch."""
    ids = torch.randint(VOCAB, (tokens,), generator=torch.Generator().manual_seed(5))
    return Windows(ids, LENGTH, seed)


def same_weights(a, b):
    """Whether two models' weights are the same bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
