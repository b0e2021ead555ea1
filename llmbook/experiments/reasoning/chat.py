"""GRPO from `small-chat`, on questions that it mostly fails: an exact answer is worth 1.

TASKS were fixed before the runs: two graded kinds, each at the first level at which the model's
card has it under 40%. Both ask for longer texts than tuning did; in a trial of sixty updates sums
and hops gained nothing. Three arms on the same prompts, steps and rate:

    reward      1 for an exact answer that ended, else 0
    shuffled    the same rewards, dealt anew among the answers to each prompt
    shown       no reward: supervised tuning on the right answers to the same prompts
"""

import functools

import torch

from llmbook import checks
from llmbook.alignment import sft
from llmbook.alignment.chat import prompt_ids
from llmbook.alignment.collapse import Collapsed
from llmbook.alignment.grpo import GRPO, GRPOConfig
from llmbook.alignment.rollouts import roll_out
from llmbook.data.verifiable import SEEN, examples
from llmbook.evaluation import evaluate, questions
from llmbook.experiments.reasoning.learning import by_reward, constant, curves
from llmbook.models import load
from llmbook.models.pretrained import SHIPPED
from llmbook.seeds import generator
from llmbook.tokenization import BPETokenizer
from llmbook.training import Log, train

TASKS = (("mirror", 3), ("tally", 5))  # kind, level
ARMS = ("reward", "shuffled", "shown")
STEPS, EACH, GROUP, RATE = 24, 3, 8, 3e-4  # prompts of each kind a step, answers a prompt
LONGEST = 12  # tokens of an answer, its end among them
EXAM, SAMPLES = 64, 4  # held-out questions a kind, sampled answers to each


@functools.lru_cache(maxsize=1)
def its_tokenizer():
    """small-chat's."""
    return BPETokenizer.load(SHIPPED / "small-chat")


def lessons(seed, steps=STEPS):
    """The questions of each step: lists of `Example`s, EACH of every kind."""
    kinds = [examples(kind, steps * EACH, seed=seed, level=level) for kind, level in TASKS]
    return [
        [example for kind in kinds for example in kind[step * EACH : (step + 1) * EACH]]
        for step in range(steps)
    ]


def asked_as(shown):
    """Prompts of examples, as lists of ids."""
    return [prompt_ids(its_tokenizer(), example.messages[:1]) for example in shown]


def exact(rollouts, shown):
    """1.0 for each answer that is its example's and ended, else 0.0; shown: one a prompt."""
    rows = zip(rollouts.answers, rollouts.ended.tolist(), strict=True)
    write = its_tokenizer().decode
    return [
        float(ended and shown[row // rollouts.n].check(write(ids)))
        for row, (ids, ended) in enumerate(rows)
    ]


def dealt_anew(rewards, n, seed):
    """The rewards of each group of n in a random order: as many, for no reason."""
    groups = torch.tensor(rewards).view(-1, n)
    order = torch.rand(groups.shape, generator=seed).argsort(-1)
    return groups.gather(-1, order).flatten().tolist()


def from_rewards(model, shown, seed, shuffled):
    """GRPO on the questions of each step: curves, or where and how it collapsed."""

    def reward(rollouts, step):
        given = exact(rollouts, shown[step])
        g = generator(seed, "dealt", step)
        return dealt_anew(given, rollouts.n, g) if shuffled else given

    config = GRPOConfig(group=GROUP, max_new_tokens=LONGEST, seed=seed)
    log = Log()
    grpo = GRPO(model, lambda step: asked_as(shown[step]), reward, config, log=log)
    try:
        history = by_reward(grpo, len(shown), len(shown[0]) * GROUP, RATE)
    except Collapsed as error:
        model.eval()
        return {"collapsed": str(error)}
    return curves(history, ("reward", "length", "entropy", "equal"))


def from_answers(model, shown):
    """Supervised tuning on the same questions, with their right answers: curves."""
    settings, log = constant(len(shown), len(shown[0]), RATE), Log()

    def batch_at(step):
        return sft.collate(sft.encode_examples(its_tokenizer(), shown[step]))

    history = train(model, batch_at, settings, loss=sft.sft_loss, log=log)
    model.eval()
    return {"loss": [round(value, 4) for value in history.losses]}


def standing(model, n=EXAM, samples=SAMPLES):
    """Exact greedy answers by kind, counts of right sampled ones, and what the seen kinds keep."""
    found = {}
    for kind, level in TASKS:
        asked = questions((kind,), n, level=level)
        rollouts = roll_out(
            model, asked_as(asked), samples, max_new_tokens=LONGEST, seed=generator(0, "chat")
        )
        counts = torch.tensor(exact(rollouts, asked)).view(n, samples).sum(-1)
        greedy = evaluate(model, its_tokenizer(), asked).exact()
        found[f"{kind} {level}"] = {"exact": greedy, "counts": counts.int().tolist()}
    found["seen"] = evaluate(model, its_tokenizer(), questions(SEEN, 4)).exact()
    return found


def chat_run(arm, seed, steps=STEPS):
    """One arm: curves, and what the model makes of the exam afterwards."""
    checks.one_of("arm", arm, ARMS)
    model, shown = load("small-chat"), lessons(seed, steps)
    if arm == "shown":
        found = from_answers(model, shown)
    else:
        found = from_rewards(model, shown, seed, arm == "shuffled")
    return {"after": standing(model), "curves": found}


def before():
    """small-chat itself on the exam."""
    return {"after": standing(load("small-chat"))}
