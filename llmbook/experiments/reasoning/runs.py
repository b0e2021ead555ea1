"""The record of all runs: `python -m llmbook record reasoning`.

Every run is a function of its key, so that a killed recording goes on with the next key.
"""

from llmbook.alignment.grpo import FORMS
from llmbook.experiments import hops
from llmbook.experiments.reasoning import chat
from llmbook.experiments.reasoning.chains import (
    SEEDS,
    base_model,
    form_run,
    grpo_run,
    samples_run,
    standing,
    written_run,
)
from llmbook.experiments.reasoning.judges import REWARDS
from llmbook.experiments.reasoning.spend import spend_run
from llmbook.experiments.reasoning.tool import tool_run
from llmbook.experiments.record import RECORDED, recorded

OUT, GOES_ON = RECORDED / "reasoning_runs.json", True


def points():
    """Every run of the record: (part, key, function and arguments)."""
    yield "chat", "before/0", (chat.before,)
    for seed in SEEDS:
        for arm in chat.ARMS:
            yield "chat", f"{arm}/{seed}", (chat.chat_run, arm, seed)
    for seed in SEEDS:
        yield "base", f"{seed}", (lambda seed: standing(base_model(seed)), seed)
        for reward in REWARDS:
            for beta in (0.0, 0.1):
                yield "grpo", f"{reward}/{beta:g}/{seed}", (grpo_run, reward, beta, seed)
        for form in FORMS:
            yield "forms", f"{form}/{seed}", (form_run, form, seed)
        for how in ("masked", "unmasked"):
            yield "tool", f"{how}/{seed}", (tool_run, how == "masked", seed)
        yield "spend", f"{seed}", (spend_run, seed)
        for arm in hops.ARMS:
            yield "written", f"{arm}/{seed}", (written_run, arm, seed)
    for reward in REWARDS:
        yield "samples", reward, (samples_run, reward, SEEDS[0])


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    record.make_missing(points(), tell=lambda found: str(found)[:150])
