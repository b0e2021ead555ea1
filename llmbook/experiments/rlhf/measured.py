"""What a policy is worth on names never trained on: true and proxy reward, KL, variety."""

import math
import statistics

import torch

from llmbook.alignment.reward import score_rollouts
from llmbook.alignment.rollouts import reference_log_probs, roll_out
from llmbook.experiments.rlhf.rewards import sft_model
from llmbook.experiments.rlhf.world import (
    LONGEST_ANSWER,
    demonstrations,
    negative,
    texts_of,
    tokenizer,
    true_reward,
    true_rewards,
    words_of,
)
from llmbook.seeds import generator

ANSWERS = 4  # a name
BEGINNING = " Raise an"  # put into the policy's mouth


def held_out():
    """Prompts of the validation side."""
    return [prompt for prompt, _ in demonstrations("validation")]


def answers_to(prompts, policy, n, rng, room=LONGEST_ANSWER):
    """Rollouts of n answers a prompt, in parts that fit into memory."""
    part = max(1, 512 // n)
    for begin in range(0, len(prompts), part):
        yield roll_out(policy, prompts[begin : begin + part], n, max_new_tokens=room, seed=rng)


def wins(rewards, against):
    """Share of pairs of answers to one prompt that the first policy wins; equal is half.

    rewards (prompts, n), against (prompts, m).
    """
    gap = rewards[:, :, None] - against[:, None, :]
    return ((gap > 0).double() + 0.5 * (gap == 0)).mean().item()


def measure(policy, proxy, seed=0, against=None, prompts=None, n=ANSWERS):
    """What n answers a held-out name are worth on average, and their true rewards (prompts, n).

    true, proxy: rewards. kl, entropy: nats an answer; entropy_token: nats a token. length, words,
    ended, negative: of the answers. against: the true rewards of another policy's answers to the
    same prompts, for `wins`.
    """
    prompts, reference = prompts or held_out(), sft_model()
    rows, texts, rewards = [], [], []
    for rollouts in answers_to(prompts, policy, n, generator(seed, "held out")):
        texts += texts_of(rollouts)
        rewards += true_rewards(rollouts)
        ours, theirs = rollouts.log_probs.sum(-1), reference_log_probs(reference, rollouts)
        proxies, lengths = score_rollouts(proxy, rollouts), rollouts.lengths.float()
        facts = (proxies, ours - theirs.sum(-1), -ours, lengths, rollouts.ended.float())
        rows.append(torch.stack(facts))
    each = torch.cat(rows, 1).double()
    means = dict(
        zip(("proxy", "kl", "entropy", "length", "ended"), each.mean(1).tolist(), strict=True)
    )
    rewards = torch.tensor(rewards, dtype=torch.float64).view(-1, n)
    found = {
        "true": rewards.mean().item(),
        **means,
        "entropy_token": means["entropy"] / means["length"],
        "words": statistics.fmean(len(words_of(text)) for text in texts),
        "negative": statistics.fmean(map(negative, texts)),
    }
    if against is not None:
        found["wins"] = wins(rewards, against)
    found = {name: round(value, 4) for name, value in found.items()}
    found["examples"] = [
        [tokenizer().decode(prompt), texts[i * n], round(rewards[i, 0].item(), 2)]
        for i, prompt in enumerate(prompts[:6])
    ]
    return found, rewards


def prefilled(policy, seed=0, beginning=BEGINNING, prompts=None, n=ANSWERS):
    """Answers whose first words are given: their true reward, and how many are negative."""
    begun = tokenizer().encode(beginning)
    prompts = [prompt + begun for prompt in prompts or held_out()]
    rng, texts, true = generator(seed, "prefilled"), [], []
    for rollouts in answers_to(prompts, policy, n, rng, LONGEST_ANSWER - len(begun)):
        written = [beginning + text for text in texts_of(rollouts)]
        true += map(true_reward, written, rollouts.ended.tolist())
        texts += written
    return {
        "true": round(statistics.fmean(true), 4),
        "negative": round(statistics.fmean(map(negative, texts)), 4),
        "examples": texts[: 6 * n : n],
    }


def best_of(proxy, seed=0, against=None, prompts=None, n=16):
    """Best-of-k by the reward model, for k = 1, 2, 4 … of n answers a prompt.

    Lists by k of true, proxy, oracle (where the true best is taken), kl (at most
    ln k − (k − 1)/k) and, against other rewards as in `measure`, wins. All choices of k of the n
    count: the answer in place i by the proxy, from 0, is the best of C(i, k − 1) of them.
    """
    prompts, true, scored = prompts or held_out(), [], []
    for rollouts in answers_to(prompts, sft_model(), n, generator(seed, "best")):
        true += true_rewards(rollouts)
        scored.append(score_rollouts(proxy, rollouts).double())
    true = torch.tensor(true, dtype=torch.float64).view(-1, n)
    scored, order = torch.cat(scored).view(-1, n).sort(-1)
    picked, best = true.gather(1, order), true.sort(-1).values
    sizes = [k for k in (1, 2, 4, 8, 16) if k <= n]
    found = {"k": sizes, "kl": [round(math.log(k) - (k - 1) / k, 4) for k in sizes]}
    columns = {"true": picked, "proxy": scored, "oracle": best}
    if against is not None:
        gap = picked[:, :, None] - against[:, None, :]
        columns["wins"] = ((gap > 0).double() + 0.5 * (gap == 0)).mean(-1)
    for name, values in columns.items():
        found[name] = [round((values @ chances(n, k)).mean().item(), 4) for k in sizes]
    return found


def chances(n, k):
    """How likely the answer in place i of n, from the worst, is the best of k of them: (n,)."""
    ways = [math.comb(i, k - 1) / math.comb(n, k) for i in range(n)]
    return torch.tensor(ways, dtype=torch.float64)
