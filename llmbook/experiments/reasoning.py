"""What written steps, more samples and a verifiable reward are worth, on chains of symbols.

    written   answers at once, in dots, in written steps: the same training, two layers
    spend     64 answers a question: pass@k, majority, best of n with four verifiers
    grpo      rewards right and sloppy, with KL and without, four forms: before and after
    tool      a call that jumps four steps, its result masked or learned from
    samples   eight answers to one question, step by step through two of the runs

Every run is a function of its key, so that a killed recording goes on with the next key.
`python -m llmbook record reasoning` records all of it: ten minutes of one core.
"""

import copy
import dataclasses
import functools
import math

import torch

from llmbook import checks
from llmbook.alignment.grpo import GRPO, GRPOConfig
from llmbook.alignment.rollouts import Rollouts, roll_out
from llmbook.decoding.generate import evaluating
from llmbook.experiments import hops
from llmbook.experiments.record import RECORDED, recorded
from llmbook.losses import IGNORED
from llmbook.seeds import generator
from llmbook.training import Log, TrainConfig, train

SEEDS = (1, 2, 3, 4, 5)
BASE_STEPS, RL_STEPS, PROMPTS, GROUP, RATE = 800, 60, 8, 8, 5e-4
TIGHT = 6  # tokens, the end among them, that an answer with a tool may have
ASKED = (5, 6, 7, 8)  # steps that the questions of RL and of its exam ask for
EXAM, SAMPLES = 100, 64  # questions, answers each
OUT, GOES_ON = RECORDED / "reasoning_runs.json", True

# --- what an answer is worth: rewards are functions of rollouts and the step


def right(prompt, answer, ended=True):
    """Did the answer end, with the right symbol last?"""
    return bool(ended) and hops.answer_of(answer) == hops.solution(prompt)[0]


def sound(prompt, answer, ended=True):
    """Right, and every step to it written and right: no guess."""
    return bool(ended) and answer == hops.solution(prompt)[1]


def mentioned(prompt, answer, ended=True):
    """Does the right symbol stand anywhere in the text? A sloppy verifier."""
    return hops.solution(prompt)[0] in answer


def judged(rollouts, judge):
    """A number for each answer, 1.0 or 0.0."""
    rows = zip(rollouts.prompts, rollouts.answers, rollouts.ended.tolist(), strict=True)
    return [float(judge(*row)) for row in rows]


REWARDS = {"exact": right, "sloppy": mentioned}


# --- how several answers are used


def pass_at_k(n, c, k):
    """P(at least one of k is right), unbiased, from c right ones among n: 1 − C(n−c, k) / C(n, k).

    Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n. Source: Chen et al. 2021.
    """
    checks.whole("n", n, least=1)
    checks.whole("c", c, least=0, most=n)
    checks.whole("k", k, least=1, most=n)
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def majority(answers):
    """The most frequent answer, the earliest of equals; None counts as no vote."""
    votes = [a for a in answers if a is not None]
    return max(votes, key=lambda a: (votes.count(a), -votes.index(a))) if votes else None


def best_of(scores):
    """The place of the highest score, the first of equals."""
    return max(range(len(scores)), key=lambda i: (scores[i], -i))


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
        found[str(k)] = _mean(judged(sampled(model, n=200, samples=1, asked=(k,)), right))
    return {"accuracy": found, "seconds": round(seconds, 1)}


# --- more samples, or more thinking

SPENT = (1, 2, 4, 8, 16, 32, 64)
VERIFIERS = ("checks every step", "right symbol mentioned", "its own likelihood", "the longest")


def spend_run(seed, steps=BASE_STEPS, n=EXAM, draws=8):
    """For each style, what 1 to 64 answers a question come to, by what chooses among them."""
    model, found = base_model(seed, steps), {}
    for style in ("once", "steps", "free"):
        rollouts = sampled(model, style, n)
        good = torch.tensor(judged(rollouts, right)).view(n, SAMPLES)
        answers = [
            hops.answer_of(a) if e else None
            for a, e in zip(rollouts.answers, rollouts.ended.tolist(), strict=True)
        ]
        scores = {
            "checks every step": judged(rollouts, sound),
            "right symbol mentioned": judged(rollouts, mentioned),
            "its own likelihood": (rollouts.log_probs.sum(-1) / rollouts.lengths).tolist(),
            "the longest": rollouts.lengths.tolist(),
        }
        counts = good.sum(-1).int().tolist()
        part = {
            "counts": counts,
            "tokens": rollouts.lengths.float().mean().item(),
            "votes": _votes(answers, good),
            "pass": [sum(pass_at_k(SAMPLES, c, k) for c in counts) / n for k in SPENT],
        }
        for name in ("majority", *VERIFIERS):
            part[name] = [
                _chosen(name, k, answers, scores, good, generator(seed, "draws", k), draws)
                for k in SPENT
            ]
        found[style] = part
    return found


def _votes(answers, good, draws=8):
    """Votes of n of the second 32 answers, by whether the right one led among the first 32.

    {"leads", "trails": {"questions": how many, "right": shares for n = 1, 3, 7, 15, 31}}.
    """
    half, found = SAMPLES // 2, {}
    led = []
    for question, row in enumerate(good):
        mine = answers[question * SAMPLES :][:half]
        best = majority(mine)
        led.append(best is not None and bool(row[mine.index(best)]))
    for name, wanted in (("leads", True), ("trails", False)):
        chosen, shares = [q for q, yes in enumerate(led) if yes == wanted], []
        for k in (1, 3, 7, 15, 31):
            gen, wins = generator(0, "votes", k), 0.0
            for question in chosen:
                row, mine = good[question, half:], answers[question * SAMPLES :][half:SAMPLES]
                for _ in range(draws):
                    taken = torch.randperm(half, generator=gen)[:k].tolist()
                    best = majority([mine[i] for i in taken])
                    wins += 0.0 if best is None else row[mine.index(best)].item()
            shares.append(wins / (draws * len(chosen)) if chosen else None)
        found[name] = {"questions": len(chosen), "right": shares}
    return found


def _chosen(name, k, answers, scores, good, gen, draws):
    """Share of right choices among k of the 64 answers, over draws without replacement."""
    total, n = 0.0, len(good)
    for question in range(n):
        for _ in range(draws):
            taken = torch.randperm(SAMPLES, generator=gen)[:k].tolist()
            rows = [question * SAMPLES + i for i in taken]
            if name == "majority":
                voted = majority([answers[row] for row in rows])
                place = 0 if voted is None else [answers[row] for row in rows].index(voted)
            else:
                place = best_of([scores[name][row] for row in rows])
            total += good[question, taken[place]].item()
    return total / (n * draws)


# --- learning from a reward


def learn(
    model, seed, reward, config, steps=RL_STEPS, *, style="free", make=GRPO, lr=RATE, see=None
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

    log = Log(progress=False)
    grpo = make(
        model,
        prompts_at,
        lambda rollouts, step: judged(rollouts, reward),
        config,
        reference=reference,
        log=log,
    )
    settings = TrainConfig(
        steps=steps,
        batch_size=PROMPTS * config.group,
        lr=lr,
        warmup=0,
        schedule="constant",
        weight_decay=0.0,
        evaluate_every=0,
        checkpoint_every=0,
    )
    history = train(model, grpo.batch_at, settings, loss=grpo.loss, count=grpo.count, log=log)
    model.eval()
    return history


def grpo_config(seed, form="grpo", beta=0.0):
    """The settings of all runs here."""
    return GRPOConfig.of(form, group=GROUP, beta=beta, max_new_tokens=hops.LONGEST, seed=seed)


def grpo_run(reward, beta, form, seed, steps=RL_STEPS):
    """One run of reinforcement learning: curves, and the exam before and after."""
    model = copy.deepcopy(base_model(seed))
    history = learn(model, seed, REWARDS[reward], grpo_config(seed, form, beta), steps)
    curves = {
        name: [round(value, 4) for _, value in history.noted[name]]
        for name in ("reward", "length", "kl_answer", "entropy", "equal")
    }
    curves["loss"] = [round(value, 5) for value in history.losses]
    return {"after": standing(model), "curves": curves}


# --- a tool


def roll_out_with_tool(model, prompts, n, *, max_new_tokens, seed, masked=True):
    """`roll_out` in which the environment answers each call with the symbol JUMP steps on.

    What it writes is read by the model and, when masked, no target: log-probability 0, IGNORED.
    Without `masked` it counts as if the model had written it.
    """
    dice, rows = generator(*seed), torch.tensor(prompts).repeat_interleave(n, 0)
    ids, alive = rows, torch.ones(len(rows), dtype=torch.bool)
    targets, nats, seen = [], [], []
    here, called = rows[:, -1], torch.zeros(len(rows), dtype=torch.bool)
    with torch.no_grad(), evaluating(model):
        for _ in range(max_new_tokens):
            if not alive.any():
                break
            log_p = model(ids)[:, -1].log_softmax(-1)
            token = torch.multinomial(log_p.exp(), 1, generator=dice)[:, 0]
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
    history = learn(model, seed, right, config, steps, style="tool", make=make)
    found["after"] = tool_standing(model)
    found["curves"] = {
        name: [round(value, 4) for _, value in history.noted[name]]
        for name in ("reward", "length", "kl_answer")
    }
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
        "right": _mean(judged(rollouts, right)),
        "with a call": (calls > 0).double().mean().item(),
        "own tokens": own.double().mean().item(),
        "guess": rollouts.log_probs[theirs].exp().mean().item() if theirs.any() else None,
    }


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

    learn(model, seed, REWARDS[reward], grpo_config(seed), steps + 1, see=see)
    path = " ".join(hops.NAMES[i] for i in hops.solution(prompt)[1])
    question = {"start": hops.NAMES[prompt[-1]], "k": prompt[-2] - hops.COUNT, "path": path}
    return {"question": question, "steps": shown}


# --- the record


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def points():
    """Every run of the record, the chapter's first: (part, key, function and arguments)."""
    for seed in SEEDS:
        yield "base", f"{seed}", (lambda seed: standing(base_model(seed)), seed)
        for reward, beta in (("exact", 0.0), ("sloppy", 0.0), ("sloppy", 0.1)):
            key = f"{reward}/{beta:g}/grpo/{seed}"
            yield "grpo", key, (grpo_run, reward, beta, "grpo", seed)
        yield "spend", f"{seed}", (spend_run, seed)
        for arm in ("once", "written"):
            yield "written", f"{arm}/{seed}", (written_run, arm, seed)
        if seed == SEEDS[0]:
            for reward in REWARDS:
                yield "samples", reward, (samples_run, reward, seed)
    for seed in SEEDS:
        yield "written", f"dots/{seed}", (written_run, "dots", seed)
        yield "tool", f"masked/{seed}", (tool_run, True, seed)
        yield "grpo", f"exact/0.1/grpo/{seed}", (grpo_run, "exact", 0.1, "grpo", seed)
        for form in ("dr_grpo", "dapo", "gspo"):
            yield "grpo", f"exact/0/{form}/{seed}", (grpo_run, "exact", 0.0, form, seed)
        yield "tool", f"unmasked/{seed}", (tool_run, False, seed)


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    record.make_missing(points(), tell=lambda found: str(found)[:150])
