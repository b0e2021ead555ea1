"""The alignment race: a GRPO iteration and a DPO update against trl's trainers, from one model.

A GRPO iteration is prompts to answers of a forced length, a reward of each answer's text, one
update: β is 0, float32, no dropout, nothing logged or saved; the start of trl's trainer is left
out. After the race each side is timed once more in its three parts. trl's answers are kept from
ending by `min_new_tokens`, ours by a model without an end token. Beside it: how fast rollouts
come, against greedy decoding of as many tokens, which samples nothing and keeps no probabilities.
A DPO update is the reference's reading of the pairs, forward, backward, clipping and AdamW.
trl is an extra: `pip install llmbook[oracles]`.

The gates: the gradients of every matrix, by one batch, against ours in float64; the log
probabilities that rollouts keep, against a pass over the whole answers in float64.
"""

import dataclasses

import torch

from llmbook.alignment.dpo import DPO, preference_batch, with_reference
from llmbook.alignment.grpo import GRPO, GRPOConfig
from llmbook.alignment.rollouts import pad_left, reference_log_probs, roll_out
from llmbook.bench.memory import Peak, in_fresh_process
from llmbook.bench.race import relative_error, run_pair
from llmbook.bench.sft import gradient_of, load_double, their_gradient
from llmbook.bench.trl_peer import (
    Clock,
    Size,
    TheirDPOUpdate,
    TheirIteration,
    preference,
    preferences,
    questions,
    share_of_vowels,
)
from llmbook.decoding import generate
from llmbook.models import load
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.pretrained import SHIPPED
from llmbook.tokenization import BPETokenizer
from llmbook.training import TrainConfig, Update

TOLERANCE = 1e-4


SIZES = {"quick": Size(8, 4, 8, 4), "cpu": Size(32, 8, 32, 16), "gpu": Size(512, 8, 96, 128)}


def add_arguments(parser):
    """How much an iteration does."""
    parser.add_argument("--size", choices=list(SIZES), help="default: cpu; quick: quick")
    parser.add_argument(
        "--memory",
        action="store_true",
        help="no race: peak memory of GRPO and DPO, at GPT-2's smallest shape",
    )


def run(options, report):
    """The three races of one size; `report` prints and records."""
    if options.memory:
        for name, measured, what in (
            ("GRPO", peak_of_grpo, "4 answers of 32 tokens"),
            ("DPO", peak_of_dpo, "4 pairs, the reference's weights among what was there"),
        ):
            ours, theirs = (in_fresh_process(measured, side) / 2**20 for side in ("ours", "trl"))
            print(
                f"{name}, GPT-2's 124 M shape, {what}, AdamW: peak above the weights "
                f"{ours:,.0f} MiB, trl's {theirs:,.0f} MiB, {ours / theirs:.0%}"
            )
        return
    gpu = options.device.type == "cuda"
    size = SIZES[options.size or ("quick" if options.quick else "gpu" if gpu else "cpu")]
    shape = f"{size.rows} × {size.tokens}"
    report(f"rollouts, {shape}", lambda: [_rollouts(f"rollouts, {shape}", size, options)])
    report(f"GRPO iteration, {shape}", lambda: [_grpo(f"GRPO iteration, {shape}", size, options)])
    case = f"DPO update, {size.pairs} pairs"
    report(case, lambda: [_dpo(case, size, options)])


# --- what both sides get


def subject(device):
    """The small model without an end token, and its tokenizer."""
    model = load("small")
    model.config = dataclasses.replace(model.config, eos_id=None)
    return model.to(device), BPETokenizer.load(SHIPPED / "small")


def _settings(group=1):
    return TrainConfig(
        steps=10**9, schedule="constant", warmup=0, lr=1e-5, precision="float32", batch_size=group
    )


def _race(case, contestants, errors, options):
    return run_pair(
        case,
        contestants,
        errors,
        tolerance=TOLERANCE,
        device=options.device,
        repeats=options.repeats,
        warmup=options.warmup,
    )


# --- rollouts


def _rollouts(case, size, options):
    model, tokenizer = subject(options.device)
    prompts = [tokenizer.encode(text) for text in questions(size.rows // size.group, tokenizer)]
    ids, keep = pad_left([p for p in prompts for _ in range(size.group)], device=options.device)

    def ours(seed=options.seed):
        return roll_out(model, prompts, size.group, max_new_tokens=size.tokens, seed=seed)

    def greedy():
        return generate(model, ids, keep, max_new_tokens=size.tokens, eos_id=())

    rollouts = ours()
    exact = reference_log_probs(load_double(model), rollouts)
    errors = {"rollouts": relative_error([rollouts.log_probs], [exact]), "greedy": 0.0}
    return _race(case, {"rollouts": ours, "greedy": greedy}, errors, options)


# --- GRPO


class Iteration:
    """Our side: `iteration()` samples, rewards and learns once."""

    def __init__(self, model, tokenizer, size, seed=0):
        prompts = [
            tokenizer.encode(text) for text in questions(size.rows // size.group, tokenizer)
        ]
        config = GRPOConfig(group=size.group, max_new_tokens=size.tokens, seed=seed)

        def reward(rollouts, step):
            known = len(tokenizer)  # a model of GPT-2's shape has more ids: trl, too, skips these
            return share_of_vowels(
                [tokenizer.decode([i for i in a if i < known]) for a in rollouts.answers]
            )

        self.grpo = GRPO(model, lambda step: prompts, reward, config)
        self.update = Update(model.train(), _settings(size.rows), self.grpo.loss, self.grpo.count)
        self.step = 0

    def __call__(self):
        """One iteration."""
        self.update(self.grpo.batch_at(self.step))
        self.step += 1

    def parts(self):
        """Seconds of one more iteration: {"rollout", "reward", "update"}."""
        clock = Clock()
        self.grpo.sample = clock.timed("rollout", self.grpo.sample)
        self.grpo.reward = clock.timed("reward", self.grpo.reward)
        return clock.parts(self)


def _grpo(case, size, options):
    model, tokenizer = subject(options.device)
    theirs = TheirIteration(model, tokenizer, size, options.seed)
    ours = Iteration(model, tokenizer, size, options.seed)
    outcome = _race(case, {"ours": ours, "trl": theirs}, _grpo_errors(ours, theirs), options)
    for name, parts in (("ours", ours.parts()), ("trl", theirs.parts())):
        whole = sum(parts.values())
        told = ", ".join(f"{part} {seconds / whole:.0%}" for part, seconds in parts.items())
        print(f"  {name}: {told}", flush=True)
    return outcome


def _grpo_errors(ours, theirs):
    """Both gradients by the answers that trl has written, against ours in float64."""
    trainer, model = theirs.trainer, ours.update.model
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._generate_and_score_completions(theirs.rows)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1).bool()
    given = (ids[:, :-1], mask[:, :-1], batch["completion_ids"], batch["advantages"])

    def loss(own):
        old = reference_log_probs(own, _Given(given[:3]))
        return ours.grpo.loss(own, *given[:3], given[3].to(old), old, old)

    truth = gradient_of(load_double(model), loss)
    their_loss = lambda: trainer.compute_loss(theirs.model, batch)
    return {
        "ours": relative_error([gradient_of(model, loss)], [truth]),
        "trl": relative_error([their_gradient(model, theirs.model, their_loss)], [truth]),
    }


@dataclasses.dataclass
class _Given:
    tensors: tuple

    def batch(self):
        return self.tensors


# --- DPO


class DPOUpdate:
    """Our side: `update()` reads the pairs by the reference and learns once."""

    def __init__(self, model, reference, batch, pairs):
        self.reference, self.batch, self.dpo = reference, batch, DPO(0.1)
        self.update = Update(model.train(), _settings(pairs), self.dpo.loss)

    def __call__(self):
        """One update."""
        self.update(with_reference(self.reference, self.batch))


def _dpo(case, size, options):
    model, tokenizer = subject(options.device)
    reference, _ = subject(options.device)
    theirs = TheirDPOUpdate(model, tokenizer, size.pairs, options.seed)
    ours = DPOUpdate(model, reference, theirs.pairs(), size.pairs)

    def loss(own):
        same = with_reference(reference.to(next(own.parameters())), ours.batch)
        return ours.dpo.loss(own, *same)

    truth = gradient_of(load_double(model), loss)
    errors = {
        "ours": relative_error([gradient_of(model, loss)], [truth]),
        "trl": relative_error([their_gradient(model, theirs.model, theirs.loss)], [truth]),
    }
    return _race(case, {"ours": ours, "trl": theirs}, errors, options)


# --- memory


def peak_of_grpo(side, iterations=2):
    """Bytes by which two GRPO iterations raise the peak of this process's memory."""
    model, tokenizer = _gpt2()
    work = {"ours": Iteration, "trl": TheirIteration}[side](model, tokenizer, Size(4, 4, 32, 0))
    if side == "trl":
        del model
    return _peak(work, iterations)


def peak_of_dpo(side, updates=2):
    """Bytes by which two DPO updates on four pairs raise the peak of this process's memory."""
    model, tokenizer = _gpt2()
    if side == "trl":
        work = TheirDPOUpdate(model, tokenizer, 4)
        del model
    else:
        reference, _ = _gpt2()
        columns = zip(*(preference(tokenizer, row) for row in preferences(4)), strict=True)
        work = DPOUpdate(model, reference, preference_batch(*columns), 4)
    return _peak(work, updates)


def _gpt2():
    torch.manual_seed(0)
    shape = {"max_len": 1024, "d_model": 768, "n_layers": 12, "n_heads": 12}
    model = GPT(GPTConfig(vocab_size=50257, **shape))
    return model, BPETokenizer.load(SHIPPED / "small")


def _peak(work, times):
    with Peak() as peak:
        for _ in range(times):
            work()
    return peak.bytes
