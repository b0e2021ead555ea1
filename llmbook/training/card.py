"""The model folder at the end of a run, with a card that says how it came about."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from llmbook import provenance
from llmbook.data.folders import write_json
from llmbook.models import load
from llmbook.ngram import KneserNey
from llmbook.training.distributed import barrier
from llmbook.training.evaluate import stream_nats
from llmbook.training.log import thinned
from llmbook.training.state import whole_model


@dataclass(frozen=True)
class Made:
    """How a model came about: its `Recipe`, the run's `History`, the command and the device."""

    recipe: object
    history: object
    command: str
    device: object


def write_model(folder, model, text, made, world, say=print):
    """Write config.json, model.safetensors (float16), tokenizer.json and card.json into a folder.

    The card's figures are those of the float16 file. Every process must call it; the first writes.
    """
    model = whole_model(model, world)
    if world.first:
        model.save(folder, dtype=torch.float16)
        text.tokenizer.save(folder)
        saved = load(folder, device=made.device)
        say("measuring bits per byte on the whole validation side")
        content = card(saved, text, made)
        write_json(folder / "card.json", content)
        quality = content["quality"]
        say(
            f"validation {quality['nats_per_token']:.4f} nats a token, "
            f"{quality['bits_per_byte']:.4f} bits a byte; Kneser-Ney of order "
            f"{quality['kneser_ney']['order']}: {quality['kneser_ney']['bits_per_byte']:.4f}\n"
            f"wrote {folder}"
        )
    barrier(world)


def card(model, text, made):
    """What `card.json` holds: JSON-able."""
    recipe, history = made.recipe, made.history
    nats = stream_nats(model, text.validation, recipe.model.max_len, precision="float32")
    return {
        "model": f"GPT, {model.n_parameters:,} parameters",
        "parameters": model.n_parameters,
        "recipe": recipe.to_dict(),
        "data": text.card,
        "fingerprint": text.fingerprint,
        **provenance.machine(made.device),
        "command": made.command,
        "tokens": history.tokens,
        "seconds": round(history.seconds, 3),
        "loss_curve": thinned(zip(history.steps, history.losses, strict=True)),
        "validation_curve": [[step, round(loss, 4)] for step, loss in history.validation],
        "quality": {
            "nats_per_token": nats,
            "bits_per_byte": text.bits_per_byte(nats),
            "kneser_ney": kneser_ney(text),
        },
    }


def kneser_ney(text, order=5):
    """Nats a token and bits a byte of an n-gram model over the same tokens.

    The order is the largest up to `order` that the vocabulary allows (vocab_size^order < 2^63).
    """
    order = min(order, int(62.9 / math.log2(max(2, text.vocab_size))))
    model = KneserNey(text.train.numpy(), text.vocab_size, order)
    p = model.probabilities(text.validation.numpy())[1:]  # no model predicts the first token
    nats = float(-np.log(p).mean())
    return {"order": order, "nats_per_token": nats, "bits_per_byte": text.bits_per_byte(nats)}
