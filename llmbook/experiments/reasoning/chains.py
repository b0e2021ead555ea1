"""Models that follow chains: one base a seed, its exam, and learning from a reward."""

import copy
import functools
import statistics

import torch

from llmbook.alignment.grpo import GRPO, GRPOConfig
from llmbook.alignment.rollouts import roll_out
from llmbook.experiments import hops
from llmbook.experiments.reasoning.judges import (
    REWARDS,
    judged,
    mentioned,
    pass_at_k,
    right,
    sound,
)
from llmbook.experiments.reasoning.learning import by_reward, curves
from llmbook.seeds import generator
from llmbook.training import Log

SEEDS = (1, 2, 3, 4, 5)
BASE_STEPS, RL_STEPS, PROMPTS, GROUP, RATE = 800, 60, 8, 8, 5e-4
FORM_PASSES, FORM_STEPS = 4, 60  # where forms are compared: updates a sample, updates in all
ASKED = (5, 6, 7, 8)  # steps that the questions of RL and of its exam ask for
EXAM, SAMPLES = 100, 64  # questions, answers each


# --- one base model a seed, its exam


@functools.lru_cache(maxsize=len(SEEDS))
def base_model(seed, steps=BASE_STEPS):
    """The model that has seen demonstrations of mixed quality; treat it as read-only."""
    return hops.fit("mixed", seed, steps)[0]


def exam(style="free", n=EXAM, asked=ASKED):
    """The held-out questions: prompts, lists of ids."""
    questions, _, _ = hops.rings(n, generator(0, "exam"), asked)
    return hops.prompts_of(questions, style).tolist()


def sampled(model, style="free", n=EXAM, samples=SAMPLES, asked=ASKED):
    """Answers to the exam, at temperature 1."""
    return roll_out(
        model, exam(style, n, asked), samples, max_new_tokens=hops.LONGEST, seed=generator(0, "a")
    )


def standing(model, n=EXAM, samples=SAMPLES):
    """What a model makes of the exam: shares, and counts of right answers a question."""
    rollouts = sampled(model, n=n, samples=samples)
    good, found = {}, {}
    for name, judge in (("right", right), ("sound", sound), ("mentioned", mentioned)):
        good[name] = torch.tensor(judged(rollouts, judge)).view(n, samples)
        found[name] = good[name].mean().item()
        if name != "mentioned":
            counts = good[name].sum(-1).int().tolist()
            found[f"{name} counts"] = counts
            for k in (8, 64):
                if k <= samples:
                    found[f"{name} pass@{k}"] = sum(pass_at_k(samples, c, k) for c in counts) / n
    tokens = rollouts.lengths.float().view(n, samples)
    found["length"] = tokens.mean().item()
    found["entropy"] = -(rollouts.log_probs.sum() / rollouts.mask.sum()).item()
    return found


# --- written steps, or at once


def written_run(arm, seed, steps=hops.STEPS):
    """Train one arm; share of right answers, sampled, by the number of steps asked for."""
    model, seconds = hops.fit(arm, seed, steps)
    found = {}
    for k in range(1, hops.MOST + 1):
        found[str(k)] = statistics.fmean(
            judged(sampled(model, n=200, samples=1, asked=(k,)), right)
        )
    return {"accuracy": found, "seconds": round(seconds, 1)}


# --- learning from a reward


def train_policy(
    model,
    seed,
    reward,
    config,
    steps=RL_STEPS,
    *,
    style="free",
    make=GRPO,
    lr=RATE,
    see=None,
    log=None,
):
    """GRPO on the model, changed in place: the history of it. see(step): called before a step.

    reward: a function of prompt, answer and whether it ended. The reference: the model as it was.
    """
    reference = copy.deepcopy(model)

    def prompts_at(step):
        if see is not None:
            see(step)
        questions, _, _ = hops.rings(PROMPTS, generator(seed, "questions", step), ASKED)
        return hops.prompts_of(questions, style).tolist()

    grpo = make(
        model,
        prompts_at,
        lambda rollouts, step: judged(rollouts, reward),
        config,
        reference=reference,
        log=log or Log(progress=False),
    )
    return by_reward(grpo, steps, PROMPTS * config.group, lr)


def grpo_config(seed, form="grpo", beta=0.0, passes=1):
    """The settings of all runs here."""
    return GRPOConfig.of(
        form, group=GROUP, beta=beta, passes=passes, max_new_tokens=hops.LONGEST, seed=seed
    )


def grpo_run(reward, beta, seed, steps=RL_STEPS):
    """One run of reinforcement learning: curves, and the exam afterwards."""
    model = copy.deepcopy(base_model(seed))
    history = train_policy(
        model, seed, REWARDS[reward], grpo_config(seed, beta=beta), steps, log=Log()
    )
    noted = curves(history, ("reward", "length", "kl_answer", "entropy", "equal"))
    noted["loss"] = [round(value, 5) for value in history.losses]
    return {"after": standing(model), "curves": noted}


def form_run(form, seed, steps=FORM_STEPS, passes=FORM_PASSES):
    """One of the four forms, several updates on each sample: only there do all of them differ."""
    model = copy.deepcopy(base_model(seed))
    config = grpo_config(seed, form, passes=passes)
    history = train_policy(model, seed, right, config, steps, log=Log())
    noted = curves(history, ("reward", "length", "kl_answer", "entropy", "clipped"))
    return {"after": standing(model, n=50, samples=16), "curves": noted}


# --- eight answers to one question, through training


def samples_run(reward, seed, steps=40, every=4):
    """The same question again and again while it learns: texts, rewards, advantages, lengths."""
    model, shown = copy.deepcopy(base_model(seed)), []
    prompt = exam(n=1, asked=(6,))[0]

    def see(step):
        if step % every == 0:
            rollouts = roll_out(
                model, [prompt], GROUP, max_new_tokens=hops.LONGEST, seed=generator(0, "see", step)
            )
            shown.append(
                {
                    "step": step,
                    "texts": [hops.told(answer) for answer in rollouts.answers],
                    "rewards": judged(rollouts, REWARDS[reward]),
                    "right": judged(rollouts, right),
                    "ended": rollouts.ended.tolist(),
                }
            )

    train_policy(model, seed, REWARDS[reward], grpo_config(seed), steps + 1, see=see)
    path = " ".join(hops.NAMES[i] for i in hops.solution(prompt)[1])
    question = {"start": hops.NAMES[prompt[-1]], "k": prompt[-2] - hops.COUNT, "path": path}
    return {"question": question, "steps": shown}
