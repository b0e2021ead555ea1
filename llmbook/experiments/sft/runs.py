"""The record of all runs: `python -m llmbook record sft`.

A run is a function of its key, so that a killed recording goes on with the next key.
"""

from llmbook.experiments.record import RECORDED, recorded
from llmbook.experiments.sft import kinds, lessons, real, weights
from llmbook.experiments.sft.recipe import SEEDS

OUT, GOES_ON = RECORDED / "sft_runs.json", True


def points():
    """Every run of the record: (part, key, function and arguments)."""
    for layout in kinds.LAYOUTS:
        for shots in kinds.SHOTS:
            yield "few-shot", f"{layout}/{shots}", (kinds.few_shot, layout, shots)
    yield "mixing", "base/1", (weights.untuned,)
    yield "pairs", "base/1", (real.untuned,)
    for seed in SEEDS:
        for scale in weights.SCALES:
            for rank in weights.SCALED:
                key = f"{scale} at {rank}/{seed}"
                yield "scale", key, (weights.scale_run, scale, rank, seed)
        yield "pairs", f"tuned/{seed}", (real.pairs_run, seed)
    for seed in SEEDS:
        for which in lessons.MASKS[1:]:
            yield "masks", f"{which}/{seed}", (lessons.masks_run, which, seed)
        for share in weights.SHARES:
            yield "mixing", f"{share}/{seed}", (weights.mixing_run, share, seed)
        yield "tasks", f"tuned/{seed}", (real.tasks_run, seed)
    for seed in SEEDS:
        for size in kinds.SIZES:
            yield "kinds", f"{size}/{seed}", (kinds.kinds_run, size, seed)
        for rank in (0, *weights.RANKS):
            yield "lora", f"{rank}/{seed}", (weights.lora_run, rank, seed)
        for share in lessons.MANNERS:
            yield "manner", f"{share}/{seed}", (lessons.manner_run, share, seed)
        for which in lessons.LABELS:
            yield "labels", f"{which}/{seed}", (lessons.labels_run, which, seed)


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    record.make_missing(points(), tell=lambda found: str(found)[:150])
