"""Fair races against the libraries people use: `python -m llmbook bench [RACE] [--help]`.

Without a name all of them are run, at sizes for two cores (together.py).

One race is one file of this folder. It has `add_arguments(parser)` and `run(options, report)`, and
a line in RACES; nothing is imported before a race is asked for. How a race is run: race.py.
"""

import argparse
import importlib
import shlex
import sys

PROG = "python -m llmbook bench"

RACES = {
    "recurrent": "RNN, LSTM and GRU against torch.nn, forward and backward",
    "attention": "attention against scaled_dot_product_attention and the kernels behind it",
    "scan": "the selective scan and Mamba-2's against the public ones, forward and backward",
    "moe": "a mixture's experts against transformers', grouped_mm and a dense layer",
    "models": "a training step of GPT and BERT against transformers' of the same config",
    "training": "an update of our training loop against nanoGPT's, from a checkout you name",
    "loading": "a folder of a gigabyte read and written, against transformers",
    "sft": "a packed update of supervised fine-tuning against trl's trainer",
    "alignment": "a GRPO iteration and a DPO update against trl's trainers",
    "decoding": "greedy decoding with a cache against transformers' generate",
    "tokenization": "byte-level BPE against the tokenizers library: training and encoding",
}


def main(argv=None):
    """Run the race that argv names, or all of them when it names none (together.py).

    Returns 0, or 1 when a result was wrong: then its speed is not shown. A wrong argument exits
    with status 2 before anything is run, as argparse does.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0].startswith("-"):
        from llmbook.bench import together

        return together.main(argv, RACES, PROG)
    name, *rest = argv
    if name not in RACES:
        known = ", ".join(RACES)
        argparse.ArgumentParser(prog=PROG).error(f"RACE must be one of {known}: got {name!r}")
    parser = argparse.ArgumentParser(prog=f"{PROG} {name}", description=RACES[name])
    # The options of a race stand in its file, which is only read when it is asked for.
    race = importlib.import_module(f"{__name__}.{name}")
    from llmbook.bench.race import common_arguments, run_race

    common_arguments(parser)
    race.add_arguments(parser)
    options = parser.parse_args(rest)
    options.command = shlex.join([*parser.prog.split(), *rest])
    return run_race(race, options, parser.error)
