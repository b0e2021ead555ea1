"""Step 3 of RLHF: policies by DPO, online DPO, GRPO and PPO, and what each of them costs.

Like the models they start from, policies and the value network are trained in their last two
blocks. What a method costs is counted in passes of the small model over an answer: writing one,
judging it, or reading it with the reference is one each; an update is one and, backward through
two blocks of six, two thirds. What is only measured, a true reward or a divergence that no loss
reads, isn't counted. All methods get the same number of passes, so a method that reads its answers
more often sees fewer. The rates were tried with seed 101: two for PPO, one for each of the others;
nothing else was tuned.
"""

import statistics

import torch

from llmbook.alignment.collapse import Watch
from llmbook.alignment.dpo import DPO, OnlineDPO, preference_batch, with_reference
from llmbook.alignment.grpo import GRPO, GRPOConfig
from llmbook.alignment.ppo import PPO, ActorCritic, PPOConfig
from llmbook.alignment.reward import score_rollouts
from llmbook.experiments.rlhf.rewards import reward_model, sft_model, tuned
from llmbook.experiments.rlhf.world import LONGEST_ANSWER, demonstrations, true_rewards
from llmbook.seeds import generator
from llmbook.training import Log, TrainConfig, train

ROWS = 32  # answers a step
PASSES = 28 * ROWS * 14 / 3  # what a method may spend
UPDATE = 1 + 2 * 2 / 6
COST = {  # passes an answer: written, judged, read by the reference, learned from
    "dpo": 1 + UPDATE,
    "online": 1 + 1 + (1 + UPDATE) / 2,  # it learns from two answers of four
    "grpo": 1 + 1 + 1 + UPDATE,
    "ppo": 1 + 1 + 1 + 1 + 2 * (UPDATE + UPDATE),  # the critic reads too, and both learn twice
}
RATES = {"dpo": 3e-4, "online": 3e-4, "grpo": 6e-4, "ppo": 6e-4}
BETA = {"dpo": 0.1, "online": 0.1, "grpo": 0.05, "ppo": 0.05}


def steps_of(method):
    """How many batches of ROWS answers a method may read."""
    return round(PASSES / COST[method] / ROWS)


def prompts_at(step, n, seed=0):
    """n names of the training side."""
    data = demonstrations()
    rng = generator(seed, "prompts", step)
    return [data[i][0] for i in torch.randint(len(data), (n,), generator=rng).tolist()]


class Judge:
    """The reward model as a reward function, and the true reward noted beside it."""

    def __init__(self, proxy, log):
        self.proxy, self.log = proxy, log

    def __call__(self, rollouts, step):
        self.log.note(step, true=statistics.fmean(true_rewards(rollouts)))
        return score_rollouts(self.proxy, rollouts)


def settings(method, steps, lr=None):
    """How the engine trains: a constant rate after five steps."""
    return TrainConfig(
        steps=steps,
        batch_size=ROWS,
        lr=lr or RATES[method],
        warmup=5,
        weight_decay=0.0,
        schedule="constant",
        log_every=10,
        evaluate_every=0,
    )


def grpo(proxy, seed, steps=None, *, lr=None, start=None, log=None, **changes):
    """A policy by GRPO in groups of eight; the log notes proxy, true reward and KL at each step.

    start: the policy that learns, the SFT model when None; the reference is that one always.
    """
    model, log = start or tuned(sft_model()), log or Log(progress=False)
    how = {"beta": BETA["grpo"], "kl": "k3", "kl_weighted": True, "group": 8}
    config = GRPOConfig.of("grpo", **(how | changes), seed=seed, max_new_tokens=LONGEST_ANSWER)
    runner = GRPO(
        model,
        lambda step: prompts_at(step, ROWS // config.group, seed),
        Judge(proxy, log),
        config,
        reference=sft_model(),
        log=log,
        watch=Watch(max_kl=1000.0),  # how far it runs without a penalty is what is looked at
    )
    how = settings("grpo", steps or steps_of("grpo"), lr)
    return model.eval(), train(model, runner.batch_at, how, loss=runner.loss, log=log)


def ppo(proxy, seed, steps=None, *, lr=None, log=None, **changes):
    """A policy by PPO, the critic started from the reward model, two updates a batch."""
    critic = reward_model()
    tuned(critic.decoder)
    model, log = ActorCritic(tuned(sft_model()), critic), log or Log(progress=False)
    how = {"beta": BETA["ppo"], "passes": 2, "value_clip": None} | changes
    config = PPOConfig(**how, seed=seed, max_new_tokens=LONGEST_ANSWER)
    runner = PPO(
        model,
        sft_model(),
        lambda step: prompts_at(step, ROWS, seed),
        Judge(proxy, log),
        config,
        log=log,
    )
    how = settings("ppo", (steps or steps_of("ppo")) * config.passes, lr)
    history = train(model, runner.batch_at, how, loss=runner.loss, log=log, together=config.passes)
    return model.policy.eval(), history


def pairs_of(rows):
    """(prompt, chosen, rejected): the best and the worst of each prompt's answers."""
    found = []
    for prompt, answers, ranks in rows:
        best, worst = ranks.index(min(ranks)), ranks.index(max(ranks))
        found.append((prompt, answers[best], answers[worst]))
    return found


def dpo(rows, seed, steps=None, *, beta=None, lr=None, log=None):
    """A policy by DPO on the comparisons themselves: no reward model, no sampling."""
    model, reference, log = tuned(sft_model()), sft_model(), log or Log(progress=False)
    pairs = pairs_of(rows)

    def batch(step):
        rng = generator(seed, "dpo", step)
        chosen = torch.randint(len(pairs), (ROWS // 2,), generator=rng).tolist()
        columns = zip(*(pairs[i] for i in chosen), strict=True)
        return with_reference(reference, preference_batch(*columns))

    learner = DPO(beta or BETA["dpo"], log=log)
    how = settings("dpo", steps or steps_of("dpo"), lr)
    return model.eval(), train(model, batch, how, loss=learner.loss, log=log)


def online_dpo(proxy, seed, steps=None, *, beta=None, lr=None, log=None):
    """DPO on the policy's own answers, the best and the worst of four by the reward model."""
    model, log = tuned(sft_model()), log or Log(progress=False)
    runner = OnlineDPO(
        model,
        sft_model(),
        lambda step: prompts_at(step, ROWS // 4, seed),
        Judge(proxy, log),
        n=4,
        beta=beta or BETA["online"],
        seed=seed,
        log=log,
        max_new_tokens=LONGEST_ANSWER,
    )
    how = settings("online", steps or steps_of("online"), lr)
    return model.eval(), train(model, runner.batch_at, how, loss=runner.loss, log=log)


def curves(history, every=1):
    """{name: means over so many steps} of what a policy's run noted, rounded for the file."""
    found = {}
    for name, noted in history.noted.items():
        values = [float(value) for _, value in noted]
        ends = range(0, len(values) - every + 1, every)
        found[name] = [round(statistics.fmean(values[i : i + every]), 3) for i in ends]
    return found
