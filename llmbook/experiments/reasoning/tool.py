"""A tool: a token after which the environment writes, its result masked or learned from."""

import copy
import dataclasses
import statistics

import torch

from llmbook.alignment.grpo import GRPO
from llmbook.alignment.rollouts import Rollouts
from llmbook.decoding.generate import evaluating
from llmbook.experiments import hops
from llmbook.experiments.reasoning.chains import (
    RL_STEPS,
    base_model,
    exam,
    grpo_config,
    train_policy,
)
from llmbook.experiments.reasoning.judges import judged, right
from llmbook.experiments.reasoning.learning import curves
from llmbook.losses import IGNORED
from llmbook.seeds import generator
from llmbook.training import Log

TIGHT = 6  # tokens, the end among them, that an answer with a tool may have


def roll_out_with_tool(model, prompts, n, *, max_new_tokens, seed, masked=True):
    """`roll_out` in which the environment answers each call with the symbol JUMP steps on.

    What it writes is read by the model and, when masked, no target: log-probability 0, IGNORED.
    Without `masked` it counts as if the model had written it.
    """
    g, rows = generator(*seed), torch.tensor(prompts).repeat_interleave(n, 0)
    ids, alive = rows, torch.ones(len(rows), dtype=torch.bool)
    targets, nats, seen = [], [], []
    here, called = rows[:, -1], torch.zeros(len(rows), dtype=torch.bool)
    with torch.no_grad(), evaluating(model):
        for _ in range(max_new_tokens):
            if not alive.any():
                break
            log_p = model(ids)[:, -1].log_softmax(-1)
            token = torch.multinomial(log_p.exp(), 1, generator=g)[:, 0]
            jump = here
            for _ in range(hops.JUMP):
                jump = rows.gather(1, jump[:, None])[:, 0]
            token = torch.where(called, jump, token)
            counts = alive & ~called if masked else alive
            nats.append(log_p.gather(1, token[:, None])[:, 0] * counts)
            targets.append(torch.where(counts, token, IGNORED))
            seen.append(alive)
            here = torch.where(alive & (token < hops.SYMBOLS), token, here)
            called = alive & (token == hops.CALL) & ~called
            ids = torch.cat([ids, torch.where(alive, token, 0)[:, None]], 1)
            alive = alive & (token != hops.END)
    mask = torch.cat([torch.ones_like(rows, dtype=torch.bool), torch.stack(seen, 1)[:, :-1]], 1)
    return WithTool(
        ids[:, :-1], mask, torch.stack(targets, 1), torch.stack(nats, 1), ~alive, n, ids
    )


class WithTool(Rollouts):
    """Rollouts whose answers have tokens of the environment's in between."""

    def __init__(self, *fields):
        super().__init__(*fields[:-1])
        object.__setattr__(self, "text", fields[-1])

    @property
    def prompts(self):
        return self.text[:, : hops.PROMPT].tolist()

    @property
    def answers(self):
        """All that stands after the prompt, before the end token."""
        rows = self.text[:, hops.PROMPT :].tolist()
        return [row[: row.index(hops.END)] if hops.END in row else row for row in rows]


class ToolGRPO(GRPO):
    """GRPO that samples with the tool at hand."""

    masked = True

    def sample(self, step):
        return roll_out_with_tool(
            self.model,
            self.prompts_at(step),
            self.config.group,
            max_new_tokens=self.config.max_new_tokens,
            seed=(self.config.seed, "tool", step),
            masked=self.masked,
        )


class UnmaskedToolGRPO(ToolGRPO):
    """The mistake: it learns from what the environment wrote, too."""

    masked = False


def tool_run(masked, seed, steps=RL_STEPS):
    """Reward right answers of at most TIGHT tokens: too few for steps alone, enough with calls.

    guess: the probability that the model itself gives to what a call will return.
    """
    model = copy.deepcopy(base_model(seed))
    found = {"before": tool_standing(model)}
    make = ToolGRPO if masked else UnmaskedToolGRPO
    config = dataclasses.replace(grpo_config(seed), max_new_tokens=TIGHT)
    history = train_policy(model, seed, right, config, steps, style="tool", make=make, log=Log())
    found["after"] = tool_standing(model)
    found["curves"] = curves(history, ("reward", "length", "kl_answer"))
    return found


def tool_standing(model, n=200, samples=4):
    """Right answers, share with a call, tokens written by the model itself, and `guess`."""
    rollouts = roll_out_with_tool(
        model, exam("tool", n), samples, max_new_tokens=TIGHT, seed=(0, "a"), masked=False
    )
    calls = torch.tensor([answer.count(hops.CALL) for answer in rollouts.answers])
    theirs = rollouts.text[:, hops.PROMPT - 1 : -1] == hops.CALL
    theirs = theirs & rollouts.mask
    own = rollouts.mask.sum(-1) - theirs.sum(-1)
    return {
        "right": statistics.fmean(judged(rollouts, right)),
        "with a call": (calls > 0).double().mean().item(),
        "own tokens": own.double().mean().item(),
        "guess": rollouts.log_probs[theirs].exp().mean().item() if theirs.any() else None,
    }
