"""Every run of the outlook's record: `python -m llmbook record outlook`.

The captioner that stands in the page is trained first and written to `llmbook/weights/outlook`.
Every run is a function of its key, so that a killed recording goes on with the next key.
"""

from llmbook.experiments.outlook import diffusion, hybrids, pictures, retrieval
from llmbook.experiments.record import RECORDED, recorded

OUT, GOES_ON = RECORDED / "outlook_runs.json", True
SEEDS = (1, 2, 3, 4, 5)


def points():
    """Every run of the record: (part, key, function and arguments)."""
    yield "caption", "1", (pictures.caption_run, 1)
    for seed in SEEDS:
        yield "contrast", f"{seed}", (pictures.contrast_run, seed)
        yield "retrieval", f"{seed}", (retrieval.retrieval_run, seed)
        for arm in diffusion.ARMS:
            yield "diffusion", f"{arm}/{seed}", (diffusion.diffusion_run, arm, seed)
        for how in pictures.FUSIONS:
            yield "fusion", f"{how}/{seed}", (pictures.fusion_run, how, seed)
    for arm in hybrids.ARMS:
        for seed in SEEDS:
            yield "hybrids", f"{arm}/{seed}", (hybrids.hybrid_run, arm, seed)


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


def by_arm(part):
    """{arm: [found of each seed]} of a part of the record."""
    arms = {}
    for key, found in recorded_runs().get(part, {}).items():
        arms.setdefault(key.rpartition("/")[0], []).append(found)
    return arms


def run(options, record):
    """Make every run that the record lacks, writing it after each."""

    def keep(part, key, found):
        if not isinstance(found, tuple):
            return found
        if part == "caption":
            pictures.ship(found[1])
        return found[0]  # the numbers, without the model

    record.make_missing(points(), keep)
