"""What moves and what is lost: adapters by rank and scale, and old text among the rows."""

import torch

from llmbook.alignment import sft
from llmbook.alignment.lora import LoRA, LoRAConfig
from llmbook.data.corpus import documentation
from llmbook.data.packing import pack
from llmbook.data.verifiable import SEEN, mixture
from llmbook.evaluation import base_nats, base_text, evaluate, questions
from llmbook.experiments.sft.recipe import ASKED, BATCH, fit
from llmbook.experiments.small_chat import start

RANKS = (1, 2, 4, 8, 16, 32)
SHARES = (0.0, 0.1, 0.25, 0.5)
SCALES, SCALED = ("alpha/r", "alpha/sqrt(r)"), (2, 32)  # at one alpha; ranks compared
ALPHA = 16.0


def lora_run(rank, seed, steps=150):
    """An adapter of a rank on all matrices of the blocks, scale 2; 0: all weights."""
    config = LoRAConfig(rank=rank, alpha=2.0 * rank, seed=seed) if rank else None
    return _tuned(config, seed, steps)


def scale_run(scale, rank, seed, steps=40):
    """An adapter of a rank at the one ALPHA, over the rank or over its root."""
    config = LoRAConfig(rank=rank, alpha=ALPHA, stabilised=scale == SCALES[1], seed=seed)
    return _tuned(config, seed, steps)


def _tuned(config, seed, steps):
    """All seen kinds by AdamW: an adapter, or all weights where config is None."""
    model, tokenizer = start(seed)
    encoded = sft.encode_examples(tokenizer, mixture(SEEN, steps * BATCH, seed=seed))
    # The new tokens' rows must be learned by both: without, no adapter could know the template.
    tuned, trained = model, sum(p.numel() for p in model.parameters())
    if config is not None:
        tuned = LoRA(model, config)
        model.tokens.weight.requires_grad_(True)
        trained = tuned.n_trained
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rate = 3e-3 if config is None else 1e-2
    loss = fit(tuned, encoded, steps, seed, optimizer="adamw", lr=rate)
    model = tuned if config is None else tuned.merged()
    held = dict(model.named_parameters())
    blocks = [name for name in before if name.startswith("blocks")]
    with torch.no_grad():
        moved = sum((held[name] - before[name]).square().sum().item() for name in blocks)
        size = sum(before[name].square().sum().item() for name in blocks)
    return {
        "trained weights": trained,
        "loss": loss,
        "seen": evaluate(model, tokenizer, questions(SEEN, ASKED)).exact(),
        "blocks moved by": (moved / size) ** 0.5,
        "nats of old text": base_nats(model, base_text(tokenizer, 8000)),
    }


def untuned():
    """The base model on the same old text."""
    model, tokenizer = start(0)
    return {"seen": 0.0, "nats of old text": base_nats(model, base_text(tokenizer, 8000))}


def mixing_run(share, seed, steps=150):
    """A share of old text among the rows: exact answers, and nats a token of old text."""
    model, tokenizer = start(seed)
    encoded = sft.encode_examples(tokenizer, mixture(SEEN, steps * BATCH, seed=seed))
    end = tokenizer.special_tokens["<|endoftext|>"]
    old = documentation("train", "smoke")
    text = pack((tokenizer.encode(document.text, ()) for document in old), end)
    fit(model, encoded, steps, seed, text=text, share=share)
    return {
        "seen": evaluate(model, tokenizer, questions(SEEN, ASKED)).exact(),
        "nats of old text": base_nats(model, base_text(tokenizer, 8000)),
    }
