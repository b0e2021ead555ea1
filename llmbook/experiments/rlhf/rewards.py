"""Steps 1 and 2 of RLHF on the small GPT: demonstrations, comparisons, a reward model.

    1  demonstrations   names of functions and their documented summaries: supervised fine-tuning
    2  comparisons      K answers a name, ordered by a simulated labeller: a reward model

Both models ship: what is trained are the last two blocks and the final norm, in float16 under a
megabyte each. Step 3 is in policies.py.
"""

import dataclasses
import functools

import torch
import torch.nn.functional as F
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file

from llmbook.alignment.reward import centre, pairwise_accuracy, ranked_batch, reward_loss
from llmbook.alignment.rollouts import roll_out
from llmbook.experiments.rlhf.world import (
    END,
    LONGEST_ANSWER,
    LONGEST_PROMPT,
    demonstrations,
    labelled,
)
from llmbook.losses import IGNORED
from llmbook.models import load
from llmbook.models.heads import DecoderHead
from llmbook.models.pretrained import SHIPPED
from llmbook.seeds import generator, number
from llmbook.training import Log, TrainConfig, train

WEIGHTS = SHIPPED / "rlhf"

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


def fine_tune(steps=SFT.steps, seed=0, log=None, start="small"):
    """Step 1: a model learns to answer a name with a summary, and to stop."""
    model, config = tuned(load(start)), dataclasses.replace(SFT, steps=steps, seed=seed)
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
        for key, value in load_tensors((WEIGHTS / f"{name}.safetensors").read_bytes()).items():
            held[key].copy_(value)
    return model.requires_grad_(True).eval()


# --- step 2: comparisons

K, COMPARED = 4, 360  # answers a name; names


def comparisons(model, n=COMPARED, k=K, seed=0, split="train", skip=0, per_word=0.0):
    """Answers of a model and their ranks: a list of (prompt, k answers with their end, ranks).

    The n names come from a shuffled list, after the first `skip`; per_word: see `labelled`.
    """
    data, found = demonstrations(split), []
    rng = generator(seed, "labels")
    order = torch.randperm(len(data), generator=generator(seed, "names")).tolist()[skip : skip + n]
    for start in range(0, len(order), 24):
        prompts = [data[i][0] for i in order[start : start + 24]]
        own = generator(seed, "compared", skip + start)
        rollouts = roll_out(model, prompts, k, max_new_tokens=LONGEST_ANSWER, seed=own)
        ranks = labelled(rollouts, rng, per_word)
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


def train_reward_model(rows, start=None, seed=0, steps=REWARD.steps, log=None):
    """Step 2: a reward model from comparisons. start: the decoder, the SFT model when None."""
    torch.manual_seed(number(seed, "head"))
    model = DecoderHead(start or sft_model(), 1, std=0.02)
    if start is None:
        tuned(model.decoder)
    config = dataclasses.replace(REWARD, steps=steps, seed=seed)

    def batch(step):
        rng = generator(seed, "reward", step)
        chosen = torch.randint(len(rows), (config.batch_size,), generator=rng).tolist()
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


# --- what is recorded of them


@functools.cache
def compared(split="train"):
    """The comparisons of the recorded SFT model, without doubles and ties alone: a list."""
    return distinct(comparisons(sft_model(), split=split, seed=1))


def start_run():
    """Steps 1 and 2, whose weights ship: losses, and pairs in the right order on new names."""
    WEIGHTS.mkdir(exist_ok=True)
    model, history = fine_tune(log=Log())
    save_file(trained_part(model), WEIGHTS / "sft.safetensors")
    reward = train_reward_model(compared(), log=Log())
    centre(reward, [[*p, *a] for p, answers, _ in compared()[:60] for a in answers])
    save_file(trained_part(reward), WEIGHTS / "reward.safetensors")
    n = len(demonstrations())
    return {
        "loss": [round(x, 3) for x in history.losses[::10]],
        "demonstrations": n,
        "names compared": len(compared()),
        "accuracy": accuracy(reward_model(), compared("validation"))[0],
    }


@torch.no_grad()
def held_out_nats(model):
    """What a token of a documented summary costs, on names never trained on, in nats."""
    nats = []
    for prompt, answer in demonstrations("validation"):
        ids = torch.tensor([*prompt, *answer, END])
        logits = model(ids[None])[0, len(prompt) - 1 : -1]
        nats.append(F.cross_entropy(logits, ids[len(prompt) :], reduction="none"))
    return torch.cat(nats).mean().item()


def beginning_run(start, seed):
    """Step 1 from another model, all else equal: nats a token of new summaries."""
    model, _ = fine_tune(seed=seed, start=start)
    return {"before": held_out_nats(load(start)), "after": held_out_nats(model)}


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
    model = train_reward_model(rows, decoder, seed, steps=REWARD.steps // 3, log=Log())
    return {
        "seen": accuracy(model, rows[:60])[0],
        "new": accuracy(model, compared("validation"))[0],
    }
