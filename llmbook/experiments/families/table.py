"""What the encoder is worth: `python -m llmbook record families_table`, then read the JSON.

It learns what start.py names, from its pretraining and from fresh weights, five seeds each; film
reviews and names in posts where `LLMBOOK_DATA` holds them.
"""

from llmbook.data import available
from llmbook.experiments.families.models import shipped_families
from llmbook.experiments.families.start import (
    EXAMS,
    RATE,
    RATE_OF_SETS,
    SETS,
    STARTS,
    exam,
    finetune,
)
from llmbook.experiments.record import RECORDED

N_SEEDS = 5  # of each start
OUT = RECORDED / "families_table.json"


def exam_part(name):
    """steps, seed → {start: scores of five seeds} of one exam, and of counting."""

    def part(steps, seed):
        _, tokenizer, _ = shipped_families()
        task = exam(name, tokenizer)
        out = {start: [] for start in STARTS} | {"counting": round(task.counting(), 4)}
        for s in range(seed, seed + N_SEEDS):
            for start in STARTS:
                lr = RATE_OF_SETS if name in SETS else RATE[start]
                score = finetune(task, start, s, tokenizer, steps, lr)
                out[start].append(round(score, 4))
            print(f"{name}, seed {s}:", *(f"{k} {out[k][-1]:.3f}" for k in STARTS), flush=True)
        return out

    return part


# --- python -m llmbook record families_table

PARTS = {name: exam_part(name) for name in EXAMS}


def add_arguments(parser):
    """How long, and which."""
    parser.add_argument("--seed", type=int, default=0, help="of weights and order, the first one")
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning")
    parser.add_argument("--only", choices=tuple(PARTS), help="one part; the others are kept")


def run(options, record):
    """Measure every part that the data allow, or one, and write the record after each."""
    names = [name for name in PARTS if name not in SETS or available(name)]
    for name in names if options.only is None else (options.only,):
        values = PARTS[name](options.steps, options.seed)
        record.write(name, values, steps=options.steps, seed=options.seed)
