"""`python -m llmbook train`: from raw text to a model folder.

OUT/recipe.json  checkpoints/  log.csv  log.jsonl  model/
OUT/model/config.json  model.safetensors  tokenizer.json  card.json
"""

import argparse
import dataclasses
import sys
import warnings
from pathlib import Path

from llmbook.training.config import CHOICES, SECTIONS, Recipe
from llmbook.training.presets import PRESETS, preset

_PROFILES = ("smoke", "quick", "gpu", "full")
_HELP = {
    "source": "documentation, shakespeare, or a text file",
    "size": "of the documentation",
    "tokenizer": "bpe, characters, or a tokenizer.json",
    "vocab_size": "tokens that bpe learns",
    "max_len": "tokens of a window",
    "d_model": "width",
    "n_layers": "blocks",
    "n_heads": "heads, which divide the width",
    "dropout": "share of activations dropped",
    "steps": "updates",
    "batch_size": "sequences an update sees in all",
    "accumulate": "micro-batches that an update is made of",
    "optimizer": "of the matrices",
    "lr": "learning rate at the peak of the schedule",
    "beta1": "AdamW's memory of gradients",
    "beta2": "AdamW's memory of their squares",
    "eps": "what AdamW adds to the root of the squares",
    "weight_decay": "of matrices, not of biases and norms",
    "clip": "largest norm of the gradient; 0: no clipping",
    "schedule": "how the learning rate moves",
    "warmup": "steps in which the rate rises to its peak",
    "final_lr": "factor that the schedule ends at",
    "cooldown": "share of the steps in which the trapezoid falls",
    "precision": "of matrix products; auto: the device's own",
    "compile": "run the model through torch.compile",
    "checkpoint_activations": "compute them again: less memory, one more forward pass",
    "log_every": "steps between two looks at the loss",
    "evaluate_every": "steps between two validation losses; 0: never",
    "evaluate_windows": "windows that a validation loss reads",
    "checkpoint_every": "steps between two checkpoints; 0: never",
    "keep": "checkpoints kept",
    "parallel": "in several processes; auto: ddp",
    "seed": "of weights, order and dropout",
}


def parser():
    """The options: a recipe's fields, each of its own name, and where to write."""
    out = argparse.ArgumentParser(
        prog="python -m llmbook train",
        description="Train a GPT from raw text to a model folder. Options change single fields of "
        "the recipe, which is a preset (quick) or a JSON file; the defaults shown are quick's.",
        epilog="Several processes: torchrun --nproc-per-node N -m llmbook train ...",
    )
    add = out.add_argument
    add("--config", type=Path, metavar="FILE", help="a recipe as JSON: data, model, training")
    add(
        "--preset",
        choices=tuple(PRESETS),
        help="a recipe by name (default: quick); with --resume the run's own",
    )
    add("--profile", choices=_PROFILES, help="the preset that a chapter's profile would take")
    add(
        "--out",
        type=Path,
        default=Path("runs/gpt"),
        metavar="FOLDER",
        help="where everything is written (default: runs/gpt)",
    )
    add("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--threads", type=int, help="CPU threads (default: torch's own choice)")
    add("--quiet", action="store_true", help="no progress lines")
    add("--tensorboard", action="store_true", help="also write event files")
    for section, cls in SECTIONS.items():
        group = out.add_argument_group(section)
        for f in dataclasses.fields(cls):
            _add_field(group, f, getattr(getattr(preset("quick"), section), f.name))
    return out


def _add_field(group, f, default):
    """An option for a field. It is None when left out: the recipe has its own value."""
    flag = "--" + f.name.replace("_", "-")
    names = CHOICES.get(f.name)
    text = _HELP[f.name] + (f": {', '.join(names)}" if names else "")
    if isinstance(f.default, bool):
        text = f"{text} (default: {'yes' if default else 'no'})"
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        text = f"{text} (default: {default})"
        metavar = {int: "N", float: "X", str: "NAME"}[type(f.default)]
        group.add_argument(flag, type=type(f.default), metavar=metavar, default=None, help=text)


def recipe_of(options):
    """The recipe that the options ask for. Raises ValueError for one that makes no sense."""
    named = [n for n in ("config", "preset", "profile") if getattr(options, n) is not None]
    if len(named) > 1:
        got = " and ".join(f"--{name}" for name in named)
        raise ValueError(f"name one of --config, --preset and --profile: got {got}")
    stored = options.out / "recipe.json"
    if options.config is not None:
        recipe = Recipe.load(options.config)
    elif options.resume and not named and stored.is_file():
        recipe = Recipe.load(stored)
    else:
        recipe = preset(options.preset or options.profile or "quick")
    changes = {}
    for section, cls in SECTIONS.items():
        for f in dataclasses.fields(cls):
            value = getattr(options, f.name)
            if value is not None:
                changes.setdefault(section, {})[f.name] = value
    return recipe.changed(changes)


def main(argv=None):
    """Run the command; 0 when the model is written, 130 after Ctrl-C, 2 for bad input."""
    argv = sys.argv[1:] if argv is None else argv
    options = parser().parse_args(argv)
    from llmbook.provenance import command_line
    from llmbook.training.checkpoint import CheckpointNotWritten, check_there_is_a_run
    from llmbook.training.loop import Interrupted, TrainingDiverged

    command = command_line("train", *argv)
    try:
        if options.resume:
            check_there_is_a_run(options.out)
        recipe = recipe_of(options)
        with warnings.catch_warnings():
            warnings.showwarning = _say_warning
            run(recipe, options, command)
    except Interrupted as stop:
        again = command if options.resume else f"{command} --resume"
        print(f"\n{stop}\nresume with: {again}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, TrainingDiverged, CheckpointNotWritten, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(recipe, options, command):
    """Read the text, build the model, train it, write its folder; returns the `History`."""
    import torch

    from llmbook.data.folders import write_json
    from llmbook.data.packing import Windows
    from llmbook.models.gpt import GPT
    from llmbook.training import card, distributed
    from llmbook.training.evaluate import sample_text, validation_loss
    from llmbook.training.log import Log
    from llmbook.training.loop import train
    from llmbook.training.text import read_text

    if options.threads:
        torch.set_num_threads(options.threads)
    with distributed.process_group(options.device) as (world, device):
        say = print if world.first and not options.quiet else _silent
        config = recipe.training
        if config.batch_size % world.size:
            raise ValueError(
                f"the number of processes must divide batch_size: got batch_size="
                f"{config.batch_size} and {world.size} processes"
            )
        text = read_text(recipe.data)
        torch.manual_seed(config.seed)
        model = GPT(recipe.model.gpt(text.vocab_size, text.end_of_text)).to(device)
        windows = Windows(text.train, recipe.model.max_len, config.seed)
        say(_summary(model, text, windows, recipe, device, world))
        if world.first:
            options.out.mkdir(parents=True, exist_ok=True)
            if not options.resume or not (options.out / "recipe.json").is_file():
                write_json(options.out / "recipe.json", recipe.to_dict())
        log = Log(
            options.out if world.first else None,
            progress=world.first and not options.quiet,
            tensorboard=options.tensorboard and world.first,
        )
        length = recipe.model.max_len
        begin = text.end_of_text
        prompt = text.validation[:1].tolist() if begin is None else [begin]
        history = train(
            model,
            lambda step: windows.batch(step, config.batch_size, world.rank, world.size),
            config,
            evaluate=lambda m: validation_loss(
                m,
                text.validation,
                length,
                windows=config.evaluate_windows,
                precision=config.precision,
            ),
            sample=lambda m: sample_text(m, text.tokenizer, prompt, 80),
            folder=options.out,
            resume=options.resume,
            log=log,
            fingerprint=text.fingerprint,
        )
        made = card.Made(recipe, history, command, device)
        card.write_model(options.out / "model", model, text, made, world, say)
        return history


def _say_warning(message, *_, **__):
    print(f"note: {message}", file=sys.stderr, flush=True)


def _silent(*_):
    """Print nothing."""


def _summary(model, text, windows, recipe, device, world):
    """What is about to be trained, on what, in a few lines."""
    from llmbook.device import describe
    from llmbook.training.precision import Precision

    config = recipe.training
    tokens = config.batch_size * recipe.model.max_len
    reason = Precision.choose(device, config.precision).reason
    processes = f", {world.size} processes" if world.size > 1 else ""
    return (
        f"{model.n_parameters:,} parameters, vocabulary {text.vocab_size:,}\n"
        f"{len(text.train):,} tokens to train on, {len(text.validation):,} to validate\n"
        f"{config.steps:,} steps of {tokens:,} tokens: "
        f"{config.steps * config.batch_size / len(windows):.2f} epochs\n"
        f"{describe(device)}{processes}; {reason}"
    )
