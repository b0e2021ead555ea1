"""The small GPT that comes with the book: the preset "small" of `python -m llmbook train`.

OUT/model is what lies in the package as weights/small: config.json, model.safetensors in float16,
tokenizer.json and card.json.
"""

from pathlib import Path

OUT = Path("runs/small")


def add_arguments(parser):
    """How far, and whether to go on."""
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--steps", type=int, help="fewer than the preset's, to try it out")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def run(options, record):
    """Train it; the model's card is its record."""
    from llmbook.training import command
    from llmbook.training.checkpoint import check_there_is_a_run

    argv = ["--preset", "small", "--out", str(options.out), "--device", str(options.device)]
    argv += ["--seed", str(options.seed), "--threads", str(options.threads)]
    argv += [] if options.steps is None else ["--steps", str(options.steps)]
    if options.resume:
        check_there_is_a_run(options.out)
        argv += ["--resume"]
    training = command.parser().parse_args(argv)
    command.run(command.recipe_of(training), training, record.about()["command"])
