"""The three steps of RLHF on the small GPT, end to end, and what comes of each method.

    1  demonstrations   names of functions and their documented summaries: supervised fine-tuning
    2  comparisons      K answers a name, ordered by a simulated labeller: a reward model
    3  policies         best-of-n, DPO, online DPO, GRPO and PPO against that reward model

The labeller is made of real ratings: ten people rated each word of a list (llmbook/data/
ratings.json), and a labeller who compares two answers draws one of the ten for every word. What
all ten mean is the true reward, which a real project never has:

    true(y) = Σ mean rating of the distinct rated words, within ±5
              − repeated words − words that the documentation doesn't know
              − 3 if it doesn't end − 3 if it has fewer than three words

Every run is a function of its key, so that a killed recording goes on with the next key.
`python -m llmbook record rlhf` records all of it: half an hour of one core.
"""

import dataclasses
import functools
import json
import math
import re
import statistics
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import llmbook
from llmbook.alignment.collapse import Watch
from llmbook.alignment.dpo import DPO, OnlineDPO, preference_batch, with_reference
from llmbook.alignment.grpo import GRPO, GRPOConfig
from llmbook.alignment.ppo import PPO, ActorCritic, PPOConfig
from llmbook.alignment.reward import (
    centre,
    pairwise_accuracy,
    ranked_batch,
    reward_loss,
    score_rollouts,
)
from llmbook.alignment.rollouts import reference_log_probs, roll_out
from llmbook.data.corpus import documentation, question_answers
from llmbook.experiments.record import RECORDED, recorded
from llmbook.losses import IGNORED
from llmbook.models import load
from llmbook.models.heads import DecoderHead
from llmbook.models.pretrained import SHIPPED
from llmbook.seeds import generator, number
from llmbook.tokenization import BPETokenizer
from llmbook.training import Log, TrainConfig, train

OUT, GOES_ON = RECORDED / "rlhf_runs.json", True
WEIGHTS = SHIPPED / "rlhf"
SEEDS = (1, 2, 3, 4, 5)
LONGEST_PROMPT, LONGEST_ANSWER = 24, 32  # tokens
ROWS = 32  # answers a step
_WORD = re.compile("[a-z]+")

# --- the world: prompts, ratings, the true reward, the labeller


@functools.cache
def tokenizer():
    """The small model's."""
    return BPETokenizer.load(SHIPPED / "small")


END = 0  # <|endoftext|>


@functools.cache
def demonstrations(split="train"):
    """(prompt's ids, answer's ids) of functions and their summaries, short ones."""
    found, encode = [], tokenizer().encode
    for pair in question_answers(split, "quick"):
        prompt, answer = encode(f"{pair.name}:"), encode(" " + pair.answer)
        if len(prompt) <= LONGEST_PROMPT and len(answer) < LONGEST_ANSWER:
            found.append((prompt, answer))
    return found


@functools.cache
def ratings():
    """{word: the ratings of ten people, −4 to 4}."""
    path = Path(llmbook.__file__).parent / "data" / "ratings.json"
    return json.loads(path.read_text(encoding="utf-8"))["ratings"]


@functools.cache
def known_words():
    """The words of the documentation: what is not among them is no word here."""
    found = set()
    for document in documentation("all", "quick"):
        found.update(_WORD.findall(document.text.lower()))
    return found


def true_reward(text, ended, rate=statistics.fmean):
    """What the labellers want of an answer on average; rate: from ten ratings to one."""
    words = _WORD.findall(text.lower())
    table, known = ratings(), known_words()
    liked = sum(rate(table[word]) for word in dict.fromkeys(words) if word in table)
    long = [word for word in words if len(word) > 3]
    repeated = len(long) - len(set(long))
    strange = sum(word not in known for word in words)
    return max(-5.0, min(5.0, liked)) - repeated - strange - 3 * (not ended) - 3 * (len(words) < 3)


def texts_of(rollouts):
    """The answers as texts."""
    return [tokenizer().decode(answer) for answer in rollouts.answers]


def true_rewards(rollouts):
    """The true reward of each answer: a list."""
    return [
        true_reward(text, ended)
        for text, ended in zip(texts_of(rollouts), rollouts.ended.tolist(), strict=True)
    ]


def labelled(rollouts, dice):
    """Ranks of each prompt's n answers by one labeller a prompt, the best 0; equal is a tie.

    dice: `random.Random`-like choice over ten; a labeller draws one rating of ten for each word.
    """
    texts, ended = texts_of(rollouts), rollouts.ended.tolist()
    ranks = []
    for start in range(0, len(texts), rollouts.n):
        own = {}

        def rate(given, own=own):
            key = id(given)
            if key not in own:
                own[key] = given[int(torch.randint(10, (), generator=dice))]
            return own[key]

        group = range(start, start + rollouts.n)
        utility = [true_reward(texts[i], ended[i], rate) for i in group]
        order = sorted(set(utility), reverse=True)
        ranks.append([order.index(u) for u in utility])
    return ranks


# --- step 1: demonstrations


def tuned(model, blocks=2):
    """Only the last blocks and the final norm are trained: what ships stays below a megabyte."""
    model.requires_grad_(False)
    for part in (*model.blocks[-blocks:], model.norm):
        part.requires_grad_(True)
    return model


def trained_part(model):
    """{name: float16} of the weights that are trained."""
    return {
        name: p.detach().half().contiguous()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


SFT = TrainConfig(
    steps=300, batch_size=16, lr=1e-3, warmup=20, weight_decay=0.01, log_every=50, evaluate_every=0
)


def sft_batch(step, rows=SFT.batch_size, seed=0):
    """input_ids, targets of random demonstrations, a loss on the answers and their ends."""
    data = demonstrations()
    chosen = torch.randint(len(data), (rows,), generator=generator(seed, "sft", step)).tolist()
    ids = torch.full((rows, LONGEST_PROMPT + LONGEST_ANSWER), END)
    targets = torch.full_like(ids, IGNORED)
    for row, i in enumerate(chosen):
        prompt, answer = data[i]
        text = torch.tensor([*prompt, *answer, END])
        ids[row, : len(text)] = text
        targets[row, len(prompt) - 1 : len(text) - 1] = text[len(prompt) :]
    return ids, targets


def fine_tune(steps=SFT.steps, seed=0, log=None):
    """Step 1: the base model learns to answer a name with a summary, and to stop."""
    model, config = tuned(load("small")), dataclasses.replace(SFT, steps=steps, seed=seed)
    log = log or Log(progress=False)
    history = train(model, lambda step: sft_batch(step, seed=seed), config, log=log)
    return model.eval(), history


def sft_model():
    """The recorded SFT model: `small` with the last blocks replaced; all weights trainable."""
    return _with(load("small"), "sft")


def reward_model():
    """The recorded reward model."""
    return _with(DecoderHead(load("small"), 1), "reward")


def _with(model, name):
    held = dict(model.named_parameters())
    with torch.no_grad():
        for key, value in load_file(WEIGHTS / f"{name}.safetensors").items():
            held[key].copy_(value)
    return model.requires_grad_(True).eval()


# --- step 2: comparisons

K, COMPARED = 4, 360  # answers a name; names


def comparisons(model, n=COMPARED, k=K, seed=0, split="train"):
    """Answers of a model and their ranks: a list of (prompt, k answers with their end, ranks)."""
    data, found = demonstrations(split), []
    dice = generator(seed, "labels")
    order = torch.randperm(len(data), generator=generator(seed, "names")).tolist()[:n]
    for start in range(0, len(order), 24):
        prompts = [data[i][0] for i in order[start : start + 24]]
        dice_of = generator(seed, "compared", start)
        rollouts = roll_out(model, prompts, k, max_new_tokens=LONGEST_ANSWER, seed=dice_of)
        ranks = labelled(rollouts, dice)
        answers = [[i for i in row if i >= 0] for row in rollouts.targets.tolist()]
        for j, prompt in enumerate(prompts):
            found.append((prompt, answers[k * j : k * j + k], ranks[j]))
    return found


def distinct(rows):
    """Rows without answers that stand twice, and with a pair."""
    return [
        row
        for row in rows
        if len({tuple(a) for a in row[1]}) == len(row[1]) and len(set(row[2])) > 1
    ]


REWARD = TrainConfig(
    steps=120, batch_size=8, lr=1e-3, warmup=10, weight_decay=0.01, log_every=50, evaluate_every=0
)


def learn_reward(rows, start=None, seed=0, steps=REWARD.steps, log=None):
    """Step 2: a reward model from comparisons. start: the decoder, the SFT model when None."""
    torch.manual_seed(number(seed, "head"))
    model = DecoderHead(start or sft_model(), 1, std=0.02)
    if start is None:
        tuned(model.decoder)
    config = dataclasses.replace(REWARD, steps=steps, seed=seed)

    def batch(step):
        dice = generator(seed, "reward", step)
        chosen = torch.randint(len(rows), (config.batch_size,), generator=dice).tolist()
        return ranked_batch(*zip(*(rows[i] for i in chosen), strict=True))

    train(model, batch, config, loss=reward_loss, log=log or Log(progress=False))
    return model.eval()


def accuracy(model, rows):
    """Pairwise accuracy on comparisons, and the rewards."""
    batch = ranked_batch(*zip(*rows, strict=True))
    with torch.no_grad():
        ids, mask, ranks = batch
        k = ids.shape[1]
        every = model.at_the_end(ids.flatten(0, 1), mask.flatten(0, 1)).view(-1, k)
    return pairwise_accuracy(every, ranks), every


# --- step 3: policies


def prompts_at(step, n, seed=0):
    """n names of the training side."""
    data = demonstrations()
    dice = generator(seed, "prompts", step)
    return [data[i][0] for i in torch.randint(len(data), (n,), generator=dice).tolist()]


class Judge:
    """The reward model as a reward function, and the true reward noted beside it."""

    def __init__(self, proxy, log=None):
        self.proxy, self.log = proxy, log

    def __call__(self, rollouts, step):
        if self.log is not None:
            self.log.note(step, true=statistics.fmean(true_rewards(rollouts)))
        return score_rollouts(self.proxy, rollouts)


POLICY = TrainConfig(
    steps=60,
    batch_size=ROWS,
    lr=1.5e-4,
    warmup=5,
    weight_decay=0.0,
    schedule="constant",
    log_every=10,
    evaluate_every=0,
)


def grpo(proxy, seed, steps=40, log=None, **changes):
    """A policy by GRPO; the log's notes tell of proxy, true reward and KL at each step."""
    model, log = sft_model(), log or Log(progress=False)
    group = changes.pop("group", 8)
    lr = changes.pop("lr", POLICY.lr)
    config = GRPOConfig.of("grpo", **({"beta": 0.0, "group": group} | changes), seed=seed)
    runner = GRPO(
        model,
        lambda step: prompts_at(step, ROWS // group, seed),
        Judge(proxy, log),
        config,
        reference=sft_model(),
        log=log,
        watch=Watch(max_kl=1000.0),  # how far it runs without a penalty is what is looked at
    )
    settings = dataclasses.replace(POLICY, steps=steps, lr=lr)
    history = train(
        model, runner.batch_at, settings, loss=runner.loss, log=log, together=config.passes
    )
    return model.eval(), history


def ppo(proxy, seed, steps=30, log=None, **changes):
    """A policy by PPO, the critic started from the reward model."""
    critic = reward_model()
    model, log = ActorCritic(sft_model(), critic), log or Log(progress=False)
    lr = changes.pop("lr", POLICY.lr)
    settings = {"beta": 0.05, "passes": 2, "value_clip": None} | changes
    config = PPOConfig(**settings, seed=seed, max_new_tokens=LONGEST_ANSWER)
    runner = PPO(
        model,
        sft_model(),
        lambda step: prompts_at(step, ROWS, seed),
        Judge(proxy, log),
        config,
        log=log,
    )
    steps = steps * config.passes
    settings = dataclasses.replace(POLICY, steps=steps, lr=lr)
    history = train(
        model, runner.batch_at, settings, loss=runner.loss, log=log, together=config.passes
    )
    return model.policy.eval(), history


def pairs_of(rows):
    """(prompt, chosen, rejected): the best and the worst of each prompt's answers."""
    found = []
    for prompt, answers, ranks in rows:
        best, worst = ranks.index(min(ranks)), ranks.index(max(ranks))
        found.append((prompt, answers[best], answers[worst]))
    return found


def dpo(rows, seed, steps=40, beta=0.1, lr=POLICY.lr, log=None):
    """A policy by DPO on the comparisons themselves: no reward model, no sampling."""
    model, reference, log = sft_model(), sft_model(), log or Log(progress=False)
    pairs = pairs_of(rows)

    def batch(step):
        dice = generator(seed, "dpo", step)
        chosen = torch.randint(len(pairs), (ROWS // 2,), generator=dice).tolist()
        columns = zip(*(pairs[i] for i in chosen), strict=True)
        return with_reference(reference, preference_batch(*columns))

    settings = dataclasses.replace(POLICY, steps=steps, lr=lr)
    history = train(model, batch, settings, loss=DPO(beta, log=log).loss, log=log)
    return model.eval(), history


def online_dpo(proxy, seed, steps=40, beta=0.1, lr=POLICY.lr, log=None):
    """DPO on the policy's own answers, ordered by the reward model."""
    model, log = sft_model(), log or Log(progress=False)
    runner = OnlineDPO(
        model,
        sft_model(),
        lambda step: prompts_at(step, ROWS // 4, seed),
        Judge(proxy, log),
        n=4,
        beta=beta,
        seed=seed,
        log=log,
        max_new_tokens=LONGEST_ANSWER,
    )
    settings = dataclasses.replace(POLICY, steps=steps, lr=lr)
    history = train(model, runner.batch_at, settings, loss=runner.loss, log=log)
    return model.eval(), history


# --- measured on names never trained on


def held_out(n=96):
    """Prompts of the validation side."""
    return [prompt for prompt, _ in demonstrations("validation")][:n]


def measure(policy, proxy, seed=0, against=None, prompts=None):
    """True and proxy reward, KL (nats an answer), entropy, length, win rate; on held-out names.

    against: true rewards of another policy's answers to the same prompts, a list; equal is half.
    """
    prompts = prompts or held_out()
    rollouts = roll_out(
        policy, prompts, 1, max_new_tokens=LONGEST_ANSWER, seed=generator(seed, "held out")
    )
    rewards = true_rewards(rollouts)
    theirs = reference_log_probs(sft_model(), rollouts)
    found = {
        "true": statistics.fmean(rewards),
        "proxy": score_rollouts(proxy, rollouts).mean().item(),
        "kl": (rollouts.log_probs - theirs).sum(-1).mean().item(),
        "entropy": -rollouts.log_probs.sum(-1).mean().item(),
        "length": rollouts.lengths.float().mean().item(),
        "ended": rollouts.ended.float().mean().item(),
        "negative": statistics.fmean(map(negative, texts_of(rollouts))),
    }
    if against is not None:
        won = [(a > b) + 0.5 * (a == b) for a, b in zip(rewards, against, strict=True)]
        found["wins"] = statistics.fmean(won)
    examples = list(zip(prompts[:6], texts_of(rollouts)[:6], rewards[:6], strict=True))
    found["examples"] = [[tokenizer().decode(p), text, round(r, 2)] for p, text, r in examples]
    return found, rewards


def negative(text):
    """Does a text hold a word that the ten people rate below −1 on average?"""
    table = ratings()
    return any(statistics.fmean(table[w]) < -1 for w in _WORD.findall(text.lower()) if w in table)


def best_of(n, proxy, seed=0, prompts=None):
    """Best-of-n by the reward model: true and proxy reward; its KL is at most ln n − (n − 1)/n."""
    prompts = prompts or held_out()
    rollouts = roll_out(
        sft_model(), prompts, n, max_new_tokens=LONGEST_ANSWER, seed=generator(seed, "best", n)
    )
    scored = score_rollouts(proxy, rollouts).view(-1, n)
    true = torch.tensor(true_rewards(rollouts), dtype=torch.float64).view(-1, n)
    best = scored.argmax(-1, keepdim=True)
    return {
        "true": true.gather(1, best).mean().item(),
        "proxy": scored.gather(1, best).mean().item(),
        "kl": math.log(n) - (n - 1) / n,
        "oracle": true.amax(-1).mean().item(),
    }


def curves(history, every=1):
    """{name: values} of what a policy's run noted, rounded for the file."""
    names = ("reward", "true", "kl", "kl_answer", "entropy", "length", "chosen", "rejected")
    return {
        name: [round(float(v), 3) for _, v in history.noted[name]][::every]
        for name in names
        if name in history.noted
    }


# --- the record


def recorded_runs():
    """What is recorded: {part: {key: found}}; empty where nothing is."""
    return recorded(OUT)


@functools.cache
def compared(split="train"):
    """The comparisons of the recorded SFT model, without doubles and ties alone: a list."""
    return distinct(comparisons(sft_model(), split=split, seed=1))


def start_run():
    """Steps 1 and 2, whose weights ship: losses, and pairs in the right order on new names."""
    WEIGHTS.mkdir(exist_ok=True)
    model, history = fine_tune()
    save_file(trained_part(model), WEIGHTS / "sft.safetensors")
    reward = learn_reward(compared())
    centre(reward, [[*p, *a] for p, answers, _ in compared()[:60] for a in answers])
    save_file(trained_part(reward), WEIGHTS / "reward.safetensors")
    n = len(demonstrations())
    return {
        "loss": [round(x, 3) for x in history.losses[::10]],
        "demonstrations": n,
        "names compared": len(compared()),
        "accuracy": accuracy(reward_model(), compared("validation"))[0],
    }


def reward_run(start, seed):
    """A reward model from other comparisons and another beginning: accuracy on new names."""
    rows = compared()
    if start == "fresh":
        torch.manual_seed(seed)
        decoder = load("small")
        decoder.reset_parameters()
    else:
        decoder = load("small") if start == "base" else None
        decoder = decoder if decoder is None else tuned(decoder)
    model = learn_reward(rows, decoder, seed, steps=REWARD.steps // 3)
    return {
        "seen": accuracy(model, rows[:60])[0],
        "new": accuracy(model, compared("validation"))[0],
    }


def policy_run(method, seed):
    """A policy by one method: its curves, and what it is worth on held-out names."""
    proxy = reward_model()
    _, against = measure(sft_model(), proxy, seed)
    if method in ("base", "sft"):
        model = load("small") if method == "base" else sft_model()
        return measure(model, proxy, seed + 100, against)[0]
    make = {
        "dpo": lambda: dpo(compared(), seed),
        "online": lambda: online_dpo(proxy, seed),
        "grpo": lambda: grpo(proxy, seed, beta=BETA, kl="k3", kl_weighted=True),
        "grpo, β = 0": lambda: grpo(proxy, seed),
        "ppo": lambda: ppo(proxy, seed),
    }[method]
    policy, history = make()
    return {**measure(policy, proxy, seed, against)[0], "curves": curves(history)}


def best_run(n, seed):
    """Best-of-n by the recorded reward model."""
    return best_of(n, reward_model(), seed)


BETA = 0.05
METHODS = ("base", "sft", "grpo, β = 0", "dpo", "ppo", "grpo", "online")
STARTS = ("fresh", "base", "sft")
SIZES = (1, 4, 16)  # of best-of-n


def points():
    """Every run of the record: (part, key, function and arguments)."""
    yield "start", "weights", (start_run,)
    for seed in SEEDS[:4]:
        for start in STARTS:
            yield "reward", f"{start}/{seed}", (reward_run, start, seed)
    for seed in SEEDS:
        for method in METHODS:
            yield "policy", f"{method}/{seed}", (policy_run, method, seed)
        for n in SIZES:
            yield "best", f"{n}/{seed}", (best_run, n, seed)


def run(options, record):
    """Make every run that the record lacks, writing it after each."""
    record.make_missing(
        points(), tell=lambda found: {k: v for k, v in found.items() if k != "curves"}
    )
